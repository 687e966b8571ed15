"""Answers that share a prompt as one packed sequence, without padding and without repeating the prompt.

A sequence of two packed prompts with two answers each looks like this; positions restart where an answer begins, as
if it followed its prompt directly, and no answer sees another:

    tokens     p p p a a b b b q q c d d
    positions  0 1 2 3 4 3 4 5 0 1 2 2 3

Attention runs block by block through transformers' attention interface: a prompt sees itself causally, an answer
sees its prompt and itself causally. The cost is that of the unique tokens.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.modeling_utils import PreTrainedModel

from starling.block_attention import Block, BlockAttention, Span
from starling.errors import ModelError

ATTENTION = "starling"


class Context(Protocol):
    """What attends: it travels with a forward call to every attention layer."""

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None
    ) -> Tensor:
        """Query (B, heads, T, D), key and value (B, key heads, T, D) -> (B, T, heads, D).

        `window` is how many tokens the layer lets each position see; None or 0 is all of them.
        """
        ...


@dataclass(frozen=True, slots=True)
class Packed:
    """A packed sequence: token ids and positions of shape (1, T) and the blocks they fall into."""

    ids_1T: Tensor
    positions_1T: Tensor
    blocks: tuple[Block, ...]

    def attend(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None
    ) -> Tensor:
        """Attention within the blocks; query, key, value (1, heads, T, D) -> (1, T, heads, D)."""
        _refuse_long(self.longest, window)
        return BlockAttention.apply(query, key, value, self.blocks, scaling, value.dtype).transpose(1, 2)

    @property
    def longest(self) -> int:
        """The most tokens that any position sees."""
        return max(
            block.prompt.stop - block.prompt.start + max((a.stop - a.start for a in block.answers), default=0)
            for block in self.blocks
        )

    @property
    def num_tokens(self) -> int:
        return self.ids_1T.shape[1]


def pack(groups: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]]) -> Packed:
    """Lay out `(prompt ids, [answer ids, ...])` groups one after the other."""
    ids: list[int] = []
    positions: list[int] = []
    blocks = []
    for prompt, answers in groups:
        if not prompt:
            raise ValueError("a packed prompt needs at least one token")
        spans = []
        for piece, first in [(prompt, 0), *((answer, len(prompt)) for answer in answers)]:
            spans.append(Span(len(ids), len(ids) + len(piece)))
            ids.extend(piece)
            positions.extend(range(first, first + len(piece)))
        blocks.append(Block(spans[0], tuple(spans[1:])))
    return Packed(torch.tensor([ids]), torch.tensor([positions]), tuple(blocks))


def size(group: tuple[Sequence[int], Sequence[Sequence[int]]]) -> int:
    """Tokens of a group once packed."""
    return len(group[0]) + sum(map(len, group[1]))


def microbatches(sizes: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Indices of consecutive groups whose sizes add up to at most `tokens`; a larger group stands alone."""
    batch: list[int] = []
    total = 0
    for index, length in enumerate(sizes):
        if batch and total + length > tokens:
            yield batch
            batch, total = [], 0
        batch.append(index)
        total += length
    if batch:
        yield batch


def hidden_states(
    backbone: PreTrainedModel, packed: Packed, inputs_1TH: Tensor | None = None, context: Context | None = None
) -> Tensor:
    """The backbone's last hidden states (T, H), from the packed ids or from hidden states of lower layers.

    `context` attends in place of the packed sequence where the keys and values are wanted too.
    """
    device = backbone.device
    inputs: dict[str, Any] = {"input_ids": packed.ids_1T.to(device)}
    if inputs_1TH is not None:
        inputs = {"inputs_embeds": inputs_1TH}
    positions_1T = packed.positions_1T.to(device)
    output = backbone(**inputs, position_ids=positions_1T, use_cache=False, context=context or packed)
    return output.last_hidden_state[0]


def last_tokens(packed: Packed) -> list[int]:
    """The position of each answer's last token, in order."""
    return [answer.stop - 1 for block in packed.blocks for answer in block.answers]


def spans(blocks: Iterable[Block]) -> list[tuple[Span, Span]]:
    """Each answer's span beside that of its prompt."""
    return [(block.prompt, answer) for block in blocks for answer in block.answers]


def enable(model: PreTrainedModel) -> None:
    """Route the model's attention through the context that each forward call brings along."""
    if not model._supports_attention_backend:
        raise ModelError(f"{type(model).__name__} does not use transformers' attention interface; packing needs it")
    model.set_attn_implementation(ATTENTION)


def _refuse_long(length: int, window: int | None) -> None:
    if window and length > window:
        raise ModelError(f"a conversation of {length} tokens passes the model's sliding window of {window}; shorten it")


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    scaling: float,
    context: Any,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    if kwargs.get("softcap") is not None or kwargs.get("s_aux") is not None:
        raise ModelError(f"{type(module).__name__} caps attention scores or adds sinks; packing does not know how")
    window = sliding_window or getattr(module, "sliding_window", None)  # some families leave it to the mask
    return context.attend(module, query, key, value, scaling, window), None


def _no_mask(*args: Any, **kwargs: Any) -> None:
    return None


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, _no_mask)
