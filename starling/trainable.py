"""What is trained of a reward model: all weights, the last blocks, or LoRA adapters on their linear layers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModel

from starling import adapters, decoder_parts, device, models
from starling.config import FitTable
from starling.errors import explained

_KEY = "fit.layers"


class Trainable:
    """The trained weights of a network, by name; all others are frozen and no gradient reaches below them."""

    def __init__(self, network: Any, cfg: FitTable, seed: int) -> None:
        self._network = network
        self._adapted = _adapt(network, cfg, seed) if cfg.lora_rank else None
        if self._adapted is None:
            _freeze(network, cfg.layers)
        self.weights = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}

    @property
    def has_adapter(self) -> bool:
        return self._adapted is not None

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Write these values over the trained weights."""
        decoder_parts.write_over(self.weights, weights)

    def save_adapter(self, folder: Path, base: str) -> None:
        """Write adapters and score head in PEFT's layout, as adapters of the model that is loaded by `base`."""
        assert self._adapted is not None
        self._adapted.peft_config["default"].base_model_name_or_path = base
        with explained(f"writing {folder}"):
            self._adapted.save_pretrained(str(folder), save_embedding_layers=False)
            (folder / "README.md").unlink()  # a form that nobody has filled in

    def merge(self) -> None:
        """Add the adapters to the weights they stand beside, so that the network is a plain one again."""
        if self._adapted is not None:
            self._adapted.merge_and_unload()
            self._adapted = None


def refuse_unready(cfg: FitTable, base: str) -> None:
    """Stop before anything is ranked where `base` has no such last blocks as `fit.layers` asks for."""
    if cfg.layers and not cfg.reward_model:
        decoder_parts.last_blocks(models.without_weights(models.load_config(base), AutoModel), cfg.layers, _KEY)


def _freeze(network: Any, layers: int) -> None:
    """Train all weights, or only the last `layers` blocks with final norm and head."""
    if layers == 0:
        return
    decoder = network.base_model
    parts = [*decoder_parts.last_blocks(decoder, layers, _KEY), decoder_parts.final_norm(decoder, _KEY)]
    network.requires_grad_(False)
    for part in [*parts, network.score]:
        part.requires_grad_(True)


def _adapt(network: Any, cfg: FitTable, seed: int) -> PeftModel:
    """Put LoRA adapters on all linear layers of the last `fit.layers` blocks (0 = all); the head is trained in full.

    W x becomes W x + (alpha / rank) B A x with B = 0 at first (Hu et al. 2021, arXiv:2106.09685, section 4.1).
    """
    blocks = decoder_parts.last_blocks(network.base_model, cfg.layers, _KEY)
    targets = adapters.linear_layers(network, blocks)
    # For sequence classifiers PEFT itself trains and saves the head.
    lora = LoraConfig(task_type="SEQ_CLS", r=cfg.lora_rank, lora_alpha=cfg.lora_alpha, target_modules=targets)
    with adapters.drawn_from(device.seed_for(seed, "fit", "lora")), adapters.quiet():
        return get_peft_model(network, lora)
