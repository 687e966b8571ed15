"""Heads on a backbone's hidden states: the logits of an LM, the reward of a reward model, the value of a critic."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from starling import device, packing
from starling.errors import StarlingError
from starling.packing import Packed


def logits(network: Any, hidden_NH: Tensor) -> Tensor:
    """What the LM head makes of hidden states, scaled (Cohere, Granite) or capped (Gemma 2): (N, H) -> (N, V)."""
    found_NV = network.get_output_embeddings()(hidden_NH)
    scale, cap = logit_scale(network.config), _logit_cap(network.config)
    if scale != 1:
        found_NV = found_NV * scale
    return found_NV if cap is None else cap * torch.tanh(found_NV / cap)


def has_linear_logits(network: Any) -> bool:
    """Whether `logits` are hidden states times weights times `logit_scale`, and nothing else."""
    head = network.get_output_embeddings()
    return isinstance(head, nn.Linear) and head.bias is None and _logit_cap(network.config) is None


def logit_scale(config: Any) -> float:
    """What logits are multiplied by; of one name, Granite divides by it and HyperCLOVA X multiplies."""
    if config.model_type == "hyperclovax":
        return config.logits_scaling
    return getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)


def _logit_cap(config: Any) -> float | None:
    return getattr(config, "final_logit_softcapping", None)


def drawn(hidden_size: int, seed: int) -> Tensor:
    """Weights of a head as a linear layer of PyTorch begins: (H,), uniform, no larger than 1 / sqrt(H).

    Not zeros: AdamW moves a weight by about the learning rate a step, so from zeros a short training never gets a head
    of usual size, and what is trained below it has to grow instead.
    """
    drawn_H = torch.empty(hidden_size)
    return nn.init.uniform_(drawn_H, -(hidden_size**-0.5), hidden_size**-0.5, device.generator(seed, "head"))


def rewards(network: Any, packed: Packed) -> Tensor:
    """The reward of each answer of a packed sequence, in order, in float32: (N,)."""
    return rewards_of(network, answer_states(network, packed))


def answer_states(network: Any, packed: Packed) -> Tensor:
    """The last hidden state of each answer of a packed sequence, in order: what its reward is read from, (N, H)."""
    return packing.hidden_states(network.base_model, packed)[packing.last_tokens(packed)]


def rewards_of(network: Any, hidden_NH: Tensor) -> Tensor:
    """The head on such hidden states: (N, H) -> (N,), in float32, whatever the model is in.

    In bfloat16 rewards of about 4 would differ by no less than 1/64, and those of 1e4 by 64: near ones would tie.
    """
    with torch.autocast(hidden_NH.device.type, enabled=False):
        return hidden_NH.float() @ network.score.weight[0].float()


def require_numbers(reward_N: Tensor, scored: Iterable[tuple[str, int]]) -> None:
    """Refuse rewards of which one is NaN or infinite; `scored` names in order whose they are, and how many each has."""
    if reward_N.isfinite().all():
        return
    owners = [where for where, count in scored for _ in range(count)]
    where = owners[int((~reward_N.isfinite()).nonzero()[0])]
    raise StarlingError(
        f"{where}: the reward model gives a reward that is not a number; refit it with a lower fit.learning_rate"
    )


class ValueHead(nn.Module):
    """A critic on hidden states: hidden -> 2 hidden -> 1 with a ReLU between, 0 at first."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.up = nn.Linear(hidden_size, 2 * hidden_size)
        self.down = nn.Linear(2 * hidden_size, 1)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, hidden_NH: Tensor) -> Tensor:
        """The expected return at each position: (N, H) -> (N,)."""
        return self.down(torch.relu(self.up(self.norm(hidden_NH.float()))))[:, 0]
