"""Attention within packed blocks: piece by piece, as matrix products whose scores stay in the cache."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

ROWS = 64  # queries at a time; the scores of many more leave the cache


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

    The products with the values and those of the gradient are in `low`, as matrix products under autocast are; the
    scores and the softmax are in float32. Kept is what was given: backward makes its copies in float32 and the scores
    again, these piece by piece, so that memory grows with T.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocks: Sequence[Block], scale: float, low: torch.dtype
    ) -> Tensor:
        query_GTRD, key_GTD, value_GTD = _copies(query, key, value, scale, low)
        out_GTRD = query_GTRD.new_empty(query_GTRD.shape, dtype=low)
        for piece in _pieces(blocks):
            weight = _weights(query_GTRD, key_GTD, piece).to(low)
            torch.bmm(weight, _joined(value_GTD, piece), out=out_GTRD[:, piece.rows].flatten(1, 2))
        ctx.save_for_backward(query, key, value)
        ctx.blocks, ctx.scale, ctx.low = blocks, scale, low
        return out_GTRD.transpose(1, 2).reshape(query.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = given = ctx.saved_tensors
        low = ctx.low
        query_GTRD, key_GTD, value_GTD = _copies(query, key, value, ctx.scale, low)
        grad_GTRD = _by_key_head(grads[0], len(key_GTD), low)
        low_query_GTRD, low_key_GTD = query_GTRD.to(low), key_GTD.to(low)
        to_query_GTRD = torch.empty_like(low_query_GTRD)
        to_key_GTD, to_value_GTD = torch.zeros_like(key_GTD), torch.zeros_like(key_GTD)
        for piece in _pieces(ctx.blocks):
            weight = _weights(query_GTRD, key_GTD, piece).to(low)
            grad = grad_GTRD[:, piece.rows].flatten(1, 2)
            _add(to_value_GTD, piece, torch.bmm(weight.transpose(1, 2), grad))
            to_weight = torch.bmm(grad, _joined(value_GTD, piece).transpose(1, 2))
            to_score = torch._softmax_backward_data(to_weight, weight, -1, low)
            torch.bmm(to_score, _joined(low_key_GTD, piece), out=to_query_GTRD[:, piece.rows].flatten(1, 2))
            _add(to_key_GTD, piece, torch.bmm(to_score.transpose(1, 2), low_query_GTRD[:, piece.rows].flatten(1, 2)))
        to_query = to_query_GTRD.mul_(ctx.scale).transpose(1, 2).reshape(grads[0].shape)
        found = (to_query, to_key_GTD[None], to_value_GTD[None])
        return *(grad.to(tensor.dtype) for grad, tensor in zip(found, given, strict=True)), None, None, None


def _copies(query: Tensor, key: Tensor, value: Tensor, scale: float, low: torch.dtype) -> tuple[Tensor, ...]:
    """What the products read: scaled queries and keys in float32, values in `low`; those that share a key together."""
    query_GTRD = _by_key_head(query, key.shape[1], torch.float32).mul_(scale)
    return query_GTRD, key[0].float().contiguous(), value[0].to(low).contiguous()


def _pieces(blocks: Sequence[Block]) -> Iterator[Piece]:
    for block in blocks:
        for span in (block.prompt, *block.answers):
            seen = slice(block.prompt.start, block.prompt.start if span is block.prompt else block.prompt.stop)
            for first in range(span.start, span.stop, ROWS):
                last = min(first + ROWS, span.stop)
                yield Piece(seen, slice(span.start, last), slice(first, last))


def _weights(query_GTRD: Tensor, key_GTD: Tensor, piece: Piece) -> Tensor:
    """The softmax of a piece's scores (key heads, rows x R, keys), in float32 under autocast too."""
    key = _joined(key_GTD, piece)
    with torch.autocast(key.device.type, enabled=False):
        score = torch.bmm(query_GTRD[:, piece.rows].flatten(1, 2), key.transpose(1, 2))
    rows = piece.rows.stop - piece.rows.start
    causal = score.unflatten(1, (rows, -1))[..., key.shape[1] - rows :]
    causal += _later(rows, causal.device)
    return torch.softmax(score, -1)


def _joined(tensor_GTD: Tensor, piece: Piece) -> Tensor:
    if piece.seen.start == piece.seen.stop:
        return tensor_GTD[:, piece.own]
    return torch.cat([tensor_GTD[:, piece.seen], tensor_GTD[:, piece.own]], 1)


def _add(total_GTD: Tensor, piece: Piece, part: Tensor) -> None:
    seen = piece.seen.stop - piece.seen.start
    if seen:
        total_GTD[:, piece.seen] += part[:, :seen]
    total_GTD[:, piece.own] += part[:, seen:]


def _by_key_head(tensor: Tensor, key_heads: int, dtype: torch.dtype) -> Tensor:
    """(1, heads, T, D) -> a copy (key heads, T, R, D): the R heads that share a key lie side by side."""
    parted = tensor[0].unflatten(0, (key_heads, -1)).transpose(1, 2)
    return parted.new_empty(parted.shape, dtype=dtype).copy_(parted)


@lru_cache(maxsize=ROWS)
def _later(rows: int, device: torch.device) -> Tensor:
    """Additive mask (rows, 1, rows): -inf for the tokens that come later."""
    with torch.inference_mode(False):  # a mask that was first made while scoring must serve training too
        return torch.full((rows, rows), -torch.inf, device=device).triu(1)[:, None]
