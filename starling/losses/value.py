"""The critic's regression onto returns."""

import torch
from torch import Tensor

from starling.losses import masked
from starling.losses.masked import Loss


def value_loss(
    value_BT: Tensor, return_BT: Tensor, mask_BT: Tensor, *, num_tokens: Tensor | float | None = None
) -> Loss:
    """Half the mean over tokens of (V - R)^2, and the share of the returns' variance that V explains."""
    value = 0.5 * masked.mean(masked.squares(value_BT - return_BT, mask_BT), mask_BT, num_tokens)
    return Loss(value, {"explained_variance": _explained_variance(value_BT, return_BT, mask_BT)})


def clipped_value_loss(
    value_BT: Tensor,
    old_value_BT: Tensor,
    return_BT: Tensor,
    mask_BT: Tensor,
    *,
    clip: float,
    num_tokens: Tensor | float | None = None,
) -> Loss:
    """Half the mean over tokens of max((V - R)^2, (clip(V, V_old - clip, V_old + clip) - R)^2): (B, T) each.

    PPO's bound on the critic's step, from its published code rather than its paper: a value that has moved by more
    than `clip` towards its return teaches no further. `value_clip_fraction` is the share of such tokens;
    `explained_variance` is this batch's own.
    """
    held_BT = value_BT.clamp(old_value_BT - clip, old_value_BT + clip)
    free_BT, held_BT = (masked.squares(one_BT - return_BT, mask_BT) for one_BT in (value_BT, held_BT))
    value = 0.5 * masked.mean(torch.maximum(free_BT, held_BT), mask_BT, num_tokens)
    share = masked.mean((held_BT > free_BT).to(value_BT.dtype), mask_BT, num_tokens)
    explained = _explained_variance(value_BT, return_BT, mask_BT)
    return Loss(value, {"explained_variance": explained, "value_clip_fraction": share})


def _explained_variance(value_BT: Tensor, return_BT: Tensor, mask_BT: Tensor) -> Tensor:
    returns, errors = return_BT[mask_BT], (value_BT - return_BT)[mask_BT].detach()
    if len(returns.unique()) < 2:  # all the same, or none: there is nothing to explain
        return returns.new_zeros(())
    return 1 - errors.var(correction=0) / returns.var(correction=0)
