"""The critic's regression onto returns."""

from torch import Tensor

from starling.losses import masked
from starling.losses.masked import Loss


def value_loss(
    value_BT: Tensor, return_BT: Tensor, mask_BT: Tensor, *, num_tokens: Tensor | float | None = None
) -> Loss:
    """Half the mean over tokens of (V - R)^2, and the share of the returns' variance that V explains."""
    error_BT = value_BT - return_BT
    value = 0.5 * masked.mean(error_BT.square(), mask_BT, num_tokens)
    returns, errors = return_BT[mask_BT], error_BT[mask_BT].detach()
    explained = returns.new_zeros(())  # of returns that are all the same, or none, there is nothing to explain
    if len(returns.unique()) > 1:
        explained = 1 - errors.var(correction=0) / returns.var(correction=0)
    return Loss(value, {"explained_variance": explained})
