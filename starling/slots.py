"""Keys and values of the answers under way, and the attention that reads and fills them.

What many prompts begin with is kept once, apart from what each answer has of its own: its keys are read in one matrix
product for all the rows that begin with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import PreTrainedModel

from starling.attention import Rule, written_out
from starling.packing import Span


class Store:
    """Keys and values of `rows` rows of at most `length` tokens, in every layer.

    Keys lie with their positions last, (layers, rows, heads, width, positions), as the product with a query reads them;
    values as they come, (layers, rows, heads, positions, width).
    """

    def __init__(self, model: PreTrainedModel, rows: int, length: int) -> None:
        config = model.config
        heads = config.num_key_value_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (config.num_hidden_layers, rows, heads)
        self.keys: Tensor = torch.zeros((*shape, width, length), dtype=model.dtype, device=model.device)
        self.values: Tensor = torch.zeros((*shape, length, width), dtype=model.dtype, device=model.device)

    def file(self, layer: int, rows: Sequence[int], key: Tensor, value: Tensor) -> None:
        """Put the first tokens' keys and values, (heads, T, width) each, into the rows."""
        count = key.shape[1]
        self.keys[layer, rows, ..., :count] = key.to(self.keys.dtype).transpose(-1, -2)
        self.values[layer, rows, :, :count] = value.to(self.values.dtype)

    @property
    def length(self) -> int:
        """The most tokens that a row can hold."""
        return self.values.shape[3]

    def grow(self, length: int) -> None:
        """Make room for `length` tokens a row; what is held stays."""
        held, (*shape, width, _) = self.length, self.keys.shape
        keys, values = self.keys, self.values
        self.keys = keys.new_zeros((*shape, width, length))
        self.values = values.new_zeros((*shape, length, width))
        self.keys[..., :held], self.values[..., :held, :] = keys, values


class Slots(Store):
    """The answers under way: row i of every buffer belongs to request `rows[i]`, which begins with `begins[i]`.

    `lengths` counts the tokens that a row holds of its own, `before` those of its beginning. A beginning of no tokens
    is None.
    """

    def __init__(self, model: PreTrainedModel, size: int, length: int) -> None:
        super().__init__(model, size, length)
        self.size = size
        self.rows: list[int] = []
        self.begins: list[Store | None] = []
        self.lengths = torch.zeros(size, dtype=torch.long, device=model.device)
        self.before = torch.zeros(size, dtype=torch.long, device=model.device)

    def retain(self, keep: list[int], tokens: Tensor) -> Tensor:
        """Drop the rows that are not in `keep`, closing gaps with the last rows; returns the tokens in row order."""
        gaps = [row for row in range(len(keep)) if row not in set(keep)]
        movers = [row for row in keep if row >= len(keep)]
        order = list(range(len(keep)))
        for gap, mover in zip(gaps, movers, strict=True):
            used = int(self.lengths[mover])
            self.keys[:, gap, ..., :used] = self.keys[:, mover, ..., :used]
            self.values[:, gap, :, :used] = self.values[:, mover, :, :used]
            self.lengths[gap], self.before[gap] = self.lengths[mover], self.before[mover]
            order[gap] = mover
        self.rows = [self.rows[row] for row in order]
        self.begins = [self.begins[row] for row in order]
        return tokens[order]


@dataclass(frozen=True, slots=True)
class Piece:
    """Fresh tokens in a packed sequence: what they come after, and the rows of which store they are filed in."""

    span: Span
    after: Store | None
    store: Store
    rows: Sequence[int]


@dataclass(frozen=True, slots=True)
class Prefilling:
    """Attention of fresh pieces, each to what it comes after and to itself, that also files their keys and values."""

    pieces: Sequence[Piece]

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
        """Query (1, heads, T, D), key and value (1, key heads, T, D) -> (1, T, heads, D)."""
        found = []
        repeats = query.shape[1] // key.shape[1]
        for piece in self.pieces:
            asked, seen, given = (tensor[:, :, slice(*piece.span)] for tensor in (query, key, value))
            piece.store.file(module.layer_idx, piece.rows, seen[0], given[0])
            if piece.after is not None:
                seen = torch.cat([piece.after.keys[module.layer_idx].transpose(-1, -2), seen], 2)
                given = torch.cat([piece.after.values[module.layer_idx], given], 2)
            seen, given = seen.repeat_interleave(repeats, 1), given.repeat_interleave(repeats, 1)
            found.append(written_out(asked, seen, given, rule))
        return torch.cat(found, 2).transpose(1, 2)


class Decoding:
    """Attention of one new token a row to all that the row holds and begins with."""

    def __init__(self, slots: Slots) -> None:
        rows = len(slots.rows)
        self._slots = slots
        self._own = slots.lengths[:rows]
        self._length = int(self._own.max()) + 1
        distinct = {id(store): store for store in slots.begins if store is not None}
        self._beginnings = [
            (store, [row for row in range(rows) if slots.begins[row] is store]) for store in distinct.values()
        ]
        self._shared = max((store.values.shape[3] for store in distinct.values()), default=0)
        self._before = slots.before[:rows, None]
        at = torch.arange(self._shared + self._length, device=self._own.device)
        self._position_BT = torch.where(at < self._shared, at, at - self._shared + self._before)
        own = at - self._shared <= self._own[:, None]
        self._seen_BT = torch.where(at < self._shared, at < self._before, own)

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
        """Query (B, heads, 1, D), key and value (B, key heads, 1, D) -> (B, 1, heads, D)."""
        rows, heads, _, width = key.shape
        layer = module.layer_idx
        keys, values = self._slots.keys[layer, :rows], self._slots.values[layer, :rows]
        index = torch.arange(rows, device=key.device)
        keys[index, :, :, self._own] = key[:, :, 0]
        values[index, :, self._own] = value[:, :, 0]
        grouped = query.view(rows, heads, -1, width)
        # twice as fast on CPU as SDPA of one query
        score = torch.cat([self._to_beginnings(layer, grouped), grouped @ keys[..., : self._length]], -1).float()
        weight = self._weights(score * rule.scaling, rule).to(values.dtype)
        out = weight[..., self._shared :] @ values[:, :, : self._length]
        for store, of_rows in self._beginnings:
            tokens = store.values.shape[3]
            asked = weight[of_rows, ..., :tokens].transpose(0, 1).flatten(1, 2)
            out[of_rows] += (asked @ store.values[layer, 0]).unflatten(1, (len(of_rows), -1)).transpose(0, 1)
        return out.reshape(rows, 1, -1, width)

    def _to_beginnings(self, layer: int, query: Tensor) -> Tensor:
        """The products of each row's queries with the keys of its beginning: (B, key heads, R, longest beginning)."""
        found = query.new_zeros((*query.shape[:3], self._shared))
        for store, rows in self._beginnings:
            asked = query[rows].transpose(0, 1).flatten(1, 2)
            score = (asked @ store.keys[layer, 0]).unflatten(1, (len(rows), -1)).transpose(0, 1)
            found[rows, ..., : score.shape[-1]] = score
        return found

    def _weights(self, score: Tensor, rule: Rule) -> Tensor:
        seen_BT = self._seen_BT
        if rule.softcap:
            score = rule.softcap * torch.tanh(score / rule.softcap)
        if rule.window:
            seen_BT = seen_BT & (self._position_BT > self._before + self._own[:, None] - rule.window)
        return score.masked_fill(~seen_BT[:, None, None], -torch.inf).softmax(-1)
