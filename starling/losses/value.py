"""The critic's regression onto returns."""

from torch import Tensor

from starling.losses import masked
from starling.losses.masked import Loss


def value_loss(value_BT: Tensor, return_BT: Tensor, mask_BT: Tensor, *, num_tokens: Tensor | float | None = None) -> Loss:
    """Half the mean over tokens of (V - R)^2, and the share of the returns' variance that V explains."""
    error_BT = value_BT - return_BT
    value = 0.5 * masked.mean(error_BT.square(), mask_BT, num_tokens)
    variance = return_BT[mask_BT].var(correction=0)
    explained = 1 - error_BT[mask_BT].var(correction=0) / variance.clamp(min=1e-12)  # constant returns: nothing to explain
    return Loss(value, {"explained_variance": explained.detach()})
