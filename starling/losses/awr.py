"""Advantage-weighted regression (Peng et al. 2019, arXiv:1910.00177)."""

import math

from torch import Tensor

from starling.losses import masked
from starling.losses.masked import Loss


def awr_loss(
    logprob_BT: Tensor,
    advantage_BT: Tensor,
    mask_BT: Tensor,
    *,
    lam: float,
    clip: float,
    num_tokens: Tensor | float | None = None,
) -> Loss:
    """-mean over tokens of min(exp(A / lambda), clip) log pi: imitation of one's samples, the better ones more.

    Their temperature beta is lambda here; the rival of APA in Zhu et al. 2023, arXiv:2306.02231. On samples of
    pi_old the minimiser is pi_old exp(A / lambda), normalised; APA's target is the same without the normaliser. The
    weight stops at `clip` (Peng et al. take 20; infinity is off) and the share of tokens where it did is reported.

    (B, T) each; logprob and advantage in nats and units of lambda.
    """
    exponent_BT = (advantage_BT / lam).masked_fill(~mask_BT, 0.0)
    weight_BT = exponent_BT.clamp(max=math.log(clip)).exp()
    clipped_BT = (exponent_BT > math.log(clip)).to(logprob_BT.dtype)
    metrics = {
        "weight": masked.mean(weight_BT, mask_BT, num_tokens).detach(),
        "weight_clip_fraction": masked.mean(clipped_BT, mask_BT, num_tokens).detach(),
    }
    return Loss(-masked.mean(weight_BT.detach() * logprob_BT, mask_BT, num_tokens), metrics)
