"""Proximal policy optimisation's clipped surrogate (Schulman et al. 2017, arXiv:1707.06347)."""

from typing import NamedTuple

import torch
from torch import Tensor

from starling.losses import kl, masked
from starling.losses.masked import Loss

MOST = 80.0  # nats that a log-ratio may have: its exponential, times an advantage, is still a float32 number


class Surrogate(NamedTuple):
    """Each action's loss, and detached: its probability ratio, 1.0 where the clip binds, and k3 of old and new."""

    loss_BT: Tensor
    ratio_BT: Tensor
    clipped_BT: Tensor
    kl_BT: Tensor

    def metrics(self, mask_BT: Tensor, num_tokens: Tensor | float | None) -> dict[str, Tensor]:
        """Means over the actions that count, which add up over microbatches."""
        named = {"clip_fraction": self.clipped_BT, "ratio": self.ratio_BT, "approx_kl": self.kl_BT}
        return {name: masked.mean(value_BT, mask_BT, num_tokens) for name, value_BT in named.items()}


def clipped_surrogate(
    logprob_BT: Tensor,
    old_logprob_BT: Tensor,
    advantage_BT: Tensor,
    mask_BT: Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> Surrogate:
    """-min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A) for each action, rho = pi / pi_old (eq. 7).

    One side of the clip binds at a time: rho > 1 + clip_high where A > 0, rho < 1 - clip_low where A < 0; there the
    gradient is 0. `approx_kl` is k3 of KL(pi_old || pi) on samples of pi_old, rho - 1 - log rho. What is masked has
    ratio 1 and no gradient, whatever it held. A log rho past `MOST` counts as that, without a gradient.
    """
    log_ratio_BT = (logprob_BT - old_logprob_BT).masked_fill(~mask_BT, 0.0).clamp(max=MOST)
    ratio_BT = log_ratio_BT.exp()
    free_BT = ratio_BT * advantage_BT
    held_BT = ratio_BT.clamp(1 - clip_low, 1 + clip_high) * advantage_BT
    kl_BT = kl.k3(torch.zeros_like(log_ratio_BT), log_ratio_BT)
    clipped_BT = (held_BT < free_BT).to(ratio_BT.dtype)
    return Surrogate(-torch.minimum(free_BT, held_BT), ratio_BT.detach(), clipped_BT, kl_BT.detach())


def clipped_policy_loss(
    logprob_BT: Tensor,
    old_logprob_BT: Tensor,
    advantage_BT: Tensor,
    mask_BT: Tensor,
    *,
    clip: float,
    num_tokens: Tensor | float | None = None,
) -> Loss:
    """Mean over tokens of -min(rho A, clip(rho, 1 - clip, 1 + clip) A): (B, T) each.

    rho = pi / pi_old with the policy that sampled as pi_old. At rho = 1 the gradient is the policy gradient,
    -mean A grad log pi. The critic's loss stands in `value.py`, the KL to the reference in the reward.
    """
    found = clipped_surrogate(logprob_BT, old_logprob_BT, advantage_BT, mask_BT, clip_low=clip, clip_high=clip)
    value = masked.mean(found.loss_BT, mask_BT, num_tokens)
    return Loss(value, found.metrics(mask_BT, num_tokens))
