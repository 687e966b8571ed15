"""REINFORCE with a leave-one-out baseline (Kool et al. 2019; Ahmadian et al. 2024, arXiv:2402.14740)."""

import torch
from torch import Tensor

from starling.losses import masked
from starling.losses.masked import Loss
from starling.losses.ppo import clipped_surrogate


def rloo_loss(
    logprob_BT: Tensor,
    old_logprob_BT: Tensor,
    advantage_B: Tensor,
    mask_BT: Tensor,
    *,
    clip: float,
    num_answers: Tensor | float | None = None,
) -> Loss:
    """Mean over answers of -min(rho A, clip(rho, 1 - clip, 1 + clip) A), an answer being one action.

    rho = prod_t pi / pi_old over the answer's tokens; (B, T), (B, T), (B,), (B, T). `advantage_B` comes from
    `advantage.leave_one_out`. On the policy's own samples, rho = 1, the gradient is the paper's:
    -1/N sum_i A_i grad log pi(y_i). `num_answers` is the number over all microbatches; None means B. `clip_fraction`,
    `ratio` and `approx_kl` are means over answers.

    Where we differ: the paper takes one step from each sample and has no clip; with one step neither have we, since
    nothing clips at rho = 1.
    """
    whole_B1, old_B1 = (masked.sums(part_BT, mask_BT)[:, None] for part_BT in (logprob_BT, old_logprob_BT))
    everything_B1 = torch.ones_like(whole_B1, dtype=torch.bool)
    found = clipped_surrogate(whole_B1, old_B1, advantage_B[:, None], everything_B1, clip_low=clip, clip_high=clip)
    value = masked.mean(found.loss_BT, everything_B1, num_answers)
    return Loss(value, found.metrics(everything_B1, num_answers))
