"""The reward's offset and scale, kept in the reward model's config.json; rewards themselves stay as they are."""

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from starling.errors import ModelError

KEY = "starling_reward_scale"


class RewardScale(NamedTuple):
    """Mean and standard deviation of the rewards of `answers` held-out answers."""

    offset: float
    scale: float
    answers: int


def store(config: Any, rewards: Sequence[Sequence[float]]) -> dict[str, float] | None:
    """Write the scale of held-out rewards into a model's config; None, and no key, where they do not vary."""
    flat = [reward for row in rewards for reward in row]
    found = None
    if all(map(math.isfinite, flat)) and len(set(flat)) > 1:
        found = RewardScale(statistics.fmean(flat), statistics.stdev(flat), len(flat))._asdict()
    if found is not None:
        setattr(config, KEY, found)
    elif hasattr(config, KEY):  # of the reward model that this one began as
        delattr(config, KEY)
    return found


def read(config: Any) -> RewardScale | None:
    """The scale in a model's config, None where there is none."""
    found = config.to_dict().get(KEY)
    if found is None:
        return None
    try:
        offset, scale, answers = (found[name] for name in RewardScale._fields)
        return RewardScale(float(offset), float(scale), int(answers))
    except (KeyError, TypeError, ValueError):
        raise ModelError(
            f"{config.name_or_path}: {KEY} in its config.json is damaged, so rewards cannot be scaled by it"
        ) from None
