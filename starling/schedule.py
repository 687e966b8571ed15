"""What comes from step to step: the learning rate, and looks."""

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


def is_look_due(every: int, step: int, before: float, after: float) -> bool:
    """Whether this step is followed by a look: every so many steps, of 0 at each quarter of the way; the last one
    always is. `before` and `after` it so much of the way is behind, 0 to 1."""
    return after >= 1 or (step % every == 0 if every else int(4 * after) > int(4 * before))


def num_looks(every: int, num_steps: int) -> int:
    """How many steps are followed by a look."""
    return -(-num_steps // every) if every else min(4, num_steps)
