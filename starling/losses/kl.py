"""Estimates of KL(policy || reference) from the policy's own tokens (Schulman 2020, joschu.net/blog/kl-approx)."""

from torch import Tensor


def k1(logprob_BT: Tensor, ref_logprob_BT: Tensor) -> Tensor:
    """log pi - log pi_ref for each token: unbiased, may be negative."""
    return logprob_BT - ref_logprob_BT


def k3(logprob_BT: Tensor, ref_logprob_BT: Tensor) -> Tensor:
    """r - 1 - log r with r = pi_ref / pi for each token: unbiased, never negative, less noisy."""
    log_ratio_BT = ref_logprob_BT - logprob_BT
    return log_ratio_BT.expm1() - log_ratio_BT
