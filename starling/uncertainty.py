"""How sure a reward model is of a reward: the last layer's Laplace approximation.

With phi an answer's last hidden state and w the head, reward = w phi. Given the rankings, w is taken as normal around
the trained head with precision

    P = a I + sum over rankings, over places of ( sum_j p_j phi_j phi_j^T - m m^T ),   m = sum_j p_j phi_j,

the curvature of the Plackett-Luce likelihood; p are the probabilities with which each of those still without a place
takes it. (MacKay 1992; for reward models Yang et al. 2024, arXiv:2402.13210, who put it on LoRA weights.) The prior
takes weights as large as the trained ones for likely: a = prior H / |w|^2, where MacKay's evidence settles if all H
directions are well determined. The layers below are taken as known, so spreads are too small where it is they that
are wrong.

Rankings fix no shift of all rewards, so a spread is that of a difference: of the reward less the mean reward of the
training answers, sqrt((phi - phi_mean)^T P^-1 (phi - phi_mean)). It has the reward's unit, does not depend on what
else is scored, and is what the pessimistic reward of Zhu et al. 2023 (arXiv:2301.11270) takes off, with phi_mean as
their reference.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from starling import packed_rewards
from starling.errors import ModelError, StarlingError, explained
from starling.examples import Example, ragged
from starling.losses.ranking import plackett_luce_curvature
from starling.models import Model

FILE = "uncertainty.safetensors"


@dataclass(frozen=True, slots=True)
class Uncertainty:
    """The head's posterior: the lower Cholesky factor of its precision, the mean hidden state, the head itself."""

    factor_HH: Tensor
    mean_H: Tensor
    head_H: Tensor

    def spread(self, hidden_NH: Tensor) -> Tensor:
        """The standard deviation of each reward's distance from the mean training reward: (N, H) -> (N,)."""
        away_HN = (hidden_NH.to(self.mean_H) - self.mean_H).T
        return torch.linalg.solve_triangular(self.factor_HH, away_HN, upper=False).norm(dim=0)


@torch.inference_mode()
def fit(model: Model, examples: Sequence[Example], prior: float, microbatch_tokens: int) -> Uncertainty:
    """One more pass over the training rankings, with the trained weights; in float32, as scores are read."""
    network: Any = model.network
    size, head_H = network.config.hidden_size, network.score.weight[0].cpu()
    assert head_H.any(), "a head of zeros has no size to expect weights of"
    precision_HH = prior * size / head_H.double().square().sum() * torch.eye(size, dtype=torch.float64)
    total_H, count = torch.zeros(size, dtype=torch.float64), 0
    packs, names = [one.pack for one in examples], [one.name for one in examples]
    for indices, _, found_NH, reward_N in packed_rewards.passes(network, packs, microbatch_tokens, names):
        hidden_NH = found_NH.double().cpu()
        precision_HH += information(hidden_NH, reward_N.cpu(), [examples[index] for index in indices])
        total_H += hidden_NH.sum(0)
        count += len(hidden_NH)
    factor_HH, failed = torch.linalg.cholesky_ex(precision_HH)
    if failed:
        raise StarlingError(f"fit: fit.laplace_prior = {prior:g} is too small for these rankings; 1 is usual")
    return Uncertainty(factor_HH.float(), (total_H / count).float(), head_H.float().clone())


def information(hidden_NH: Tensor, reward_N: Tensor, examples: Sequence[Example]) -> Tensor:
    """What these rankings say of the head: the sum of phi^T C phi with C the curvature by the rewards, (H, H)."""
    curvature_BKK = plackett_luce_curvature(*ragged(reward_N.to(hidden_NH), examples))
    sizes = [len(example.endings) for example in examples]
    rows = hidden_NH.split(sizes)
    weighed = [curvature_KK[:k, :k] @ row for k, row, curvature_KK in zip(sizes, rows, curvature_BKK, strict=True)]
    return hidden_NH.T @ torch.cat(weighed)


def save(uncertainty: Uncertainty, folder: Path) -> None:
    """Write it beside the model."""
    tensors = {
        "precision_cholesky": uncertainty.factor_HH.contiguous(),
        "mean_hidden_state": uncertainty.mean_H.contiguous(),
        "score_weight": uncertainty.head_H.contiguous(),
    }
    with explained(f"writing {folder / FILE}"):
        save_file(tensors, folder / FILE)


def load(path: Path, head_H: Tensor) -> Uncertainty:
    """What stands in a file, which must belong to the head that is in use."""
    try:
        tensors = load_file(path)
        found = Uncertainty(tensors["precision_cholesky"], tensors["mean_hidden_state"], tensors["score_weight"])
    except (SafetensorError, KeyError, OSError) as error:
        raise ModelError(f"{path}: not what `fit` writes ({error}); delete it to score without spreads") from error
    if found.head_H.shape != head_H.shape or not torch.allclose(found.head_H, head_H.float().cpu(), rtol=1e-2):
        raise ModelError(f"{path}: belongs to other weights than the model beside it; delete it, or fit again")
    return found
