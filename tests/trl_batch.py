"""A batch that anybody can make again, our losses on it, and what TRL 1.16's own loss functions give.

`test_trl_losses.py` asks TRL for these values, where it is installed; `test_trl_values.py` holds ours against them.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from starling.losses import masked
from starling.losses.dpo import dpo_loss
from starling.losses.grpo import grpo_loss
from starling.losses.ipo import ipo_loss
from starling.losses.masked import Loss
from starling.losses.ppo import clipped_policy_loss
from starling.losses.rloo import rloo_loss

B, T = 6, 5


class Batch(NamedTuple):
    """Logprobs (B, T) that ask for a gradient, old logprobs, an advantage an answer, and which tokens count."""

    logprob_BT: Tensor
    old_BT: Tensor
    advantage_B: Tensor
    mask_BT: Tensor

    @property
    def advantage_BT(self) -> Tensor:
        return self.advantage_B[:, None].expand(B, T)

    @property
    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Logprobs, old logprobs and lengths of whole answers: three better ones, and beside each a worse, (3, 2)."""
        whole = (masked.sums(part_BT, self.mask_BT) for part_BT in (self.logprob_BT, self.old_BT))
        logprob_P2, old_P2, length_P2 = (part_B.view(2, B // 2).T for part_B in (*whole, self.mask_BT.sum(1)))
        return logprob_P2, old_P2, length_P2


def batch() -> Batch:
    answer_BT, token_BT = torch.meshgrid(torch.arange(B), torch.arange(T), indexing="ij")
    old_BT = -1.5 + torch.cos(1.0 + 3 * answer_BT + 2 * token_BT)
    logprob_BT = old_BT + 0.4 * torch.sin(2.0 + 5 * answer_BT + 3 * token_BT)
    mask_BT = torch.arange(T) < torch.tensor([5, 1, 3, 2, 4, 5])[:, None]
    return Batch(logprob_BT.requires_grad_(), old_BT, torch.cos(4.0 + 7 * torch.arange(B)), mask_BT)


def _grpo(found: Batch, normaliser: str) -> Loss:
    clip = {"clip_low": 0.2, "clip_high": 0.28}
    return grpo_loss(found.logprob_BT, found.old_BT, found.advantage_BT, found.mask_BT, normaliser=normaliser, **clip)


def _dpo(found: Batch) -> Loss:
    logprob_P2, ref_P2, _ = found.pairs
    return dpo_loss(logprob_P2, ref_P2, beta=0.3)


def _ipo(found: Batch) -> Loss:
    """Of means over an answer's tokens, as TRL has it."""
    logprob_P2, ref_P2, length_P2 = found.pairs
    return ipo_loss(logprob_P2 / length_P2, ref_P2 / length_P2, tau=0.3)


OURS: Mapping[str, Callable[[Batch], Loss]] = {
    "grpo": partial(_grpo, normaliser="grpo"),
    "dr_grpo": partial(_grpo, normaliser="dr_grpo"),
    "dapo": partial(_grpo, normaliser="dapo"),
    "dapo, clipped alike": lambda found: clipped_policy_loss(
        found.logprob_BT, found.old_BT, found.advantage_BT, found.mask_BT, clip=0.2
    ),
    "rloo": lambda found: rloo_loss(found.logprob_BT, found.old_BT, found.advantage_B, found.mask_BT, clip=0.2),
    "dpo": _dpo,
    "ipo": _ipo,
}
# Loss, and norm of its gradient by the logprobs.
TRL: Mapping[str, tuple[float, float]] = {
    "grpo": (-0.31767479, 0.11219528),
    "dr_grpo": (-0.15107383, 0.08497456),
    "dapo": (-0.22661074, 0.12746184),
    "dapo, clipped alike": (-0.21678726, 0.12746184),
    "rloo": (-0.26806530, 0.51119936),
    "dpo": (0.68908119, 0.22495218),
    "ipo": (2.57881737, 1.61950624),
}


def told(value: Tensor, found: Batch) -> tuple[float, float]:
    """The loss and the norm of its gradient."""
    (gradient_BT,) = torch.autograd.grad(value, found.logprob_BT, retain_graph=True)
    return value.item(), gradient_BT.norm().item()
