"""Rankings as token ids: what a reward model trains on and is tested on."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from starling import chat, packing, unusable
from starling.errors import DataError, ModelError, UsageError
from starling.models import Model
from starling.records import Ranking


@dataclass(frozen=True, slots=True)
class Example:
    """A ranking as token ids: what its conversations share, what each adds, and its ranks."""

    ranking: Ranking
    shared: Sequence[int]
    endings: Sequence[Sequence[int]]

    @property
    def pack(self) -> packing.Pack:
        """The ids as they are packed."""
        return self.shared, self.endings

    @property
    def name(self) -> str:
        """What errors call it: where the ranking was read, or its prompt."""
        return self.ranking.where or f"prompt {self.ranking.prompt_id}"

    @property
    def size(self) -> int:
        return packing.size(self.pack)

    @property
    def num_places(self) -> int:
        """Places that the ranking decides: K - 1, or those that are known where the judge named the best alone."""
        return min(self.ranking.num_placed, len(self.endings) - 1)


def examples_of(
    model: Model, rankings: Sequence[Ranking], *, too_long: str = "error", max_tokens: int = 0
) -> tuple[list[Example], list[dict[str, str]]]:
    """Tokenise the rankings; what cannot be used of them is left out and noted with the reason (`unusable.py`).

    A conversation may take `max_tokens` tokens, 0 for the model's window. What a longer one does is `too_long`: it
    is an error ("error"), its answer is left out ("drop"), or the prompt is shortened from the left for all of its
    answers ("left_prompt"); an answer for which no prompt would remain is then left out too. Answers are never cut.
    """
    limit = _limit(model, max_tokens)
    examples: list[Example] = []
    notes: list[dict[str, str]] = []
    refused: list[DataError] = []
    for whole in rankings:
        ranking, lost = unusable.cleaned(whole)
        notes += lost
        try:
            example, lost = _fitted(model.tokenizer, ranking, too_long, limit)
        except ModelError as error:
            notes.append(unusable.note(whole, "ranking", "the chat template does not write its turns", str(error)))
            continue
        except DataError as error:
            refused.append(error)
            continue
        notes += lost
        if example is not None:
            examples.append(example)
    if refused:
        others = f" (and {len(refused) - 1:,} others of {len(rankings):,} are too long)" if len(refused) > 1 else ""
        raise DataError(f"{refused[0]}{others}")
    return examples, notes


def _limit(model: Model, max_tokens: int) -> int:
    window = packing.window(model.network.config)
    if max_tokens > window:
        raise UsageError(f"fit: fit.max_tokens = {max_tokens:,} passes the model's window of {window:,} tokens")
    return max_tokens or window


def _fitted(
    tokenizer: PreTrainedTokenizerBase, whole: Ranking, too_long: str, limit: int
) -> tuple[Example | None, list[dict[str, str]]]:
    """The ranking as ids that fit into `limit` tokens, None where it decides nothing; and notes of what that took."""
    ranking = whole
    notes: list[dict[str, str]] = []
    while not (reason := unusable.why(ranking)):
        answers = [answer.answer for answer in ranking.answers]
        finished = [answer.finished for answer in ranking.answers]
        shared, endings = chat.conversation_ids(tokenizer, ranking.messages, answers, finished)
        lengths = [len(shared) + len(ending) for ending in endings]
        longest = max(lengths)
        if longest <= limit:
            if ranking.messages != whole.messages:
                notes.append(unusable.note(ranking, "prompt", "too long"))
            return Example(ranking, _compact(shared), [_compact(ending) for ending in endings]), notes
        if too_long == "error":
            raise DataError(
                f"fit: {whole.where or whole.prompt_id} takes {longest:,} tokens, fit.max_tokens (0 = the model's "
                f'window) allows {limit:,}; shorten it, or set fit.too_long to "left_prompt" or "drop"'
            )
        shorter = chat.shortened(tokenizer, ranking.messages, longest - limit) if too_long == "left_prompt" else None
        if shorter is not None:
            ranking = replace(ranking, messages=shorter)
            continue
        least = longest if too_long == "left_prompt" else limit + 1
        lost = {at for at, length in enumerate(lengths) if length >= least}
        notes += [unusable.note(ranking, "answer", "too long")] * len(lost)
        ranking = unusable.without(ranking, lost)
    return None, [*notes, unusable.note(whole, "ranking", reason)]


def ragged(reward_N: Tensor, examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards in packed order -> padded (B, K) rewards, ranks and mask."""
    sizes = [len(example.endings) for example in examples]
    width = max(sizes)
    pieces = [torch.nn.functional.pad(part, (0, width - len(part))) for part in reward_N.split(sizes)]
    ranks = [
        torch.tensor([*example.ranking.ranks, *[0.0] * (width - size)], dtype=torch.float64)  # large ranks stay apart
        for example, size in zip(examples, sizes, strict=True)
    ]
    mask_BK = torch.arange(width) < torch.tensor(sizes)[:, None]
    return torch.stack(pieces), torch.stack(ranks).to(reward_N.device), mask_BK.to(reward_N.device)


def _compact(ids: Sequence[int]) -> Sequence[int]:
    """The ids at four bytes each; a list takes eight, and as much again or more for most of its numbers."""
    return array("i", ids)
