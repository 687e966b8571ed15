"""What each step of tuning learns from: ranked answers in passes, then prompts to be answered."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch

from starling.device import generator
from starling.errors import DataError
from starling.records import Prompt
from starling.rollout import Group
from starling.tune_settings import TuneTable

USED = "ranked.jsonl"  # in the stage's folder: the prompts whose ranked answers are looked at
Item = TypeVar("Item")


class Curriculum:
    """The ranked answers in parts, one for each update, and the order in which parts and prompts come.

    All of it follows from the settings and the seed: a step's place is its number, so nothing has to be saved.
    """

    def __init__(self, cfg: TuneTable, seed: int, prompts: Sequence[Prompt], ranked: Sequence[Group]) -> None:
        self._cfg = cfg
        self._seed = seed
        self._prompts = prompts
        part_size = cfg.prompts_per_step // cfg.updates_per_step
        self.parts: list[Sequence[Group]] = list(chunks(ranked, part_size))
        self.num_ranked_parts = min(-(-cfg.ranked_prompts // part_size), len(self.parts))
        self.num_warm_up_parts = min(-(-cfg.warm_up_prompts // part_size), len(self.parts))
        self.num_rewarded_parts = max(self.num_ranked_parts, self.num_warm_up_parts)
        self.steps_per_epoch = -(-self.num_ranked_parts // cfg.updates_per_step)
        self.ranked_steps = cfg.ranked_epochs * self.steps_per_epoch
        self.num_steps = self.ranked_steps + cfg.steps

    def require(self, *, online: bool, rankings: int) -> None:
        """Refuse what there is nothing to learn from; `rankings` is the number there were."""
        if online and not self._prompts:
            raise DataError("tune: there are no prompts of the train split to answer; raise prompts.train")
        if not self.parts:
            raise DataError(
                f"tune: none of {rankings} rankings has two answers that say something; they fix the reward's scale, "
                "or are what is learnt from: rank more prompts"
            )
        learnt = [group for part in self.parts[: self.num_ranked_parts] for group in part]
        if not online and not any(group.num_pairs for group in learnt):
            raise DataError(
                f"tune: in none of {len(learnt)} rankings is an answer above another, so there is nothing to learn; "
                f"rank with a judge that decides, or raise tune.ranked_prompts ({self._cfg.ranked_prompts})"
            )

    def keep_best(self) -> None:
        """Leave of every ranking only the answers that are ranked first."""
        self.parts = [[group.best for group in part] for part in self.parts]

    def used(self) -> Iterator[dict[str, Any]]:
        """A row for each prompt whose ranked answers are looked at: whether before the policy moves, and to learn."""
        for index, part in enumerate(self.parts[: self.num_rewarded_parts]):
            uses = {"warm_up": index < self.num_warm_up_parts, "learnt": index < self.num_ranked_parts}
            yield from ({"prompt_id": group.prompt.id} | uses for group in part)

    def plan(self) -> str:
        """What is to come, in numbers that follow from the settings and the rankings that there are."""
        cfg = self._cfg
        ranked = [group for part in self.parts[: self.num_ranked_parts] for group in part]
        parts = []
        if ranked:
            answers = sum(len(group.answers) for group in ranked)
            parts.append(
                f"{self.ranked_steps} steps = {cfg.ranked_epochs} passes over {answers:,} ranked answers to "
                f"{len(ranked):,} prompts ({count_tokens(ranked):,} tokens)"
            )
        if cfg.steps:
            fresh = cfg.prompts_per_step * cfg.rollouts_per_prompt
            limit = f", to the one that reaches {cfg.token_budget:,}" if cfg.token_budget else ""
            parts.append(
                f"{cfg.steps} steps of {cfg.prompts_per_step} prompts x {cfg.rollouts_per_prompt} = {fresh:,} fresh "
                f"answers, <= {fresh * cfg.max_new_tokens:,} tokens each{limit}"
            )
        size = cfg.prompts_per_step // cfg.updates_per_step
        again = f", {cfg.epochs_per_step} times over fresh answers" if cfg.steps and cfg.epochs_per_step > 1 else ""
        return (
            f"{', then '.join(parts) or 'no steps'}; in a step {cfg.updates_per_step} updates of {size} prompts{again}"
            f", in microbatches of <= {cfg.microbatch_tokens:,} tokens"
        )

    def share_done(self, step: int, tokens: int) -> float:
        """How much of tuning is behind after these steps: of the steps, or of `tune.token_budget` where the fresh
        tokens so far say that it ends tuning sooner; 0 to 1."""
        steps, budget = step / self.num_steps, self._cfg.token_budget
        if not budget:
            return steps
        spent = min(tokens / budget, 1.0) * (self.num_steps - self.ranked_steps)
        return max(steps, (self.ranked_steps + spent) / self.num_steps) if tokens else steps

    def ranked_order(self, step: int) -> list[int]:
        """Which parts of the ranked answers a step learns from: each once an epoch, in an order of its own."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = torch.randperm(self.num_ranked_parts, generator=generator(self._seed, "ranked", epoch)).tolist()
        return order[place * self._cfg.updates_per_step : (place + 1) * self._cfg.updates_per_step]

    def prompts(self, step: int) -> list[Prompt]:
        """The prompts to be answered in a step after the ranked ones: drawn without replacement, in an order that is
        new in every pass over them."""
        start = (step - self.ranked_steps) * self._cfg.prompts_per_step
        chosen = []
        for index in range(start, start + self._cfg.prompts_per_step):
            epoch, place = divmod(index, len(self._prompts))
            order = torch.randperm(len(self._prompts), generator=generator(self._seed, "tune", epoch)).tolist()
            chosen.append(self._prompts[order[place]])
        return chosen

    @property
    def warm_up_tokens(self) -> int:
        """Tokens of the ranked answers looked at before the policy moves."""
        return sum(map(count_tokens, self.parts[: self.num_warm_up_parts]))

    @property
    def expected_tokens(self) -> int:
        """Tokens of all steps at most."""
        cfg = self._cfg
        a_step = cfg.prompts_per_step * cfg.rollouts_per_prompt * cfg.max_new_tokens
        fresh = cfg.steps * a_step
        ranked = cfg.ranked_epochs * sum(map(count_tokens, self.parts[: self.num_ranked_parts]))
        return ranked + (min(fresh, cfg.token_budget - 1 + a_step) if cfg.token_budget else fresh)

    def ranked_tokens_before(self, step: int) -> int:
        """Tokens of the ranked answers that the steps before this one learnt from."""
        steps = range(min(step, self.ranked_steps))
        return sum(count_tokens(self.parts[index]) for step in steps for index in self.ranked_order(step))


def chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Items in parts of `size`; the last may be smaller."""
    return (items[start : start + size] for start in range(0, len(items), size))


def count_tokens(groups: Sequence[Group]) -> int:
    """Tokens of all answers."""
    return sum(group.num_tokens for group in groups)
