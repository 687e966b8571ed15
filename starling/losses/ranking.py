"""Likelihood of a ranking of K answers under the Plackett-Luce model."""

import torch
from torch import Tensor


def plackett_luce_nll(reward_BK: Tensor, rank_BK: Tensor | None = None, mask_BK: Tensor | None = None) -> Tensor:
    """-log P(ranking | rewards) for each of B prompts, undivided: (B, K) -> (B,).

    Places are given one by one from the best; each goes to an answer with probability softmax over those still
    without one, so with scores sorted best to worst

        nll = sum_j [ log sum_{l >= j} exp(s_l) - s_j ]

    (Plackett 1975; Zhu et al. 2023, arXiv:2301.11270, the K-wise maximum likelihood estimator). Starling's loss is
    this value divided by K - 1; the caller divides. K = 2 is Bradley-Terry: softplus(s_worse - s_better). K equal
    scores in a strict order give log K!.

    `rank_BK`: 1 is best; equal ranks are ties; 0 is a place unknown, below every ranked answer (top-m) and without a
    term of its own; None means column 0 is best. Ties follow Efron (1977, J. Am. Stat. Assoc. 72:557): of d tied
    answers the l-th takes its place against the field less the share l / d of the tied. `mask_BK` is True where there
    is an answer. Computed in float32 or better; rewards of +-1e4 are safe.
    """
    reward_BK = reward_BK if reward_BK.dtype == torch.float64 else reward_BK.float()
    num_answers = reward_BK.shape[1]
    if rank_BK is None:
        rank_BK = torch.arange(1, num_answers + 1, device=reward_BK.device).expand_as(reward_BK)
    if mask_BK is None:
        mask_BK = torch.ones_like(reward_BK, dtype=torch.bool)
    ranked_BK = mask_BK & (rank_BK > 0)
    place_BK = torch.where(rank_BK > 0, rank_BK, torch.inf)

    # (b, i, j): does answer j still compete when answer i takes its place, and is it tied with i?
    competes_BKK = mask_BK[:, None, :] & (place_BK[:, None, :] >= place_BK[:, :, None])
    tied_BKK = ranked_BK[:, None, :] & (rank_BK[:, None, :] == rank_BK[:, :, None])
    itself_KK = torch.eye(num_answers, dtype=torch.bool, device=reward_BK.device)
    field_BK = _logsumexp(reward_BK, competes_BKK | itself_KK)
    group_BK = _logsumexp(reward_BK, tied_BKK | itself_KK)

    num_tied_BK = tied_BKK.sum(-1).clamp(min=1)
    before_BK = (tied_BKK & itself_KK.new_ones(num_answers, num_answers).tril(-1)).sum(-1)
    share_BK = before_BK.to(reward_BK.dtype) / num_tied_BK
    term_BK = field_BK + torch.log1p(-share_BK * (group_BK - field_BK).exp()) - reward_BK
    return term_BK.masked_fill(~ranked_BK, 0.0).sum(-1)


def centring_penalty(reward_BK: Tensor, mask_BK: Tensor) -> Tensor:
    """(sum of a prompt's rewards)^2: (B, K) -> (B,). Fixes the shift that a ranking leaves free."""
    return reward_BK.masked_fill(~mask_BK, 0.0).sum(-1).square()


def _logsumexp(reward_BK: Tensor, among_BKK: Tensor) -> Tensor:
    return reward_BK[:, None, :].masked_fill(~among_BKK, -torch.inf).logsumexp(-1)
