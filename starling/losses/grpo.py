"""Group relative policy optimisation and its two corrections of how tokens are weighed."""

from typing import Literal, NamedTuple

from torch import Tensor

from starling.losses import masked
from starling.losses.masked import Loss
from starling.losses.ppo import clipped_surrogate

Normaliser = Literal["grpo", "dr_grpo", "dapo"]


class Counts(NamedTuple):
    """What an update holds over all its microbatches and ranks."""

    tokens: Tensor | float
    answers: Tensor | float
    max_tokens: Tensor | float  # the cap on an answer's tokens


def grpo_loss(
    logprob_BT: Tensor,
    old_logprob_BT: Tensor,
    advantage_BT: Tensor,
    mask_BT: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    normaliser: Normaliser,
    counts: Counts | None = None,
) -> Loss:
    """PPO's clipped surrogate with the answer's advantage on each of its tokens, l_{i,t}; (B, T) each.

        grpo     1/N sum_i 1/|o_i| sum_t l_{i,t}         Shao et al. 2024, arXiv:2402.03300, eq. 3
        dr_grpo  1/(N L) sum_i sum_t l_{i,t}             Liu et al. 2025, arXiv:2503.20783; L is the cap on |o_i|
        dapo     1/sum_i |o_i| sum_i sum_t l_{i,t}       Yu et al. 2025, arXiv:2503.14476, eq. 8

    over N answers o_i. `grpo` teaches long answers less for a token, `dr_grpo` and `dapo` do not. The advantage comes
    from `advantage.normalised_group` (grpo, dapo) or `advantage.group` (dr_grpo). With clip_low = clip_high and `dapo`
    this is `clipped_policy_loss`.

    So that microbatches add up to one large batch, `counts` says what the whole update holds; None means this batch by
    itself, L its width T. An answer of which nothing counts is still one of N. Metrics are means over tokens, whatever
    the normaliser.

    Where we differ: no KL term; in `tune` the KL to the reference stands beside the normalised reward (`kl.in_reward`).
    """
    found = clipped_surrogate(logprob_BT, old_logprob_BT, advantage_BT, mask_BT, clip_low=clip_low, clip_high=clip_high)
    own_B1 = mask_BT.sum(-1, keepdim=True)
    tokens, answers, max_tokens = counts or Counts(own_B1.sum(), mask_BT.shape[0], mask_BT.shape[1])
    if normaliser == "grpo":
        value = masked.mean(found.loss_BT / own_B1.clamp(min=1), mask_BT, answers)
    elif normaliser == "dr_grpo":
        value = masked.mean(found.loss_BT, mask_BT, answers * max_tokens)
    else:
        value = masked.mean(found.loss_BT, mask_BT, tokens)
    return Loss(value, found.metrics(mask_BT, tokens))
