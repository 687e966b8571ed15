"""Direct preference optimisation on rankings of K answers (Rafailov et al. 2023, arXiv:2305.18290)."""

import torch
from torch import Tensor

from starling.losses import masked
from starling.losses.masked import Loss
from starling.losses.pairs import decided
from starling.losses.ranking import differences, places, plackett_luce_nll


def dpo_loss(
    logprob_BK: Tensor,
    ref_logprob_BK: Tensor,
    rank_BK: Tensor | None = None,
    mask_BK: Tensor | None = None,
    *,
    beta: float,
    num_rankings: Tensor | float | None = None,
) -> Loss:
    """Mean over rankings of the Plackett-Luce nll of the rewards beta log(pi / pi_ref) (appendix A.3).

    A policy is the best answer to a reward of its own, which this fits to the ranking. Log-probabilities are sums over
    each answer's tokens, (B, K); ranks, ties, top-m and the mask are those of `plackett_luce_nll`. K = 2 is DPO, eq. 7:
    -log sigmoid(beta (log pi_w / pi_ref - log pi_l / pi_ref)). The nll is undivided, so a ranking of more answers
    weighs more. What a prompt adds to all its answers' log-probabilities or references changes nothing.

    `num_rankings` is the number over all microbatches; None means B.
    """
    reward_BK = beta * (logprob_BK - ref_logprob_BK)
    nll_B = plackett_luce_nll(reward_BK, rank_BK, mask_BK)
    everything_B = torch.ones_like(nll_B, dtype=torch.bool)
    value = masked.mean(nll_B, everything_B, num_rankings)
    return Loss(value, implicit_reward_metrics(reward_BK, rank_BK, mask_BK, num_rankings))


def implicit_reward_metrics(
    reward_BK: Tensor, rank_BK: Tensor | None, mask_BK: Tensor | None, num_rankings: Tensor | float | None
) -> dict[str, Tensor]:
    """Means over rankings of what their decided pairs say: `accuracy`, the share whose better answer has the higher
    reward, and `margin`, by how much. A ranking without a decided pair counts 0."""
    place_BK, mask_BK = places(reward_BK, rank_BK, mask_BK)
    pair_BKK = decided(place_BK, mask_BK)
    margin_BKK = -differences(reward_BK.detach(), mask_BK)
    everything_B = torch.ones_like(mask_BK[:, 0])
    named = {"accuracy": (margin_BKK > 0).to(margin_BKK.dtype), "margin": margin_BKK}
    return {
        name: masked.mean(
            part_BKK.masked_fill(~pair_BKK, 0.0).sum((1, 2)) / pair_BKK.sum((1, 2)).clamp(min=1),
            everything_B,
            num_rankings,
        )
        for name, part_BKK in named.items()
    }
