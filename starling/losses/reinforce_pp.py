"""REINFORCE++ (Hu et al. 2025, arXiv:2501.03262): PPO without a critic."""

import torch
from torch import Tensor

from starling.losses.advantage import gae
from starling.losses.masked import Loss
from starling.losses.ppo import clipped_policy_loss


def reinforce_pp_return(reward_BT: Tensor, mask_BT: Tensor, *, gamma: float) -> Tensor:
    """The reward still to come at each token, (B, T); whitened over all tokens of the step, it is the advantage.

        R_t = sum_{s >= t} gamma^(s - t) r_s,    r_t = [t = T] r(x, y) - beta log(pi / pi_ref)
        A_t = (R_t - mean(R)) / std(R)           (`advantage.whiten`, never over a microbatch alone)

    `reward_BT` holds the KL already (`kl.in_reward`). R is `gae` with lambda = 1 and no critic.
    """
    return_BT, _ = gae(reward_BT, torch.zeros_like(reward_BT), mask_BT, gamma=gamma, lam=1.0)
    return return_BT


def reinforce_pp_loss(
    logprob_BT: Tensor,
    old_logprob_BT: Tensor,
    advantage_BT: Tensor,
    mask_BT: Tensor,
    *,
    clip: float,
    num_tokens: Tensor | float | None = None,
) -> Loss:
    """PPO's clipped policy loss with `reinforce_pp_return`, whitened, as the advantage."""
    return clipped_policy_loss(logprob_BT, old_logprob_BT, advantage_BT, mask_BT, clip=clip, num_tokens=num_tokens)
