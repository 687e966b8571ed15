"""Pairwise proximal policy optimisation (Wu et al. 2023, arXiv:2310.00212)."""

import math

import torch
from torch import Tensor

from starling.losses import masked
from starling.losses.masked import Loss

MAX_WEIGHT = 10.0  # Starling's bound on the importance weight, from above; its inverse from below


def p3o_loss(
    logprob_B2T: Tensor,
    old_logprob_B2T: Tensor,
    ref_logprob_B2T: Tensor,
    reward_B2: Tensor,
    mask_B2T: Tensor,
    *,
    beta: float,
    clip: float,
    num_pairs: Tensor | float | None = None,
) -> Loss:
    """Policy gradient on the difference of two answers to one prompt: no critic, no baseline.

        l_i = sum_t log pi / pi_ref of answer i,    d = l_1 - l_2,    q = r_1 - r_2 - beta d
        w   = clip(prod_{i,t} pi / pi_old, 1/10, 10)
        L   = mean over pairs of max(-q w d / 2, -q w clip(d, d_old - clip, d_old + clip) / 2)

    with q and w held constant: the form of Starling's code, one clip for both answers. Only r_1 - r_2 enters, so what
    depends on the prompt alone changes nothing. The gradient is 0 where pi = pi_ref exp(r / beta) / Z; on the policy's
    own samples with beta = 0 it is that of RLOO with two answers. The difference of rewards wants no whitening.

    (B, 2, T) each, rewards (B, 2) of the whole answers without a KL term, clip in nats of d. `num_pairs` is the number
    over all microbatches; None means B. Metrics are means over pairs: `clip_fraction` where the clip binds,
    `weight_clip_fraction` where w was clipped, `weight` w itself, `reward_margin` |r_1 - r_2|.
    """
    whole_B2, old_B2, ref_B2 = (
        masked.sums(part_B2T, mask_B2T) for part_B2T in (logprob_B2T, old_logprob_B2T, ref_logprob_B2T)
    )
    d_B, old_d_B = ((part_B2 - ref_B2).diff(dim=1)[:, 0].neg() for part_B2 in (whole_B2, old_B2))
    margin_B = reward_B2[:, 0] - reward_B2[:, 1]
    log_weight_B = (whole_B2 - old_B2).sum(1).detach()
    weight_B = log_weight_B.clamp(-math.log(MAX_WEIGHT), math.log(MAX_WEIGHT)).exp()
    push_B = 0.5 * weight_B * (margin_B - beta * d_B.detach())
    free_B = push_B * d_B
    held_B = push_B * d_B.clamp(old_d_B - clip, old_d_B + clip)
    everything_B = torch.ones_like(d_B, dtype=torch.bool)
    value = -masked.mean(torch.minimum(free_B, held_B), everything_B, num_pairs)
    named = {
        "clip_fraction": (held_B < free_B).to(d_B.dtype),
        "weight_clip_fraction": (log_weight_B.abs() > math.log(MAX_WEIGHT)).to(d_B.dtype),
        "weight": weight_B,
        "reward_margin": margin_B.abs(),
    }
    return Loss(value, {name: masked.mean(part_B, everything_B, num_pairs).detach() for name, part_B in named.items()})
