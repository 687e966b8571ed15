"""Token ids in, token ids and logprobs out: sampling from a model in this process.

Each distinct prompt runs once, however many answers it gets, and so does what several of them begin with, such as a
system prompt. Answers are decoded together in a fixed number of slots, and a finished answer makes room for the next
at once, so no step is spent on padding rows.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from os.path import commonprefix  # works on any sequences, token ids too
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import PreTrainedModel

from starling.attention import Rule
from starling.packing import Packed, Span, hidden_states, pack
from starling.sampling import sample

_SHARED_START = 8  # tokens that prompts must begin with alike to share them
_REFILL_SHARE = 4  # new prompts enter when a quarter of the slots is free: prefill is cheaper in company


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One answer that is wanted. The same request gives the same uniform numbers, whatever else is sampled."""

    prompt: tuple[int, ...]
    seed: int
    temperature: float = 1.0
    top_p: float = 1.0


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
    cache = _Slots(model, min(slots, len(requests)), max(len(r.prompt) for r in requests) + max_new_tokens)
    logits = torch.empty(0)
    while pending or cache.rows:
        free = cache.size - len(cache.rows)
        if pending and (not cache.rows or free * _REFILL_SHARE >= cache.size):
            admitted = [pending.popleft() for _ in range(min(free, len(pending)))]
            fresh = _prefill(model, cache, requests, admitted)
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


class _Slots:
    """Keys and values of the answers under way; row i of every buffer belongs to request `rows[i]`.

    Keys lie with their positions last, (layers, rows, heads, width, positions), as the product with a query reads them;
    values as they come, (layers, rows, heads, positions, width).
    """

    def __init__(self, model: PreTrainedModel, size: int, length: int) -> None:
        config = model.config
        heads = config.num_key_value_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (config.num_hidden_layers, size, heads)
        self.size = size
        self.rows: list[int] = []
        self.lengths = torch.zeros(size, dtype=torch.long, device=model.device)
        self.keys: Tensor = torch.zeros((*shape, width, length), dtype=model.dtype, device=model.device)
        self.values: Tensor = torch.zeros((*shape, length, width), dtype=model.dtype, device=model.device)

    def retain(self, keep: list[int], tokens: Tensor) -> Tensor:
        """Drop the rows that are not in `keep`, closing gaps with the last rows; returns the tokens in row order."""
        gaps = [row for row in range(len(keep)) if row not in set(keep)]
        movers = [row for row in keep if row >= len(keep)]
        order = list(range(len(keep)))
        for gap, mover in zip(gaps, movers, strict=True):
            used = int(self.lengths[mover])
            self.keys[:, gap, ..., :used] = self.keys[:, mover, ..., :used]
            self.values[:, gap, :, :used] = self.values[:, mover, :, :used]
            self.lengths[gap] = self.lengths[mover]
            order[gap] = mover
        self.rows = [self.rows[row] for row in order]
        return tokens[order]


@dataclass(frozen=True, slots=True)
class _Prefilling:
    """Attention of fresh prompts that also files their keys and values in the slots.

    Each entry of `places` is a span of packed positions, the slots that hold it, and where it begins in them.
    """

    packed: Packed
    cache: _Slots
    places: Sequence[tuple[Span, Sequence[int], int]]

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
        keys, values = self.cache.keys[module.layer_idx], self.cache.values[module.layer_idx]
        for (start, stop), slots, first in self.places:
            keys[slots, ..., first : first + stop - start] = key[0, :, start:stop].to(keys.dtype).transpose(-1, -2)
            values[slots, :, first : first + stop - start] = value[0, :, start:stop].to(values.dtype)
        return self.packed.attend(module, query, key, value, rule)


@dataclass(frozen=True, slots=True)
class _Decoding:
    """Attention of one new token a row to all that the row holds."""

    cache: _Slots
    length: int
    mask_B11T: Tensor

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
        rows, heads, _, width = key.shape
        keys, values = self.cache.keys[module.layer_idx, :rows], self.cache.values[module.layer_idx, :rows]
        index = torch.arange(rows, device=key.device)
        keys[index, :, :, self.cache.lengths[:rows]] = key[:, :, 0]
        values[index, :, self.cache.lengths[:rows]] = value[:, :, 0]
        mask = self.mask_B11T
        if rule.window:
            oldest = (self.cache.lengths[:rows] - rule.window)[:, None, None, None]
            mask = mask & (torch.arange(self.length, device=key.device) > oldest)
        grouped = query.view(rows, heads, -1, width)
        score = (grouped @ keys[..., : self.length]).float() * rule.scaling  # twice as fast on CPU as SDPA of one query
        if rule.softcap:
            score = rule.softcap * torch.tanh(score / rule.softcap)
        weight = score.masked_fill(~mask, -torch.inf).softmax(-1).to(values.dtype)
        out = weight @ values[:, :, : self.length]
        return out.reshape(rows, 1, -1, width)


def _prefill(model: PreTrainedModel, cache: _Slots, requests: Sequence[Request], admitted: list[int]) -> Tensor:
    """Run the admitted prompts, each distinct one and each shared beginning once; returns the logits of each
    request's first token."""
    slots_of: dict[tuple[int, ...], list[int]] = {}
    for slot, index in enumerate(admitted, len(cache.rows)):
        slots_of.setdefault(requests[index].prompt, []).append(slot)
        cache.lengths[slot] = len(requests[index].prompt)
    families = list(_shared_starts(list(slots_of)))
    packed = pack([(start, [prompt[len(start) :] for prompt in prompts]) for start, prompts in families])
    places: list[tuple[Span, Sequence[int], int]] = []
    row_of: dict[tuple[int, ...], int] = {}
    last: list[int] = []
    for block, (start, prompts) in zip(packed.blocks, families, strict=True):
        places.append((block.prompt, [slot for prompt in prompts or [start] for slot in slots_of[prompt]], 0))
        for prompt, span in zip(prompts or [start], block.answers or [block.prompt], strict=True):
            if span is not block.prompt:
                places.append((span, slots_of[prompt], len(start)))
            row_of[prompt] = len(last)
            last.append(span.stop - 1)
    hidden_TH = hidden_states(model.get_decoder(), packed, context=_Prefilling(packed, cache, places))
    logits = model.get_output_embeddings()(hidden_TH[last])
    return logits[[row_of[requests[index].prompt] for index in admitted]]


def _shared_starts(
    prompts: Sequence[tuple[int, ...]],
) -> Iterator[tuple[tuple[int, ...], list[tuple[int, ...]]]]:
    """What prompts begin with, and the prompts that do; one that shares nothing stands alone, with none after it."""
    for _, alike in groupby(sorted(prompts), key=lambda prompt: prompt[:_SHARED_START]):
        members = list(alike)
        shortest = min(map(len, members))
        start = tuple(commonprefix([prompt[: shortest - 1] for prompt in members]))
        if len(members) > 1 and len(start) >= _SHARED_START:
            yield start, members
        else:
            yield from ((prompt, []) for prompt in members)


def _decode(model: PreTrainedModel, cache: _Slots, tokens_B: Tensor) -> Tensor:
    """Logits of the next token of every row, after taking in `tokens_B`."""
    lengths = cache.lengths[: len(cache.rows)]
    longest = int(lengths.max()) + 1
    mask = torch.arange(longest, device=lengths.device) <= lengths[:, None, None, None]
    output = model.get_decoder()(
        input_ids=tokens_B[:, None].to(model.device),
        position_ids=lengths[:, None],
        use_cache=False,
        context=_Decoding(cache, longest, mask),
    )
    cache.lengths[: len(cache.rows)] += 1
    return model.get_output_embeddings()(output.last_hidden_state[:, 0])


def _uniforms(seed: int, count: int) -> list[float]:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()


def _settings(requests: Sequence[Request], rows: list[int]) -> tuple[Tensor, Tensor]:
    return (
        torch.tensor([requests[index].temperature for index in rows]),
        torch.tensor([requests[index].top_p for index in rows]),
    )
