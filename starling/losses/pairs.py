"""Rankings split into pairs: the comparators of the K-wise loss.

Each loss is the mean over its pairs of

    -log sigmoid(r_better - r_worse - margin)

(Bradley and Terry 1952; the margin as in Touvron et al. 2023, arXiv:2307.09288, eq. 2): (B, K) rewards, ranks and
mask as for `plackett_luce_nll` -> (B,). They differ in which pairs count, never in a pair's value, so at K = 2 all are
the same and equal `plackett_luce_nll`. Two answers with equal ranks, or two of unknown place, are no pair; a ranking
without a pair costs 0.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from starling.losses.ranking import differences, places


def all_pairs(
    reward_BK: Tensor, rank_BK: Tensor | None = None, mask_BK: Tensor | None = None, *, margin: float = 0.0
) -> Tensor:
    """Every answer against every one below it: 2 / (K (K - 1)) sum_{i<j} without ties (Ouyang et al. 2022,
    arXiv:2203.02155, eq. 1). With ties the mean is over the pairs that are decided."""
    place_BK, mask_BK = places(reward_BK, rank_BK, mask_BK)
    return _mean_over(decided(place_BK, mask_BK), reward_BK, mask_BK, margin)


def adjacent_pairs(
    reward_BK: Tensor, rank_BK: Tensor | None = None, mask_BK: Tensor | None = None, *, margin: float = 0.0
) -> Tensor:
    """Every answer against those that hold the next place: K - 1 pairs without ties.

    Tied answers each meet all of the next place. Those of unknown place come after the last that is known.
    """
    place_BK, mask_BK = places(reward_BK, rank_BK, mask_BK)
    decided_BKK = decided(place_BK, mask_BK)
    next_BK = place_BK[:, None, :].expand_as(decided_BKK).masked_fill(~decided_BKK, torch.inf).amin(-1)
    return _mean_over(decided_BKK & (place_BK[:, None, :] == next_BK[:, :, None]), reward_BK, mask_BK, margin)


def best_against_rest(
    reward_BK: Tensor, rank_BK: Tensor | None = None, mask_BK: Tensor | None = None, *, margin: float = 0.0
) -> Tensor:
    """The best answer against each of the others: K - 1 pairs. Tied best answers each meet all that are below them."""
    place_BK, mask_BK = places(reward_BK, rank_BK, mask_BK)
    best_B = place_BK.masked_fill(~mask_BK, torch.inf).amin(-1)
    best_BK = place_BK == best_B[:, None]
    return _mean_over(decided(place_BK, mask_BK) & best_BK[:, :, None], reward_BK, mask_BK, margin)


def sampled_pair(
    reward_BK: Tensor,
    rank_BK: Tensor | None = None,
    mask_BK: Tensor | None = None,
    *,
    draw_B: Tensor,
    margin: float = 0.0,
) -> Tensor:
    """One of the decided pairs: as if the judge had been shown no more than two answers.

    `draw_B` in [0, 1) says which; drawn uniformly, each is as likely, and the expected value is that of `all_pairs`.
    """
    place_BK, mask_BK = places(reward_BK, rank_BK, mask_BK)
    decided_BKK = decided(place_BK, mask_BK)
    number_BP = decided_BKK.flatten(1).cumsum(1)  # the how-manyth decided pair each is
    chosen_B = (draw_B.double() * number_BP[:, -1]).long() + 1
    chosen_BKK = decided_BKK & (number_BP == chosen_B[:, None]).view_as(decided_BKK)
    return _mean_over(chosen_BKK, reward_BK, mask_BK, margin)


def decided(place_BK: Tensor, mask_BK: Tensor) -> Tensor:
    """(b, i, j): are both there, and is i ranked above j? `place_BK` and `mask_BK` as `ranking.places` gives them."""
    return (mask_BK[:, :, None] & mask_BK[:, None, :]) & (place_BK[:, :, None] < place_BK[:, None, :])


def _mean_over(pair_BKK: Tensor, reward_BK: Tensor, mask_BK: Tensor, margin: float) -> Tensor:
    nll_BKK = -logsigmoid(-differences(reward_BK, mask_BK) - margin)
    return nll_BKK.masked_fill(~pair_BKK, 0.0).sum((1, 2)) / pair_BKK.sum((1, 2)).clamp(min=1)
