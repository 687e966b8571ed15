"""Token ids in, token ids and logprobs out: sampling from a model in this process.

Each distinct prompt runs once, however many answers it gets; answers are decoded together in a fixed number of slots,
and a finished answer makes room for the next at once, so no step is spent on padding rows.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import PreTrainedModel

from starling.packing import Packed, hidden_states, pack

_LIKELIEST = 256  # tokens looked at for top-p before the whole vocabulary is sorted, which costs more than a step
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
    pending = deque(range(len(requests)))
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


def sample(logits_BV: Tensor, uniform_B: Tensor, temperature_B: Tensor, top_p_B: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens and their logprobs by inverting the cumulative distribution at `uniform_B` in [0, 1).

    Temperature 0 takes the likeliest token with logprob 0; `top_p` keeps the likeliest tokens that reach that share.
    """
    greedy_B = temperature_B == 0
    scaled_BV = logits_BV.float() / temperature_B.masked_fill(greedy_B, 1.0)[:, None]
    prob_BV = scaled_BV.softmax(-1)
    cut_M = (top_p_B < 1).nonzero()[:, 0]
    if len(cut_M):
        prob_BV[cut_M] = _nucleus(prob_BV[cut_M], top_p_B[cut_M].to(prob_BV))
    cumulative_BV = prob_BV.cumsum(-1)
    below_one_B1 = uniform_B[:, None].to(cumulative_BV.dtype).clamp(max=1 - 2**-24)  # float32 rounds the last ones to 1
    target_B1 = below_one_B1 * cumulative_BV[:, -1:]
    token_B = torch.searchsorted(cumulative_BV, target_B1, right=True)[:, 0].clamp(max=logits_BV.shape[1] - 1)
    if greedy_B.any():
        token_B = torch.where(greedy_B, logits_BV.argmax(-1), token_B)
    logprob_B = prob_BV.gather(1, token_B[:, None])[:, 0].log() - cumulative_BV[:, -1].log()
    return token_B, logprob_B.masked_fill(greedy_B, 0.0)


class _Slots:
    """Keys and values of the answers under way; row i of every buffer belongs to request `rows[i]`."""

    def __init__(self, model: PreTrainedModel, size: int, length: int) -> None:
        config = model.config
        heads = config.num_key_value_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (config.num_hidden_layers, size, heads, length, width)
        self.size = size
        self.rows: list[int] = []
        self.lengths = torch.zeros(size, dtype=torch.long, device=model.device)
        self.keys: Tensor = torch.zeros(shape, dtype=model.dtype, device=model.device)
        self.values: Tensor = torch.zeros(shape, dtype=model.dtype, device=model.device)

    def retain(self, keep: list[int], tokens: Tensor) -> Tensor:
        """Drop the rows that are not in `keep`, closing gaps with the last rows; returns the tokens in row order."""
        gaps = [row for row in range(len(keep)) if row not in set(keep)]
        movers = [row for row in keep if row >= len(keep)]
        order = list(range(len(keep)))
        for gap, mover in zip(gaps, movers, strict=True):
            used = int(self.lengths[mover])
            self.keys[:, gap, :, :used] = self.keys[:, mover, :, :used]
            self.values[:, gap, :, :used] = self.values[:, mover, :, :used]
            self.lengths[gap] = self.lengths[mover]
            order[gap] = mover
        self.rows = [self.rows[row] for row in order]
        return tokens[order]


@dataclass(frozen=True, slots=True)
class _Prefilling:
    """Attention of fresh prompts that also files their keys and values in the slots."""

    packed: Packed
    cache: _Slots
    slots_of: Sequence[Sequence[int]]

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None
    ) -> Tensor:
        layer = module.layer_idx
        for block, slots in zip(self.packed.blocks, self.slots_of, strict=True):
            start, stop = block.prompt
            self.cache.keys[layer, slots, :, : stop - start] = key[0, :, start:stop].to(self.cache.keys.dtype)
            self.cache.values[layer, slots, :, : stop - start] = value[0, :, start:stop].to(self.cache.values.dtype)
        return self.packed.attend(module, query, key, value, scaling, window)


@dataclass(frozen=True, slots=True)
class _Decoding:
    """Attention of one new token a row to all that the row holds."""

    cache: _Slots
    length: int
    mask_B11T: Tensor

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None
    ) -> Tensor:
        rows, heads, _, width = key.shape
        keys, values = self.cache.keys[module.layer_idx, :rows], self.cache.values[module.layer_idx, :rows]
        index = torch.arange(rows, device=key.device)
        keys[index, :, self.cache.lengths[:rows]] = key[:, :, 0]
        values[index, :, self.cache.lengths[:rows]] = value[:, :, 0]
        mask = self.mask_B11T
        if window:
            oldest = (self.cache.lengths[:rows] - window)[:, None, None, None]
            mask = mask & (torch.arange(self.length, device=key.device) > oldest)
        grouped = query.view(rows, heads, -1, width)
        out = scaled_dot_product_attention(
            grouped, keys[:, :, : self.length], values[:, :, : self.length], attn_mask=mask, scale=scaling
        )
        return out.reshape(rows, 1, -1, width)


def _prefill(model: PreTrainedModel, cache: _Slots, requests: Sequence[Request], admitted: list[int]) -> Tensor:
    """Run the admitted prompts, each distinct one once; returns the logits of each request's first token."""
    slots_of: dict[tuple[int, ...], list[int]] = {}
    for slot, index in enumerate(admitted, len(cache.rows)):
        slots_of.setdefault(requests[index].prompt, []).append(slot)
        cache.lengths[slot] = len(requests[index].prompt)
    packed = pack([(prompt, []) for prompt in slots_of])
    context = _Prefilling(packed, cache, list(slots_of.values()))
    hidden_TH = hidden_states(model.get_decoder(), packed, context=context)
    last = [block.prompt.stop - 1 for block in packed.blocks]
    row_of = {prompt: row for row, prompt in enumerate(slots_of)}
    logits = model.get_output_embeddings()(hidden_TH[last])
    return logits[[row_of[requests[index].prompt] for index in admitted]]


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


def _nucleus(prob_MV: Tensor, top_p_M: Tensor) -> Tensor:
    """The likeliest tokens of each row that reach its share; the others get probability 0."""
    count = min(_LIKELIEST, prob_MV.shape[1])
    ordered_MC, index_MC = prob_MV.topk(count)
    if (ordered_MC.sum(1) < top_p_M).any():
        ordered_MC, index_MC = prob_MV.sort(descending=True)
    outside_MC = ordered_MC.cumsum(1) - ordered_MC >= top_p_M[:, None]
    return torch.zeros_like(prob_MV).scatter(1, index_MC, ordered_MC.masked_fill(outside_MC, 0.0))
