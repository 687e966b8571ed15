"""LoRA adapters on the blocks that `tune` trains, and the folder of them that PEFT and vLLM read."""

import copy
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedModel

from starling import progress
from starling.errors import ModelError, explained

_NAME = "default"  # PEFT's for the only adapter there is


class Lora(NamedTuple):
    """Rank and alpha: what an adapter adds counts alpha / rank. The seed draws its first weights."""

    rank: int
    alpha: int
    seed: int


def linear_layers(network: nn.Module, blocks: Iterable[nn.Module]) -> list[str]:
    """The full names of all linear layers in these blocks of the network, which LoRA adapts.

    Matrices that are no such layer, such as those of experts in one tensor, get no adapters, which is told; a network
    without any such layer is refused.
    """
    chosen = set(blocks)
    found = {
        f"{name}.{inner}": module
        for name, block in network.named_modules()
        if block in chosen
        for inner, module in block.named_modules()
        if isinstance(module, nn.Linear)
    }
    matrices = [weight for block in chosen for weight in block.parameters() if weight.ndim > 1]
    adapted = sum(module.weight.numel() for module in found.values())
    if not found:
        raise ModelError(f"{type(network).__name__} has no linear layers that LoRA could adapt; set lora_rank = 0")
    if left := sum(weight.numel() for weight in matrices) - adapted:
        progress.say(
            f"LoRA: {left:,} of {left + adapted:,} weights in the blocks' matrices are in no linear layer, such as "
            f"those of experts, and get no adapters: only {len(found)} linear layers are adapted"
        )
    return list(found)


def adapted(top: PreTrainedModel, lora: Lora) -> PreTrainedModel:
    """A twin of a frozen top with adapters on its blocks' linear layers; it shares all weights but theirs.

    W x becomes W x + (alpha / rank) B A x with B = 0 at first (Hu et al. 2021, arXiv:2106.09685, section 4.1).
    """
    twin: Any = copy.deepcopy(top, {id(weight): weight for weight in top.parameters()})
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=linear_layers(twin, twin.layers))
    with drawn_from(lora.seed), quiet():
        inject_adapter_in_model(config, twin)
    return twin


@contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Random numbers that follow from the seed alone; what is drawn after goes on as before."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Without PEFT's warning that it asks transformers by a name that will be given up."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def plain_weights(top: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Each weight of a top under the name that it has without adapters, with what its adapter adds."""
    adapters = {f"{name}.weight": module for name, module in _adapters(top)}
    for name, weight in top.named_parameters():
        plain = name.replace(".base_layer.", ".")
        if ".lora_" in name:
            continue
        yield plain, weight + adapters[plain].get_delta_weight(_NAME) if plain in adapters else weight


def save(top: Any, folder: Path, lora: Lora, *, network: PreTrainedModel, base: str, share: float = 1.0) -> None:
    """Write a top's adapters in PEFT's layout, as adapters of the whole `network`, which is loaded by the name `base`.

    `share` of what they add is written: B is multiplied by it.
    """
    first = len(network.get_decoder().layers) - len(top.layers)
    weights: dict[str, Tensor] = {}
    targets = []
    for name, module in _adapters(top):
        _layers, number, rest = name.split(".", 2)
        target = f"{network.base_model_prefix}.layers.{first + int(number)}.{rest}"
        targets.append(target)
        for part, factor in (("lora_A", 1.0), ("lora_B", share)):
            weight = getattr(module, part)[_NAME].weight.detach() * factor
            weights[f"base_model.model.{target}.{part}.weight"] = weight.contiguous().cpu()
    config = LoraConfig(
        task_type="CAUSAL_LM", r=lora.rank, lora_alpha=lora.alpha, target_modules=targets,
        base_model_name_or_path=base, inference_mode=True,
    )  # fmt: skip
    with explained(f"writing {folder}"):
        config.save_pretrained(str(folder))
        save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _adapters(top: nn.Module) -> Iterator[tuple[str, Any]]:
    return ((name, module) for name, module in top.named_modules() if isinstance(module, LoraLayer))
