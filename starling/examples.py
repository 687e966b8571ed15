"""Rankings as token ids: what a reward model trains on and is tested on."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from starling import chat, packing
from starling.errors import DataError
from starling.models import Model
from starling.records import Ranking


@dataclass(frozen=True, slots=True)
class Example:
    """A ranking as token ids: what its conversations share, what each adds, and its ranks."""

    ranking: Ranking
    shared: Sequence[int]
    endings: Sequence[Sequence[int]]

    @property
    def size(self) -> int:
        return packing.size((self.shared, self.endings))

    @property
    def num_places(self) -> int:
        """Places that the ranking decides: K - 1."""
        return len(self.endings) - 1


def examples_of(model: Model, rankings: Sequence[Ranking]) -> tuple[list[Example], list[dict[str, str]]]:
    """Tokenise the rankings; empty answers and rankings that cannot train are left out and listed with the reason."""
    examples: list[Example] = []
    unusable: list[dict[str, str]] = []
    for whole in rankings:
        ranking = _without_empty_answers(whole)
        left_out = len(whole.answers) - len(ranking.answers)
        unusable += [{"prompt_id": whole.prompt_id, "reason": "an empty answer was left out"}] * left_out
        reason = _why_unusable(ranking)
        if reason:
            unusable.append({"prompt_id": ranking.prompt_id, "reason": reason})
            continue
        answers = [answer.answer for answer in ranking.answers]
        finished = [answer.finished for answer in ranking.answers]
        shared, endings = chat.conversation_ids(model.tokenizer, ranking.messages, answers, finished)
        longest = len(shared) + max(map(len, endings))
        if longest > model.network.config.max_position_embeddings:
            window = model.network.config.max_position_embeddings
            raise DataError(
                f"fit: {ranking.prompt_id} takes {longest} tokens, the model's window is {window}; shorten it"
            )
        examples.append(Example(ranking, _compact(shared), [_compact(ending) for ending in endings]))
    return examples, unusable


def ragged(reward_N: Tensor, examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards in packed order -> padded (B, K) rewards, ranks and mask."""
    sizes = [len(example.endings) for example in examples]
    width = max(sizes)
    pieces = [torch.nn.functional.pad(part, (0, width - len(part))) for part in reward_N.split(sizes)]
    ranks = [
        torch.tensor([*example.ranking.ranks, *[0.0] * (width - size)])
        for example, size in zip(examples, sizes, strict=True)
    ]
    mask_BK = torch.arange(width) < torch.tensor(sizes)[:, None]
    return torch.stack(pieces), torch.stack(ranks).to(reward_N.device), mask_BK.to(reward_N.device)


def _compact(ids: Sequence[int]) -> Sequence[int]:
    """The ids at four bytes each; a list takes eight, and as much again or more for most of its numbers."""
    return array("i", ids)


def _without_empty_answers(ranking: Ranking) -> Ranking:
    """The ranking of the answers that say something; their ranks keep their order."""
    kept = [at for at, answer in enumerate(ranking.answers) if answer.answer.strip()]
    if len(kept) == len(ranking.answers):
        return ranking
    answers, ranks = [ranking.answers[at] for at in kept], [ranking.ranks[at] for at in kept]
    return replace(ranking, answers=answers, ranks=ranks, orders=())


def _why_unusable(ranking: Ranking) -> str:
    if len(ranking.answers) < 2:
        return "fewer than two answers"
    if len(set(ranking.ranks)) < 2:
        return "all answers are tied"
    return ""
