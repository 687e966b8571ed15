"""What a judge's name tells: whether a reward model is behind it, and whether it sees an order of the answers."""

from starling.judges import rubric
from starling.judges.several import members_named

_BY_REWARD = "reward:"
_DIGITS = 12  # of the weights' hash: enough to tell two models apart


def by_reward(model: str, weights_sha256: str) -> str:
    """The name of a reward model as judge: MODEL and the beginning of its weights' hash, as reward:rm#0a1b2c3d4e5f."""
    return f"{_BY_REWARD}{model}#{weights_sha256[:_DIGITS]}"


def is_by_reward(judge: str) -> bool:
    """Whether a judge of this name ranks by a reward model's rewards."""
    return judge.startswith(_BY_REWARD)


def reads_alone(judge: str) -> bool:
    """Whether a judge of this name, or each judge of such a panel, reads every answer by itself, in no order."""
    return all(one == rubric.NAME or is_by_reward(one) for one in members_named(judge))
