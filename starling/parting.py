"""Over-optimisation: the reward goes on rising while the judge likes the answers less."""

from collections.abc import Mapping, Sequence
from typing import Any

from starling import paired, stats
from starling.records import Score


class Parting:
    """Compares each look with the one that the judge likes best, and counts the looks in a row that have parted.

    A look has parted where its mean reward is above that of the best look, and the judge's preference for it is lower
    by so much that a paired test over whole families shows it. Gao et al. 2022
    (arXiv:2210.10760) show both scores over the KL; that there is a test, and that it stops, is ours.
    """

    def __init__(self, families: Sequence[str]) -> None:
        self._families = families
        self._wins: Sequence[float | None] = ()
        self._reward = 0.0
        self.in_a_row = 0

    def note(self, wins: Sequence[float | None], reward: float, *, is_best: bool) -> bool:
        """Whether this look has parted; `wins` are 1, 0.5 or 0 for each answer, None where no verdict could be read."""
        if is_best:
            self._wins, self._reward, self.in_a_row = wins, reward, 0
            return False
        parted = reward > self._reward and has_fallen(self._wins, wins, self._families)
        self.in_a_row = self.in_a_row + 1 if parted else 0
        return parted

    def state_dict(self) -> dict[str, Any]:
        return {"wins": list(self._wins), "reward": self._reward, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._wins, self._reward, self.in_a_row = state["wins"], state["reward"], state["in_a_row"]


def win_rate(wins: Sequence[float | None], families: Sequence[str]) -> Score:
    """The mean over the verdicts that could be read, with its interval."""
    read = [(win, family) for win, family in zip(wins, families, strict=True) if win is not None]
    return stats.cluster_mean("win_rate", [win for win, _ in read], [family for _, family in read])


def has_fallen(before: Sequence[float | None], after: Sequence[float | None], families: Sequence[str]) -> bool:
    """Whether the paired test and the 95 % interval say so, over whole families; fewer than six can never show it."""
    read = [
        (old, new, family)
        for old, new, family in zip(before, after, families, strict=True)
        if old is not None and new is not None
    ]
    if not read:
        return False
    change = paired.compare("fall", *zip(*read, strict=True))
    return change.is_shown and change.value < 0
