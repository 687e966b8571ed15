"""Advantage-Induced Policy Alignment (Zhu et al. 2023, arXiv:2306.02231)."""

from torch import Tensor

from starling.losses import masked
from starling.losses.masked import Loss


def apa_loss(
    logprob_BT: Tensor,
    anchor_logprob_BT: Tensor,
    advantage_BT: Tensor,
    mask_BT: Tensor,
    *,
    lam: float,
    num_tokens: Tensor | float | None = None,
) -> Loss:
    """Mean over tokens of (log pi - log pi_anchor - A / lambda)^2.

    The target policy is pi_anchor exp(A / lambda), its normaliser taken as 1. With the initial policy as anchor,
    lambda alone holds the policy near it: there is no importance ratio, no clip and no KL term. At the anchor the
    gradient is 2 / lambda times the policy gradient. A target log-probability above 0 cannot be reached; the share of
    such tokens is reported.
    """
    target_BT = anchor_logprob_BT + advantage_BT / lam
    value = masked.mean(masked.squares(logprob_BT - target_BT, mask_BT), mask_BT, num_tokens)
    above_BT = (target_BT > 0).to(logprob_BT.dtype)
    return Loss(value, {"target_above_zero": masked.mean(above_BT, mask_BT, num_tokens).detach()})
