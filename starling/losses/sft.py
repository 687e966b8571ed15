"""Supervised tuning on the best answers: imitation, with nothing learnt from the others."""

from torch import Tensor

from starling.losses import masked
from starling.losses.masked import Loss


def sft_loss(logprob_BT: Tensor, mask_BT: Tensor, *, num_tokens: Tensor | float | None = None) -> Loss:
    """-mean over tokens of log pi: the negative log-likelihood of the answers that were ranked first.

    The rival that reinforcement learning has to beat (Ouyang et al. 2022, arXiv:2203.02155, section 3.5; on chosen
    answers alone "preferred-FT" of Rafailov et al. 2023, arXiv:2305.18290, section 6). Every token counts the same,
    whosever answer it is in, so a prompt with several best answers, or longer ones, weighs more. It is `awr_loss` with
    every advantage 0. There is no KL term: passes and learning rate alone hold the policy near the initial one.

    (B, T) in nats; answers that are not best have no rows here. Metrics: none beside the loss.
    """
    return Loss(-masked.mean(logprob_BT, mask_BT, num_tokens), {})
