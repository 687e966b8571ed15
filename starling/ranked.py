"""The ranked answers that tuning looks at: rewarded once, with what the frozen parts make of them while they serve."""

from collections.abc import Callable, Sequence
from itertools import islice

from starling.curriculum import Curriculum
from starling.experience import Part
from starling.rewards import Rewards
from starling.rollout import Group

Rows = Sequence[Sequence[float]]
Gather = Callable[[Sequence[Group], Rows], Part]


class RankedAnswers:
    """A curriculum's parts by number. `rewards` is None where ranks teach and nothing is rewarded; `gather` runs the
    frozen parts of the policy over groups and their rewards.

    What the warm-up's parts make stays in memory until `let_go`, since they come again in every pass.
    """

    def __init__(self, curriculum: Curriculum, rewards: Rewards | None, gather: Gather) -> None:
        self._curriculum = curriculum
        self._rewards = rewards
        self._gather = gather
        self._kept: dict[int, Part] = {}
        self.raw: dict[int, Rows] = {}  # rewards, by the number of their part

    def reward(self, indices: Sequence[int]) -> None:
        """Reward these parts, all at once; each part only once."""
        new = [index for index in indices if index not in self.raw]
        if self._rewards is None or not new:
            return
        parts = self._curriculum.parts
        rows = iter(self._rewards([group for index in new for group in parts[index]])[0])
        self.raw |= {index: list(islice(rows, len(parts[index]))) for index in new}

    def rewards_of(self, indices: Sequence[int]) -> Rows:
        """A row for each group of these parts, which are rewarded already."""
        return [row for index in indices for row in self.raw[index]]

    def part(self, index: int) -> Part:
        """What is learnt from, with its rewards where it has any."""
        if index in self._kept:
            return self._kept[index]
        part = self._gather(self._curriculum.parts[index], self.raw.get(index, ()))
        if index < self._curriculum.num_warm_up_parts:
            self._kept[index] = part
        return part

    def let_go(self) -> None:
        """Forget all; the parts are done."""
        self._kept.clear()
        self.raw.clear()
