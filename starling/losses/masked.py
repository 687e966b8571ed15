"""Sums and means over the tokens that count."""

from typing import NamedTuple

import torch
from torch import Tensor


class Loss(NamedTuple):
    """A value to minimise and what to report about it; metrics are detached scalars."""

    value: Tensor
    metrics: dict[str, Tensor]


def mean(value_BT: Tensor, mask_BT: Tensor, num_tokens: Tensor | float | None = None) -> Tensor:
    """Sum over the counted tokens divided by `num_tokens`, the global count; None means this mask's own.

    Where nothing counts, the sum is an exact 0 and so is the mean.
    """
    total = mask_BT.sum() if num_tokens is None else torch.as_tensor(num_tokens, device=value_BT.device)
    return value_BT.masked_fill(~mask_BT, 0.0).sum() / total.clamp(min=1)


def squares(value_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """The squares where tokens count, else 0; what stands elsewhere, NaN or infinity too, has no gradient."""
    return value_BT.masked_fill(~mask_BT, 0.0).square()


def sums(value_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Sum over each answer's counted tokens: (..., T) -> (...,). Of log-probabilities it is the whole answer's."""
    return value_BT.masked_fill(~mask_BT, 0.0).sum(-1)
