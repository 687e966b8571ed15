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
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig
from transformers.modeling_utils import PreTrainedModel

from starling import flex, progress
from starling.attention import Rule, written_out
from starling.block_attention import Block, BlockAttention, Span
from starling.errors import ModelError

ATTENTION = "starling"
_UNTOLD = -1  # in place of a window where a layer names none, not even that it has none
_DROPOUTS = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")  # as families call it


Pack = tuple[Sequence[int], Sequence[Sequence[int]]]
"""The token ids of a prompt, and of each answer to it."""


class Context(Protocol):
    """What attends: it travels with a forward call to every attention layer."""

    def attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
        """Query (B, heads, T, D), key and value (B, key heads, T, D) -> (B, T, heads, D)."""
        ...


@dataclass(frozen=True, slots=True)
class Packed:
    """A packed sequence: token ids and positions of shape (1, T) and the blocks they fall into."""

    ids_1T: Tensor
    positions_1T: Tensor
    blocks: tuple[Block, ...]

    def attend(self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
        """Attention within the blocks; query, key, value (1, heads, T, D) -> (1, T, heads, D)."""
        if query.is_cuda:
            return flex.attend(self.lengths, query, key, value, rule)
        if rule.softcap or (rule.window and self.longest > rule.window):
            return self._attend_by(rule, query, key, value)
        return BlockAttention.apply(query, key, value, self.blocks, rule.scaling, value.dtype).transpose(1, 2)

    def _attend_by(self, rule: Rule, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """What `attend` gives, with every score written out: for rules that `BlockAttention` does not know."""
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
        pieces = zip(*(tensor.split(self._lengths, 2) for tensor in (query, key, value)), strict=True)
        found = []
        for block in self.blocks:
            own_query, seen_key, seen_value = next(pieces)
            found.append(written_out(own_query, seen_key, seen_value, rule))
            for _answer in block.answers:
                own_query, own_key, own_value = next(pieces)
                keys, values = torch.cat([seen_key, own_key], 2), torch.cat([seen_value, own_value], 2)
                found.append(written_out(own_query, keys, values, rule))
        return torch.cat(found, 2).transpose(1, 2)

    @property
    def lengths(self) -> tuple[tuple[int, ...], ...]:
        """For each block the tokens of its prompt, then of each answer."""
        return tuple(tuple(span.stop - span.start for span in (block.prompt, *block.answers)) for block in self.blocks)

    @property
    def _lengths(self) -> list[int]:
        return [length for block in self.lengths for length in block]

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


def pack(packs: Sequence[Pack]) -> Packed:
    """Lay out prompts, each with its answers, one after the other."""
    ids: list[int] = []
    positions: list[int] = []
    blocks = []
    for prompt, answers in packs:
        if not prompt:
            raise ValueError("a packed prompt needs at least one token")
        spans = []
        for piece, first in [(prompt, 0), *((answer, len(prompt)) for answer in answers)]:
            spans.append(Span(len(ids), len(ids) + len(piece)))
            ids.extend(piece)
            positions.extend(range(first, first + len(piece)))
        blocks.append(Block(spans[0], tuple(spans[1:])))
    return Packed(torch.tensor([ids]), torch.tensor([positions]), tuple(blocks))


def size(pack: Pack) -> int:
    """Tokens of a group once packed."""
    return len(pack[0]) + sum(map(len, pack[1]))


def batches(packs: Sequence[Pack], tokens: int) -> Iterator[tuple[list[int], Packed]]:
    """Packed sequences of up to `tokens`, in the order given, with the indices of what each holds."""
    for indices in consecutive([size(one) for one in packs], tokens):
        yield indices, pack([packs[index] for index in indices])


def consecutive(sizes: Sequence[int], tokens: int) -> Iterator[list[int]]:
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


def _refuse_unknown_ids(backbone: PreTrainedModel, ids_1T: Tensor) -> None:
    embeddings: Any = backbone.get_input_embeddings()
    size, largest = embeddings.weight.shape[0], int(ids_1T.max())
    if largest >= size:
        raise ModelError(
            f"the tokenizer writes token {largest:,}, and {type(backbone).__name__} has embeddings of {size:,}; resize "
            "the model, or take the tokenizer that it was trained with"
        )


def hidden_states(backbone: PreTrainedModel, packed: Packed, inputs_1TH: Tensor | None = None) -> Tensor:
    """The backbone's last hidden states (T, H), from the packed ids or from hidden states of lower layers."""
    refuse_unsteady(backbone.config, packed.longest)
    device = backbone.device
    inputs: dict[str, Any] = {"input_ids": packed.ids_1T.to(device)}
    if inputs_1TH is not None:
        inputs = {"inputs_embeds": inputs_1TH}
    else:
        _refuse_unknown_ids(backbone, packed.ids_1T)
    positions_1T = packed.positions_1T.to(device)
    output = backbone(**inputs, position_ids=positions_1T, use_cache=False, context=packed)
    return output.last_hidden_state[0]


def refuse_unsteady(config: PretrainedConfig, length: int) -> None:
    """Refuse conversations of so many tokens where they would turn the positions of others that run with them."""
    if length > _steady(config):
        raise ModelError(
            f"a conversation of {length:,} tokens passes the model's window of {window(config):,}, "
            "past which it changes what else is packed; shorten it"
        )


def last_tokens(packed: Packed) -> list[int]:
    """The position of each answer's last token, in order."""
    return [answer.stop - 1 for block in packed.blocks for answer in block.answers]


def spans(blocks: Iterable[Block]) -> list[tuple[Span, Span]]:
    """Each answer's span beside that of its prompt."""
    return [(block.prompt, answer) for block in blocks for answer in block.answers]


def window(config: PretrainedConfig) -> int:
    """The longest conversation in tokens that a model with this config has positions for, whatever else is packed."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None:
        name = config.name_or_path or config.model_type
        raise ModelError(f"{name}: its config.json has no max_position_embeddings, so its window is not known")
    return int(min(positions, _steady(config)))


def _steady(config: PretrainedConfig) -> float:
    """The tokens up to which the rotary frequencies of a conversation do not depend on how long another one is.

    Past the length of the first training, `dynamic` and `longrope` turn over the frequencies of all that share a pass.
    """
    ropes = getattr(config, "rope_parameters", None) or {}
    found = [rope for rope in (ropes, *ropes.values()) if isinstance(rope, dict)]
    first = [rope["original_max_position_embeddings"] for rope in found if rope.get("rope_type") == "longrope"]
    first += [config.max_position_embeddings for rope in found if rope.get("rope_type") == "dynamic"]
    return min(first, default=float("inf"))


def tell_dropout(config: PretrainedConfig, stage: str) -> None:
    """Say where the model would drop out parts of its attention in training: packed attention keeps all of it."""
    for name in _DROPOUTS:
        if share := getattr(config, name, None):
            progress.say(
                f"{stage}: {name} = {share:g} of the model's config.json is left off: packed attention drops nothing"
            )


def enable(model: PreTrainedModel) -> None:
    """Route the model's attention through the context that each forward call brings along.

    Refused are models in which a token could see another answer by some other way than this attention.
    """
    if reason := _unpackable(model):
        raise ModelError(f"{type(model).__name__} {reason}, so answers packed together would not be apart; use another")
    model.set_attn_implementation(ATTENTION)
    if model.config._attn_implementation != ATTENTION:
        raise ModelError(f"{type(model).__name__} does not let its attention be exchanged; use another model")


def _unpackable(model: PreTrainedModel) -> str:
    config = model.config
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if not model._supports_attention_backend:
        return "does not use transformers' attention interface"
    if config.get_text_config() is not config or config.is_encoder_decoder:
        return "is more than a decoder of text"
    if kinds:
        return f"has layers of the kind {', '.join(sorted(kinds))}"
    if any(isinstance(module, nn.Conv1d) for module in model.modules()):
        return "has convolutions over tokens"
    if any(getattr(module, "is_causal", True) is False for module in model.modules()):
        return "has layers that see later tokens"
    return ""


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    context: Context | None = None,
    sliding_window: int | None = _UNTOLD,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    if context is None:
        raise ModelError(f"{type(module).__name__} is not told what its tokens see; packing does not know this model")
    if any(added is not None for added in (attention_mask, kwargs.get("s_aux"), kwargs.get("position_bias"))):
        raise ModelError(f"{type(module).__name__} adds sinks or biases to its attention; packing does not know how")
    if value.shape[-1] != query.shape[-1]:
        raise ModelError(f"{type(module).__name__} has values of another width than queries; packing does not know how")
    rule = Rule(scaling, _window(module, sliding_window), kwargs.get("softcap"))
    return context.attend(module, query, key, value, rule).contiguous(), None  # some families take a view of it


def _window(module: nn.Module, told: int | None) -> int | None:
    """A layer's window in tokens; some families leave it to the mask, which packing does without."""
    if told != _UNTOLD:
        return told
    config: Any = getattr(module, "config", None)
    of_all = None if getattr(config, "layer_types", None) else getattr(config, "sliding_window", None)
    own = getattr(module, "sliding_window", None)
    if own is None and of_all and of_all < config.max_position_embeddings:
        raise ModelError(
            f"{type(module).__name__} is not told of the window of {of_all} tokens in its config.json, so packing "
            "cannot tell what its tokens see; use another model"
        )
    return own


def _no_mask(*args: Any, **kwargs: Any) -> None:
    return None


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, _no_mask)
