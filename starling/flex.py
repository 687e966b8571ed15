"""Packed attention on a GPU: one fused kernel that skips what no token of a block sees."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from starling.attention import Rule

TILE = 128  # queries and keys that the kernel takes or skips together
Lengths = tuple[tuple[int, ...], ...]
Sees = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def attend(lengths: Lengths, query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
    """Attention within packed blocks: (1, heads, T, D) -> (1, T, heads, D).

    `lengths` holds for each block the tokens of its prompt, then of each answer.
    """
    mask = _block_mask(lengths, rule.window or 0, query.device)
    kernel: Any = _compiled() if query.is_cuda else flex_attention
    found = kernel(
        query, key, value, score_mod=_cap(rule.softcap) if rule.softcap else None, block_mask=mask, scale=rule.scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    return found.transpose(1, 2)


def sees(lengths: Lengths, window: int, device: torch.device) -> Sees:
    """Which key each query sees, by packed positions: (batch, head, query, key) -> bool.

    Those of its own prompt's and its own answer's tokens that do not follow it, and of these the last `window`, 0 for
    all of them. Positions restart where an answer begins, so that one rule holds for prompts and answers.
    """
    rows = [
        (number, answer, (pieces[0] if answer else 0) + at)
        for number, pieces in enumerate(lengths)
        for answer, length in enumerate(pieces)
        for at in range(length)
    ]
    prompt_T, answer_T, position_T = torch.tensor(rows, device=device).unbind(1)

    def rule(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own = (prompt_T[query] == prompt_T[key]) & ((answer_T[key] == 0) | (answer_T[query] == answer_T[key]))
        distance = position_T[query] - position_T[key]
        near = distance < window if window else distance >= 0
        return own & (distance >= 0) & near

    return rule


@lru_cache(maxsize=8)
def _block_mask(lengths: Lengths, window: int, device: torch.device) -> BlockMask:
    tokens = sum(map(sum, lengths))
    with torch.inference_mode(False):  # a mask that was first made while scoring must serve training too
        rule = sees(lengths, window, device)
        seen_QK = _seen_in_tiles(rule, tokens, device)
        whole_QK = seen_QK == TILE * TILE
        part, whole = _listed((seen_QK > 0) & ~whole_QK), _listed(whole_QK)
        return BlockMask.from_kv_blocks(*part, *whole, BLOCK_SIZE=TILE, mask_mod=rule, seq_lengths=(tokens, tokens))


def _seen_in_tiles(rule: Sees, tokens: int, device: torch.device) -> Tensor:
    """How many pairs of query and key see each other in each tile; one row of tiles at a time, never all pairs."""
    every, nothing = torch.arange(tokens, device=device), torch.zeros((), dtype=torch.int64, device=device)
    rows = [rule(nothing, nothing, part[:, None], every).sum(0) for part in every.split(TILE)]
    seen_QT = functional.pad(torch.stack(rows), (0, -tokens % TILE))
    return seen_QT.unflatten(1, (-1, TILE)).sum(-1)


def _listed(chosen_QK: Tensor) -> tuple[Tensor, Tensor]:
    """For each row of tiles how many are chosen, and which, these first."""
    order = chosen_QK.int().argsort(dim=-1, descending=True, stable=True)
    return chosen_QK.sum(-1).int()[None, None], order.int()[None, None]


@lru_cache(maxsize=8)
def _cap(softcap: float) -> Callable[..., Tensor]:
    def capped(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    return capped


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., Tensor]:
    return torch.compile(flex_attention, dynamic=True)
