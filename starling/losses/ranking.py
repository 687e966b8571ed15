"""Likelihood of a ranking of K answers under the Plackett-Luce model."""

import torch
from torch import Tensor


def plackett_luce_nll(
    reward_BK: Tensor, rank_BK: Tensor | None = None, mask_BK: Tensor | None = None, *, margin: float = 0.0
) -> Tensor:
    """-log P(ranking | rewards) for each of B prompts, undivided: (B, K) -> (B,).

    Places are given one by one from the best; each goes to an answer with probability softmax over those still
    without one, so with scores sorted best to worst

        nll = sum_j log sum_{l >= j} exp(s_l - s_j)

    (Plackett 1975; Zhu et al. 2023, arXiv:2301.11270, the K-wise maximum likelihood estimator). Starling's loss is
    this value divided by `decided_places`, K - 1 where all are known; the caller divides. K = 2 is Bradley-Terry:
    softplus(s_worse - s_better). K equal scores in a strict order give log K!.

    `rank_BK`: 1 is best; equal ranks are ties; 0 or infinity is a place unknown, below every ranked answer (top-m) and
    without a term of its own; None means column 0 is best. Ties follow Efron (1977, J. Am. Stat. Assoc. 72:557): of d
    tied answers the l-th takes its place against the field less the share l / d of the tied. `mask_BK` is True where
    there is an answer. `margin` is added to the score of every answer below the one that takes a place, so at K = 2 it
    is subtracted from the better less the worse, as TRL does; 0 is the likelihood itself.

    Computed in float32 or better. Only differences of scores enter, so a shift costs no precision, and +-1e4 is safe.
    """
    place_BK, mask_BK = places(reward_BK, rank_BK, mask_BK)
    return _field(reward_BK, place_BK, mask_BK, margin).logsumexp(-1).sum(-1)


def plackett_luce_curvature(reward_BK: Tensor, rank_BK: Tensor | None = None, mask_BK: Tensor | None = None) -> Tensor:
    """Second derivative of `plackett_luce_nll` by the rewards: (B, K) -> (B, K, K), positive semidefinite.

    A place that goes to one of the field with probabilities p adds diag(p) - p p^T: the covariance of who takes it.
    It does not depend on who took it, only on who competed.
    """
    place_BK, mask_BK = places(reward_BK, rank_BK, mask_BK)
    probability_BKK = _field(reward_BK, place_BK, mask_BK, 0.0).softmax(-1)
    products_BKK = (probability_BKK[..., :, None] * probability_BKK[..., None, :]).sum(
        1
    )  # no `@`: autocast would round
    return torch.diag_embed(probability_BKK.sum(1)) - products_BKK


def centring_penalty(reward_BK: Tensor, mask_BK: Tensor) -> Tensor:
    """(sum of a prompt's rewards)^2: (B, K) -> (B,). Fixes the shift that a ranking leaves free."""
    return reward_BK.masked_fill(~mask_BK, 0.0).sum(-1).square()


def places(reward_BK: Tensor, rank_BK: Tensor | None, mask_BK: Tensor | None) -> tuple[Tensor, Tensor]:
    """Each answer's place, infinite where it is unknown, and which answers there are; both (B, K)."""
    if rank_BK is None:
        rank_BK = torch.arange(1, reward_BK.shape[1] + 1, device=reward_BK.device).expand_as(reward_BK)
    if mask_BK is None:
        mask_BK = torch.ones_like(reward_BK, dtype=torch.bool)
    return torch.where(rank_BK > 0, rank_BK, torch.inf), mask_BK


def decided_places(reward_BK: Tensor, rank_BK: Tensor | None = None, mask_BK: Tensor | None = None) -> Tensor:
    """How many places a ranking decides, (B, K) -> (B,): K - 1, since the last goes to who is left; m of a top-m."""
    place_BK, mask_BK = places(reward_BK, rank_BK, mask_BK)
    known_B = (place_BK.isfinite() & mask_BK).sum(-1)
    return torch.minimum(known_B, mask_BK.sum(-1) - 1)


def differences(reward_BK: Tensor, mask_BK: Tensor) -> Tensor:
    """(b, i, j) -> reward of j less reward of i, in float32 or better; what is masked counts as 0, whatever it held."""
    wide_BK = reward_BK if reward_BK.dtype == torch.float64 else reward_BK.float()
    wide_BK = wide_BK.masked_fill(~mask_BK, 0.0)
    return wide_BK[:, None, :] - wide_BK[:, :, None]


def _field(reward_BK: Tensor, place_BK: Tensor, mask_BK: Tensor, margin: float) -> Tensor:
    """(b, i, j) -> log of j's weight against i's while i takes its place; -inf where j does not compete.

    An answer without a place, or masked, competes with itself alone, so that its row says nothing.
    """
    difference_BKK = differences(reward_BK, mask_BK)
    itself_KK = torch.eye(reward_BK.shape[1], dtype=torch.bool, device=reward_BK.device)
    both_BKK = mask_BK[:, :, None] & mask_BK[:, None, :]
    below_BKK = both_BKK & (place_BK[:, None, :] > place_BK[:, :, None])
    tied_BKK = both_BKK & place_BK.isfinite()[:, :, None] & (place_BK[:, None, :] == place_BK[:, :, None])
    num_tied_BK = tied_BKK.sum(-1).clamp(min=1)  # a masked answer is tied with none
    before_BK = (tied_BKK & torch.ones_like(itself_KK).tril(-1)).sum(-1)
    left_BK = torch.log1p(-before_BK.to(difference_BKK.dtype) / num_tied_BK)
    weight_BKK = left_BK[:, :, None] * tied_BKK + margin * below_BKK.to(difference_BKK.dtype)
    return (difference_BKK + weight_BKK).masked_fill(~(below_BKK | tied_BKK | itself_KK), -torch.inf)
