"""Attention within packed blocks: PyTorch's fused kernel for processors, on some rows of one span at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

ROWS = 128  # queries at a time: what they must not see of their own is looked at for nothing, so a long span is cut
_FORWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class Span(NamedTuple):
    """Half-open range of packed positions."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Block:
    """One prompt and its answers in a packed sequence."""

    prompt: Span
    answers: tuple[Span, ...]


class Piece(NamedTuple):
    """Queries of one span, and what they see: the prompt's keys (none for the prompt itself) and those of the span."""

    seen: slice
    own: slice
    rows: slice


class BlockAttention(torch.autograd.Function):
    """softmax(scale q k^T) v within the blocks: query (1, heads, T, D), key, value (1, key heads, T, D) -> as query.

    The inputs are rounded to `low`, and so is the output; scores and softmax are in float32, and so is all that
    backward computes, since the kernel takes less time for it than in bfloat16. Kept are the rounded inputs, the output
    and the log of each row's sum of exponentials: backward makes the scores again, so that memory grows with T.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocks: Sequence[Block], scale: float, low: torch.dtype
    ) -> Tensor:
        query_GRTD, key_GTD, value_GTD = _by_key_head(query.to(low), key.shape[1]), key[0].to(low), value[0].to(low)
        out = torch.empty_like(query, dtype=low)
        out_GRTD = _by_key_head(out, key.shape[1])
        logsumexp_GRT = query_GRTD.new_empty(query_GRTD.shape[:-1], dtype=torch.promote_types(low, torch.float32))
        for piece in _pieces(blocks):
            rows = query_GRTD[:, :, piece.rows]
            keys, values = (_seen(tensor, piece, rows) for tensor in (key_GTD, value_GTD))
            found = _FORWARD(rows, keys, values, attn_mask=_mask(rows, keys), scale=scale)
            out_GRTD[:, :, piece.rows], logsumexp_GRT[:, :, piece.rows] = found
        ctx.save_for_backward(query_GRTD, key_GTD, value_GTD, out, logsumexp_GRT)
        ctx.blocks, ctx.scale, ctx.dtypes = blocks, scale, (query.dtype, key.dtype, value.dtype)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        *rounded, out, logsumexp_GRT = ctx.saved_tensors
        query_GRTD, key_GTD, value_GTD = (_laid_out(tensor, logsumexp_GRT.dtype) for tensor in rounded)
        grad_GRTD, out_GRTD = (_by_key_head(_laid_out(x, logsumexp_GRT.dtype), len(key_GTD)) for x in (grads[0], out))
        to_query_GRTD = torch.empty_like(query_GRTD)
        to_key_GTD, to_value_GTD = torch.zeros_like(key_GTD), torch.zeros_like(value_GTD)
        for piece in _pieces(ctx.blocks):
            rows, grad, output, logsumexp = (
                x[:, :, piece.rows] for x in (query_GRTD, grad_GRTD, out_GRTD, logsumexp_GRT)
            )
            keys, values = (_seen(tensor, piece, rows) for tensor in (key_GTD, value_GTD))
            to_query_GRTD[:, :, piece.rows], to_keys, to_values = _BACKWARD(
                grad, rows, keys, values, output, logsumexp, 0.0, False, attn_mask=_mask(rows, keys), scale=ctx.scale
            )
            _add(to_key_GTD, piece, to_keys)
            _add(to_value_GTD, piece, to_values)
        found = (to_query_GRTD.flatten(0, 1)[None], to_key_GTD[None], to_value_GTD[None])
        return *(grad.to(dtype) for grad, dtype in zip(found, ctx.dtypes, strict=True)), None, None, None


def _pieces(blocks: Sequence[Block]) -> Iterator[Piece]:
    for block in blocks:
        for span in (block.prompt, *block.answers):
            seen = slice(block.prompt.start, block.prompt.start if span is block.prompt else block.prompt.stop)
            for first in range(span.start, span.stop, ROWS):
                last = min(first + ROWS, span.stop)
                yield Piece(seen, slice(span.start, last), slice(first, last))


def _laid_out(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """In the order of its axes, head by head: the kernel's backward pass is slower where they are interleaved."""
    return tensor.to(dtype, memory_format=torch.contiguous_format)


def _by_key_head(tensor: Tensor, key_heads: int) -> Tensor:
    """(1, heads, T, ...) -> a view (key heads, R, T, ...), R heads sharing a key."""
    return tensor[0].unflatten(0, (key_heads, -1))


def _seen(tensor_GTD: Tensor, piece: Piece, rows_GRTD: Tensor) -> Tensor:
    """What the rows of a piece see of the keys or values, for each of the R heads that share it without a copy."""
    own = tensor_GTD[:, piece.own]
    seen = own if piece.seen.start == piece.seen.stop else torch.cat([tensor_GTD[:, piece.seen], own], 1)
    return seen[:, None].expand(-1, rows_GRTD.shape[1], -1, -1)


def _mask(rows_GRTD: Tensor, keys_GRTD: Tensor) -> Tensor:
    """Additive mask (1, 1, rows, keys): of the last keys, which are the rows' own, -inf for those that come later."""
    rows, keys = rows_GRTD.shape[2], keys_GRTD.shape[2]
    return functional.pad(_later(rows, rows_GRTD.dtype, rows_GRTD.device), (keys - rows, 0))[None, None]


def _add(total_GTD: Tensor, piece: Piece, part_GRTD: Tensor) -> None:
    part_GTD = part_GRTD.sum(1)
    seen = piece.seen.stop - piece.seen.start
    if seen:
        total_GTD[:, piece.seen] += part_GTD[:, :seen]
    total_GTD[:, piece.own] += part_GTD[:, seen:]


@lru_cache(maxsize=2 * ROWS)  # of every number of rows, forward and backward
def _later(rows: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # what was first made while scoring must serve training too
        return torch.full((rows, rows), -torch.inf, dtype=dtype, device=device).triu(1)
