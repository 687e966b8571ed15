"""Identity preference optimisation (Azar et al. 2023, arXiv:2310.12036)."""

import torch
from torch import Tensor

from starling.losses import masked
from starling.losses.dpo import implicit_reward_metrics
from starling.losses.masked import Loss
from starling.losses.pairs import decided
from starling.losses.ranking import differences, places


def ipo_loss(
    logprob_BK: Tensor,
    ref_logprob_BK: Tensor,
    rank_BK: Tensor | None = None,
    mask_BK: Tensor | None = None,
    *,
    tau: float,
    num_rankings: Tensor | float | None = None,
) -> Loss:
    """Mean over pairs of (h - 1 / (2 tau))^2 with h = log(pi_w / pi_ref) - log(pi_l / pi_ref): eq. 17.

    Unlike DPO's, the gap between the better and the worse answer has a finite goal, 1 / (2 tau) nats. Arguments as for
    `dpo_loss`; with K > 2 the mean is over the decided pairs of each ranking, then over rankings. Metrics are those of
    the rewards tau log(pi / pi_ref), whose goal is a margin of 1/2.

    Log-probabilities are sums over an answer's tokens, as eq. 17 reads; means over them give the form of TRL, which its
    authors report for the paper's own experiments. There 1 / (2 tau) is nats a token.
    """
    ratio_BK = logprob_BK - ref_logprob_BK
    place_BK, there_BK = places(ratio_BK, rank_BK, mask_BK)
    pair_BKK = decided(place_BK, there_BK)
    error_BKK = (-differences(ratio_BK, there_BK) - 1 / (2 * tau)).square().masked_fill(~pair_BKK, 0.0)
    loss_B = error_BKK.sum((1, 2)) / pair_BKK.sum((1, 2)).clamp(min=1)
    value = masked.mean(loss_B, torch.ones_like(loss_B, dtype=torch.bool), num_rankings)
    return Loss(value, implicit_reward_metrics(tau * ratio_BK, rank_BK, mask_BK, num_rankings))
