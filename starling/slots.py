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

_ROOM = 32  # positions that a row has beyond what is needed, so that it is not made longer at every step
_ROOM_SHARE = 8  # or this part of what is needed, where that is more


def key_shape(config: Any) -> tuple[int, int]:
    """Heads and width of a token's key in one block of a model; its value has as many."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return heads, getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


class Store:
    """Keys and values of `rows` rows of at most `length` tokens: of each layer a tensor.

    Keys lie with their positions last, (rows, heads, width, length), as the product with a query reads them; values as
    they come, (rows, heads, length, width). With `trunk` also what a block of the model puts out, (rows, length, H).
    """

    def __init__(self, model: PreTrainedModel, rows: int, length: int, *, trunk: bool = False) -> None:
        config = model.config
        heads, width = key_shape(config)
        where: Any = {"dtype": model.dtype, "device": model.device}
        layers = range(config.num_hidden_layers)
        self.keys = [torch.zeros(rows, heads, width, length, **where) for _ in layers]
        self.values = [torch.zeros(rows, heads, length, width, **where) for _ in layers]
        self.trunk = torch.zeros(rows, length, config.hidden_size, **where) if trunk else None

    def file(self, layer: int, rows: Sequence[int], key: Tensor, value: Tensor) -> None:
        """Put the first tokens' keys and values, (heads, T, width) each, into the rows."""
        count = key.shape[1]
        self.keys[layer][rows, ..., :count] = key.to(self.keys[layer].dtype).transpose(-1, -2)
        self.values[layer][rows, :, :count] = value.to(self.values[layer].dtype)

    def file_trunk(self, rows: Sequence[int], trunk_TH: Tensor) -> None:
        """Put the block's output for the first tokens into the rows."""
        assert self.trunk is not None
        self.trunk[rows, : len(trunk_TH)] = trunk_TH

    @property
    def length(self) -> int:
        """The most tokens that a row can hold."""
        return self.values[0].shape[2]

    def resize(self, length: int) -> None:
        """Let a row hold `length` tokens; the first ones that it holds stay."""
        for layer, values in enumerate(self.values):  # one at a time: hardly any memory is held twice
            self.keys[layer] = _resized(self.keys[layer], length, 3)
            self.values[layer] = _resized(values, length, 2)
        if self.trunk is not None:
            self.trunk = _resized(self.trunk, length, 1)


class Slots(Store):
    """The answers under way: row i of every buffer belongs to request `rows[i]`, which begins with `begins[i]`.

    `lengths` counts the tokens that a row holds of its own, `before` those of its beginning. A beginning of no tokens
    is None.
    """

    def __init__(self, model: PreTrainedModel, size: int, *, trunk: bool = False) -> None:
        super().__init__(model, size, 0, trunk=trunk)
        self.size = size
        self.rows: list[int] = []
        self.begins: list[Store | None] = []
        self.lengths = torch.zeros(size, dtype=torch.long, device=model.device)
        self.before = torch.zeros(size, dtype=torch.long, device=model.device)

    @property
    def longest(self) -> int:
        """The most tokens that a row holds of its own; 0 without rows."""
        return int(self.lengths[: len(self.rows)].max()) if self.rows else 0

    def make_room(self, length: int) -> None:
        """Let a row hold `length` tokens and a few more, not many: a product reads them all, and is slowed by a copy
        where it is to read a part."""
        enough = length + max(_ROOM, length // _ROOM_SHARE)
        if not length <= self.length <= 2 * enough:
            self.resize(enough)

    def retain(self, keep: list[int], tokens: Tensor) -> Tensor:
        """Drop the rows that are not in `keep`, closing gaps with the last rows; returns the tokens in row order."""
        gaps = [row for row in range(len(keep)) if row not in set(keep)]
        movers = [row for row in keep if row >= len(keep)]
        order = list(range(len(keep)))
        for gap, mover in zip(gaps, movers, strict=True):
            used = int(self.lengths[mover])
            for keys, values in zip(self.keys, self.values, strict=True):
                keys[gap, ..., :used] = keys[mover, ..., :used]
                values[gap, :, :used] = values[mover, :, :used]
            if self.trunk is not None:
                self.trunk[gap, :used] = self.trunk[mover, :used]
            self.lengths[gap], self.before[gap] = self.lengths[mover], self.before[mover]
            order[gap] = mover
        self.rows = [self.rows[row] for row in order]
        self.begins = [self.begins[row] for row in order]
        return tokens[order]

    def trunk_states(self, row: int) -> Tensor | None:
        """What the block put out for all that the row has taken in, its beginning included: (T, H)."""
        if self.trunk is None:
            return None
        begin, own_TH = self.begins[row], self.trunk[row, : self.lengths[row]]
        return own_TH.clone() if begin is None or begin.trunk is None else torch.cat([begin.trunk[0], own_TH])


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

    def keep(self, output_1TH: Tensor) -> None:
        """File what a block puts out."""
        for piece in self.pieces:
            piece.store.file_trunk(piece.rows, output_1TH[0, slice(*piece.span)])

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
        distinct = {id(store): store for store in slots.begins if store is not None}
        self._beginnings = [(store, _rows_of(slots.begins, store)) for store in distinct.values()]
        self._shared = max((store.length for store in distinct.values()), default=0)
        self._before = slots.before[:rows, None]
        at = torch.arange(self._shared + slots.length, device=self._own.device)
        self._position_BT = torch.where(at < self._shared, at, at - self._shared + self._before)
        own = at - self._shared <= self._own[:, None]
        self._seen_BT = torch.where(at < self._shared, at < self._before, own)
        self._mask_BT = torch.zeros(self._seen_BT.shape, device=at.device).masked_fill(~self._seen_BT, -torch.inf)

    def keep(self, output_B1H: Tensor) -> None:
        """File what a block puts out."""
        assert self._slots.trunk is not None
        self._slots.trunk[torch.arange(len(self._own), device=self._own.device), self._own] = output_B1H[:, 0]

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
        """Query (B, heads, 1, D), key and value (B, key heads, 1, D) -> (B, 1, heads, D)."""
        rows, heads, _, width = key.shape
        layer = module.layer_idx
        keys, values = self._slots.keys[layer][:rows], self._slots.values[layer][:rows]
        index = torch.arange(rows, device=key.device)
        keys[index, :, :, self._own] = key[:, :, 0]
        values[index, :, self._own] = value[:, :, 0]
        grouped = query.view(rows, heads, -1, width)
        # twice as fast on CPU as SDPA of one query
        score = grouped @ keys
        if self._beginnings:
            score = torch.cat([self._to_beginnings(layer, grouped), score], -1)
        weight = self._weights(score, rule).to(values.dtype)
        out = weight[..., self._shared :] @ values
        for store, of_rows in self._beginnings:
            asked = weight[of_rows, ..., : store.length].transpose(0, 1)
            out[of_rows] += _together(asked, store.values[layer][0])
        return out.reshape(rows, 1, -1, width)

    def _to_beginnings(self, layer: int, query: Tensor) -> Tensor:
        """The products of each row's queries with the keys of its beginning: (B, key heads, R, longest beginning)."""
        found = query.new_zeros((*query.shape[:3], self._shared))
        for store, rows in self._beginnings:
            found[rows, ..., : store.length] = _together(query[rows].transpose(0, 1), store.keys[layer][0])
        return found

    def _weights(self, score: Tensor, rule: Rule) -> Tensor:
        """softmax over what a row sees of scores that are not scaled yet, in float32."""
        mask_BT = self._mask_BT
        if rule.softcap:
            score = rule.softcap * torch.tanh(score.float() * rule.scaling / rule.softcap)
        if rule.window:
            near_BT = self._position_BT > self._before + self._own[:, None] - rule.window
            mask_BT = mask_BT.masked_fill(~near_BT, -torch.inf)
        return torch.add(mask_BT[:, None, None], score, alpha=1.0 if rule.softcap else rule.scaling).softmax(-1)


def _rows_of(begins: Sequence[Store | None], store: Store) -> list[int] | slice:
    """The rows that begin with it; as a slice, which copies nothing, where these are all."""
    rows = [row for row, begin in enumerate(begins) if begin is store]
    return slice(None) if len(rows) == len(begins) else rows


def _together(asked: Tensor, shared: Tensor) -> Tensor:
    """What all rows ask of the same keys or values, in one product: (heads, B, R, N), (heads, N, M) ->
    (B, heads, R, M)."""
    return (asked.flatten(1, 2) @ shared).unflatten(1, asked.shape[1:3]).transpose(0, 1)


def _resized(tensor: Tensor, length: int, axis: int) -> Tensor:
    """The same with `length` positions on that axis, zeros where there were none."""
    shape = list(tensor.shape)
    held, shape[axis] = min(length, shape[axis]), length
    found = tensor.new_zeros(shape)
    found.narrow(axis, 0, held).copy_(tensor.narrow(axis, 0, held))
    return found
