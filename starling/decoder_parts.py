"""A decoder in two: the trunk that stays as it is, and the top that is trained."""

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedModel

from starling import adapters, device, packing
from starling.errors import ModelError
from starling.packing import Packed

ROUNDING = 0.02  # of the norm: bfloat16 made .0014 of it on 30 blocks; a scale, norm or rotation left out is far more
_KEY = "tune.layers"
_INSTEAD = {
    _KEY: "use another model",
    "fit.layers": "set fit.layers and fit.lora_rank to 0 for all weights, or use another model",
}


def last_blocks(decoder: Any, layers: int, key: str) -> Any:
    """The decoder's last `layers` blocks (0 = all); the setting `key` says how many, and is named where that fails."""
    blocks = len(_part(decoder, "layers", key))
    if layers > blocks:
        raise ModelError(f"{key} = {layers}: the model has {blocks} blocks; 0 is all of them")
    return decoder.layers[blocks - (layers or blocks) :]


def final_norm(decoder: Any, key: str) -> nn.Module:
    """The norm after the last block, which is trained with the blocks that `key` counts."""
    return _part(decoder, "norm", key)


def trunk_of(decoder: Any, layers: int) -> PreTrainedModel:
    """The decoder without its last `layers` blocks and its final norm; shares the weights. Without
    all blocks (0) what is left are the embeddings."""
    return _slice(decoder, slice(0, _num_frozen(decoder, layers)), norm=nn.Identity())


def top_of(decoder: Any, layers: int) -> PreTrainedModel:
    """A copy of the decoder's last `layers` blocks (0 = all) and final norm in float32, fed with the trunk's hidden
    states."""
    top: Any = _slice(decoder, slice(_num_frozen(decoder, layers), None), norm=final_norm(decoder, _KEY))
    top.embed_tokens = None
    return copy.deepcopy(top).float()


def reference_of(decoder: Any, layers: int) -> PreTrainedModel:
    """The same to compare with: what linear layers multiply with stays as the decoder has it, which is what autocast
    would make of float32 copies."""
    reference: Any = top_of(decoder, layers).requires_grad_(False)
    blocks = last_blocks(decoder, layers, _KEY)
    for copied, layer in zip(reference.layers.modules(), blocks.modules(), strict=True):
        if isinstance(layer, nn.Linear):
            copied.to(layer.weight.dtype)
    return reference


def rounded_of(decoder: Any, top: Any) -> PreTrainedModel:
    """A float32 top as it is multiplied with where the decoder has fewer bits: its linear layers read the decoder's own
    weights, which `copy_top_into` rounds as autocast would; all else are the top's. Gradients go to the top's."""
    rounded: Any = copy.deepcopy(top, {id(weight): weight for weight in top.parameters()})
    blocks = decoder.layers[len(decoder.layers) - len(top.layers) :]
    for ours, trained, layer in zip(*(part.modules() for part in (rounded.layers, top.layers, blocks)), strict=True):
        if isinstance(layer, nn.Linear):
            for name, weight in layer.named_parameters(recurse=False):
                read = nn.Parameter(weight.data)
                read.register_post_accumulate_grad_hook(partial(_hand_over, getattr(trained, name)))
                setattr(ours, name, read)
    return rounded


def _hand_over(trained: Tensor, read: Tensor) -> None:
    """Add the gradient of what was read to that of the weight it was rounded from."""
    grad, read.grad = read.grad, None
    assert grad is not None
    trained.grad = grad.to(trained.dtype) if trained.grad is None else trained.grad.add_(grad)


@torch.no_grad()
def require_apart(decoder: Any, trunk: Any, top: Any, packed: Packed) -> None:
    """Refuse a family of which trunk and top, one after the other, are not the decoder: some scale or norm between."""
    with device.autocast(decoder.device, decoder.dtype):
        whole_TH = packing.hidden_states(decoder, packed).float()
        parts_TH = packing.hidden_states(top, packed, packing.hidden_states(trunk, packed)[None]).float()
    if (parts_TH - whole_TH).norm() > ROUNDING * whole_TH.norm():
        raise ModelError(
            f"{_KEY}: {type(decoder).__name__} does more between its blocks than one after the other, so the last ones "
            f"cannot be told from the rest; {_INSTEAD[_KEY]}"
        )


def trainable(top: PreTrainedModel) -> dict[str, nn.Parameter]:
    """The parameters of a top that are trained, by name: its own, or those of its adapters."""
    return {name: weight for name, weight in top.named_parameters() if weight.requires_grad}


def copy_top_into(decoder: Any, top: Any, initial: Any, share: float) -> None:
    """Write `share` of the weights of `top`, adapters added, and the rest of `initial` over the decoder's last blocks
    and final norm."""
    place = _slice(decoder, slice(len(decoder.layers) - len(top.layers), None), norm=decoder.norm)
    old, first = dict(place.named_parameters()), dict(initial.named_parameters())
    with torch.no_grad():
        for name, new in adapters.plain_weights(top):
            old[name].copy_(new if share == 1.0 else torch.lerp(first[name].to(new.dtype), new, share))


def _slice(decoder: Any, layers: slice, norm: nn.Module) -> PreTrainedModel:
    part = copy.copy(decoder)
    part._modules = dict(decoder._modules)
    part.config = copy.copy(decoder.config)
    part.layers = decoder.layers[layers]
    part.norm = norm
    part.config.num_hidden_layers = len(part.layers)
    if kinds := getattr(decoder.config, "layer_types", None):  # some families look there for each block's rotation
        part.config.layer_types = kinds[layers]
    return part


def _num_frozen(decoder: Any, layers: int) -> int:
    """How many blocks stay below the last `layers`; 0 means all of them."""
    config = decoder.config
    if config.model_type.startswith("gemma") or getattr(config, "embedding_multiplier", 1.0) != 1.0:
        raise ModelError(f"{config.model_type} scales its input embeddings, so its trunk cannot be shared")
    return len(_part(decoder, "layers", _KEY)) - len(last_blocks(decoder, layers, _KEY))


def _part(decoder: Any, name: str, key: str) -> Any:
    part = getattr(decoder, name, None)
    if not isinstance(part, nn.Module):
        raise ModelError(
            f"{key}: {type(decoder).__name__} has no part called `{name}`, so its last blocks with the final norm "
            f"cannot be told from the rest; {_INSTEAD[key]}"
        )
    return part


def write_over(weights: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Write the values over the weights of the same names."""
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(values[name])
