"""Token ids in, token ids and logprobs out: sampling from a model in this process.

Each distinct prompt runs once, however many answers it gets, and so does what many of them begin with. Answers are
decoded together in a fixed number of slots, and a finished answer makes room for the next at once, so no step is spent
on padding rows.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor
from transformers.modeling_utils import PreTrainedModel

from starling import packing
from starling.beginnings import shared
from starling.packing import Span
from starling.sampling import sample
from starling.slots import Decoding, Piece, Prefilling, Slots, Store

_REFILL_SHARE = 4  # new prompts enter when a quarter of the slots is free: prefill is cheaper in company


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One answer that is wanted. The same request gives the same uniform numbers, whatever else is sampled."""

    prompt: tuple[int, ...]
    seed: int
    temperature: float = 1.0
    top_p: float = 1.0


class Sampler(Protocol):
    """Token ids in, token ids and logprobs out, wherever the policy runs; `generate` without its model."""

    def __call__(
        self,
        requests: Sequence[Request],
        *,
        max_new_tokens: int,
        stop: frozenset[int],
        on_tokens: Callable[[int], None],
    ) -> list["Sampled"]: ...


@dataclass(slots=True)
class Sampled:
    """An answer's token ids, the stop token included, and their logprobs under the sampling distribution.

    `finished` is False where the token cap came before a stop token.
    """

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finished: bool = False


def stop_ids(model: PreTrainedModel) -> frozenset[int]:
    """Every id on which the model's own generation settings say to stop."""
    eos = model.generation_config.eos_token_id
    return frozenset(eos if isinstance(eos, list) else [eos] if eos is not None else [])


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    requests: Sequence[Request],
    *,
    max_new_tokens: int,
    stop: frozenset[int],
    slots: int = 64,
    on_tokens: Callable[[int], None] = lambda count: None,
) -> list[Sampled]:
    """Sample an answer for each request, in order.

    `model` is a causal LM whose attention `packing.enable` has routed; `on_tokens` hears of each step's tokens.
    """
    answers = [Sampled() for _ in requests]
    if not requests:
        return answers
    uniform = [_uniforms(request.seed, max_new_tokens) for request in requests]
    pending = deque(sorted(range(len(requests)), key=lambda index: requests[index].prompt))  # those alike together
    length_of = shared(request.prompt for request in requests)
    beginnings: dict[tuple[int, ...], Store] = {}
    own = max(len(prompt) - length for prompt, length in length_of.items())
    cache = Slots(model, min(slots, len(requests)), own + max_new_tokens)
    logits = torch.empty(0)
    while pending or cache.rows:
        free = cache.size - len(cache.rows)
        if pending and (not cache.rows or free * _REFILL_SHARE >= cache.size):
            admitted = [pending.popleft() for _ in range(min(free, len(pending)))]
            fresh = _prefill(model, cache, [requests[index].prompt for index in admitted], length_of, beginnings)
            logits = torch.cat([logits, fresh]) if cache.rows else fresh
            cache.rows.extend(admitted)
        step = [len(answers[index].ids) for index in cache.rows]
        draw = torch.tensor([uniform[index][at] for index, at in zip(cache.rows, step, strict=True)])
        tokens, logprobs = sample(logits, draw, *_settings(requests, cache.rows))
        on_tokens(len(cache.rows))
        keep = []
        for row, (index, token, logprob) in enumerate(zip(cache.rows, tokens.tolist(), logprobs.tolist(), strict=True)):
            answer = answers[index]
            answer.ids.append(token)
            answer.logprobs.append(logprob)
            answer.finished = token in stop
            if not answer.finished and len(answer.ids) < max_new_tokens:
                keep.append(row)
        tokens = cache.retain(keep, tokens)
        if cache.rows:
            logits = _decode(model, cache, tokens)
    return answers


def _prefill(
    model: PreTrainedModel,
    slots: Slots,
    prompts: Sequence[tuple[int, ...]],
    length_of: Mapping[tuple[int, ...], int],
    beginnings: dict[tuple[int, ...], Store],
) -> Tensor:
    """Run what is new of the prompts, each distinct one once, into the next free rows; returns the logits of each
    one's first token."""
    for unused in [start for start, store in beginnings.items() if store not in slots.begins]:
        del beginnings[unused]  # prompts come in order, so it is hardly needed again
    rows_of: dict[tuple[int, ...], list[int]] = {}
    for row, prompt in enumerate(prompts, len(slots.begins)):
        start = prompt[: length_of[prompt]]
        if start and start not in beginnings:
            beginnings[start] = Store(model, 1, len(start))
            _run_pieces(model, [start], [0], [(None, beginnings[start], [0])])
        rows_of.setdefault(prompt, []).append(row)
        slots.begins.append(beginnings.get(start))
        slots.before[row], slots.lengths[row] = len(start), len(prompt) - len(start)
    firsts = [length_of[prompt] for prompt in rows_of]
    rests = [prompt[first:] for prompt, first in zip(rows_of, firsts, strict=True)]
    hidden_NH = _run_pieces(model, rests, firsts, [(slots.begins[rows[0]], slots, rows) for rows in rows_of.values()])
    logits = model.get_output_embeddings()(hidden_NH)
    number = {prompt: at for at, prompt in enumerate(rows_of)}
    return logits[[number[prompt] for prompt in prompts]]


def _run_pieces(
    model: PreTrainedModel,
    pieces: Sequence[tuple[int, ...]],
    firsts: Sequence[int],
    places: Sequence[tuple[Store | None, Store, Sequence[int]]],
) -> Tensor:
    """Run pieces that stand at positions from `firsts` on, packed; returns the hidden states of their last tokens."""
    ends = list(accumulate(map(len, pieces)))
    starts = [end - len(piece) for end, piece in zip(ends, pieces, strict=True)]
    packing.refuse_unsteady(model.config, max(map(sum, zip(map(len, pieces), firsts, strict=True))))
    spans = [Piece(Span(start, end), *place) for start, end, place in zip(starts, ends, places, strict=True)]
    output = model.get_decoder()(
        input_ids=torch.tensor([[token for piece in pieces for token in piece]], device=model.device),
        position_ids=torch.cat([torch.arange(f, f + len(p)) for p, f in zip(pieces, firsts, strict=True)])[None].to(
            model.device
        ),
        use_cache=False,
        context=Prefilling(spans),
    )
    return output.last_hidden_state[0, [end - 1 for end in ends]]


def _decode(model: PreTrainedModel, slots: Slots, tokens_B: Tensor) -> Tensor:
    """Logits of the next token of every row, after taking in `tokens_B`."""
    rows = len(slots.rows)
    output = model.get_decoder()(
        input_ids=tokens_B[:, None].to(model.device),
        position_ids=(slots.before[:rows] + slots.lengths[:rows])[:, None],
        use_cache=False,
        context=Decoding(slots),
    )
    slots.lengths[:rows] += 1
    return model.get_output_embeddings()(output.last_hidden_state[:, 0])


def _uniforms(seed: int, count: int) -> list[float]:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()


def _settings(requests: Sequence[Request], rows: list[int]) -> tuple[Tensor, Tensor]:
    return (
        torch.tensor([requests[index].temperature for index in rows]),
        torch.tensor([requests[index].top_p for index in rows]),
    )
