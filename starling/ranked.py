"""The ranked answers that tuning looks at: rewarded once, with what the frozen parts make of them while they serve."""

from collections.abc import Callable, Sequence
from itertools import islice

import torch

from starling import progress
from starling.config import TuneTable
from starling.curriculum import Curriculum, chunks
from starling.errors import StarlingError
from starling.experience import Part, Scale, is_flat, teach_nothing_within
from starling.rewards import Rewards
from starling.rollout import Group

PARTS_AT_ONCE = 8  # that are rewarded together, between two notes of progress

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

    def scale(self, cfg: TuneTable) -> Scale:
        """Mean and standard deviation of the warm-up's rewards; refused where rewards tell no answers apart."""
        indices = range(self._curriculum.num_warm_up_parts)
        answers = sum(len(group.answers) for index in indices for group in self._curriculum.parts[index])
        with progress.track("tune", answers, "answers") as advance:
            for chosen in chunks(indices, PARTS_AT_ONCE):
                self.reward(chosen)
                advance(sum(map(len, self.rewards_of(chosen))), note="rewards of ranked answers")
        raw = [reward for row in self.rewards_of(indices) for reward in row]
        if is_flat(raw):
            raise StarlingError(
                f"tune: all {len(raw)} ranked answers looked at get the same reward; refit the reward model, or "
                "choose other tune.rewards"
            )
        flat = torch.tensor(raw)
        scale = Scale(float(flat.mean()), float(flat.std()), len(flat))
        self._require_differences(scale, cfg)
        return scale

    def _require_differences(self, scale: Scale, cfg: TuneTable) -> None:
        """Refuse rewards that tell no two answers to any prompt apart, as they are learnt from: whatever the algorithm,
        they say nothing of answers. Where the warm-up has no difference, the rest of the first pass is looked at too.
        """
        count, warm_up = self._curriculum.num_rewarded_parts, self._curriculum.num_warm_up_parts
        for chosen in (range(warm_up), *chunks(range(warm_up, count), PARTS_AT_ONCE)):
            self.reward(chosen)
            rows = self.rewards_of(chosen)
            groups = [group for index in chosen for group in self._curriculum.parts[index]]
            alone = any(len(row) == 1 for row in rows)  # such an answer has none to differ from
            if alone or not teach_nothing_within(groups, rows, scale, cfg):
                return
        every = [group for part in self._curriculum.parts[:count] for group in part]
        raise StarlingError(
            f"tune: each of {len(every)} prompts has the same reward for all its ranked answers "
            f"({sum(len(group.answers) for group in every)} in all) once it is scaled and clipped, first "
            f"{self.raw[0][0][0]:g} for prompt {every[0].prompt.id}, so that no answer is told from another; "
            "refit the reward model, choose other tune.rewards, or look at more prompts (tune.warm_up_prompts)"
        )

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
