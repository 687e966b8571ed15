"""Estimates of KL(policy || reference) from the policy's own tokens (Schulman 2020, joschu.net/blog/kl-approx)."""

import torch
from torch import Tensor


def k1(logprob_BT: Tensor, ref_logprob_BT: Tensor) -> Tensor:
    """log pi - log pi_ref for each token: unbiased, may be negative."""
    return logprob_BT - ref_logprob_BT


def k3(logprob_BT: Tensor, ref_logprob_BT: Tensor) -> Tensor:
    """r - 1 - log r with r = pi_ref / pi for each token: unbiased, never negative, less noisy."""
    log_ratio_BT = ref_logprob_BT - logprob_BT
    return log_ratio_BT.expm1() - log_ratio_BT


def exact(logits_NV: Tensor, ref_logits_NV: Tensor) -> Tensor:
    """sum_v pi(v) log(pi(v) / pi_ref(v)) for each row: the whole vocabulary, no sampling noise, (N, V) -> (N,).

    In float32 or better. A token that the policy never gives (logit -inf) adds 0, whatever the reference says.
    """
    logprob_NV, ref_logprob_NV = (
        (part if part.dtype == torch.float64 else part.float()).log_softmax(-1) for part in (logits_NV, ref_logits_NV)
    )
    gap_NV = (logprob_NV - ref_logprob_NV).masked_fill(logprob_NV == -torch.inf, 0.0)
    return (logprob_NV.exp() * gap_NV).sum(-1)


def in_reward(reward_BT: Tensor, logprob_BT: Tensor, ref_logprob_BT: Tensor, mask_BT: Tensor, coef: float) -> Tensor:
    """r_t - coef log(pi / pi_ref) for each token (Ziegler et al. 2019, arXiv:1909.08593, eq. 2): (B, T), no gradient.

    The log-probabilities are those of the policy that sampled; what does not count is 0.
    """
    return (reward_BT - coef * k1(logprob_BT, ref_logprob_BT)).masked_fill(~mask_BT, 0.0).detach()
