"""Keeping answers' length out of the reward: the two heads of ODIN (Chen et al. 2024, arXiv:2402.07319).

Two linear heads on the same hidden state share the ranking: their sum is ranked. One is pushed towards the answers'
length, the other away from it, and only the latter is kept as the reward.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class LengthTerms(NamedTuple):
    """A value to minimise, and how far each head's rewards go with length, from -1 to 1."""

    value: Tensor
    quality_correlation: Tensor
    length_correlation: Tensor


def length_terms(
    quality_BK: Tensor, length_reward_BK: Tensor, length_BK: Tensor, mask_BK: Tensor, heads_2H: Tensor
) -> LengthTerms:
    """|corr(quality, length)| - corr(length reward, length) + |cos(heads)|, a single value for the batch.

    `quality_BK` are the rewards of the head that stays, `length_reward_BK` those of the head that is thrown away,
    `length_BK` the answers' lengths in tokens, `heads_2H` the weights of both heads. The paper's terms for length and
    for orthogonal heads, there each with a coefficient of its own; here they have one between them.

    Where we differ: all three are taken less their mean over the prompt before they are correlated, since a ranking
    says nothing about a shift between prompts; and the heads are made unit vectors in the last term alone, where the
    paper keeps their norms at 1 throughout.
    """
    quality = correlation(quality_BK, length_BK, mask_BK)
    length = correlation(length_reward_BK, length_BK, mask_BK)
    return LengthTerms(quality.abs() - length + _cosine(*heads_2H.unbind()).abs(), quality.detach(), length.detach())


def correlation(first_BK: Tensor, second_BK: Tensor, mask_BK: Tensor) -> Tensor:
    """Pearson's correlation over all answers of the batch, each less the mean of its prompt; 0 where one never varies.

    A scalar in [-1, 1].
    """
    return _cosine(_centred(first_BK, mask_BK).flatten(), _centred(second_BK, mask_BK).flatten())


def _centred(value_BK: Tensor, mask_BK: Tensor) -> Tensor:
    value_BK = value_BK.masked_fill(~mask_BK, 0.0)
    mean_B1 = value_BK.sum(-1, keepdim=True) / mask_BK.sum(-1, keepdim=True).clamp(min=1)
    return (value_BK - mean_B1).masked_fill(~mask_BK, 0.0)


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    """Of two vectors; 0, with no gradient, where one of them is zero: at first the head's rewards are all equal."""
    square = first.square().sum() * second.square().sum()
    none = square == 0
    return torch.where(none, 0.0, (first * second).sum() * torch.where(none, 1.0, square).rsqrt())
