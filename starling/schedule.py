"""The learning rate from step to step."""

import math


def share(schedule: str, step: int, num_steps: int, warmup: float) -> float:
    """The share of the peak rate that step 1 ... `num_steps` takes.

    It rises linearly over the first `warmup` of the steps. After that `constant` stays at 1; `linear` and `cosine`
    fall to 0 after the last step, which still has a rate.
    """
    rise = max(1, round(warmup * num_steps))
    if step <= rise:
        return step / rise
    left = (num_steps + 1 - step) / (num_steps + 1 - rise)
    return {"constant": 1.0, "linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2}[schedule]
