"""What a step of tuning reports of its answers: rewards, lengths, KL."""

from collections.abc import Sequence
from statistics import fmean

import torch
from torch import Tensor

from starling.experience import Batch, Part, Scale, is_flat
from starling.generate import Sampled
from starling.losses import kl
from starling.rollout import Group


def of_answers(parts: Sequence[Part], scale: Scale) -> dict[str, float]:
    """Length and ending of the answers, and where they were rewarded their mean reward, scaled and raw."""
    answers = [answer for part in parts for group in part.groups for answer in group.answers]
    raw = [row for part in parts for row in part.raw]
    found = {}
    if raw:
        mean = sum(map(sum, raw)) / len(answers)
        found = {
            "reward": scale.of(mean),
            "reward_raw": mean,
            "reward_std": _spread([reward for row in raw for reward in row]) / scale.spread,
            "reward_spread_within_prompt": sum(map(_spread, raw)) / len(raw),
            "frac_reward_zero_std": sum(map(is_flat, raw)) / len(raw),
        }
    lengths = [len(answer.ids) for answer in answers]
    ended = [len(answer.ids) for answer in answers if answer.finished]
    return found | {
        "completions/mean_length": fmean(lengths),
        "completions/min_length": float(min(lengths)),
        "completions/max_length": float(max(lengths)),
        "completions/mean_terminated_length": fmean(ended) if ended else 0.0,
        "completions/clipped_ratio": 1 - len(ended) / len(answers),
    }


def _spread(row: Sequence[float]) -> float:
    """The standard deviation; one answer by itself has none."""
    return float(torch.tensor(row).std()) if len(row) > 1 else 0.0


def of_rollouts(parts: Sequence[Part], compared: Sequence[Group], ref_logprob_N: Tensor) -> dict[str, float]:
    """KL of the policy that sampled to the reference, on the groups that were compared: nats an answer by k1, nats a
    token by k3, and over how many answers, where it is not all; and the policy's entropy, nats an answer, from all
    samples."""
    answers = [answer for part in parts for group in part.groups for answer in group.answers]
    chosen = [answer for group in compared for answer in group.answers]
    logprob_N, ref_logprob_N = _logprobs(chosen), ref_logprob_N.cpu()
    found = {
        "objective/kl": float(kl.k1(logprob_N, ref_logprob_N).sum()) / len(chosen),
        "objective/kl_k3": float(kl.k3(logprob_N, ref_logprob_N).mean()),
        "objective/entropy": -float(_logprobs(answers).sum()) / len(answers),
    }
    return found if len(chosen) == len(answers) else found | {"objective/kl_answers": float(len(chosen))}


def charged_kl(parts: Sequence[Sequence[Batch]]) -> float:
    """The KL that the rewards were charged with, nats an answer: of what trains to the reference."""
    nats = [
        kl.k1(batch.anchor_logprob_BT, batch.experience.ref_logprob_BT)[batch.experience.mask_BT].sum()
        for part in parts
        for batch in part
    ]
    return float(sum(nats)) / sum(len(batch.experience.lengths) for part in parts for batch in part)


def _logprobs(answers: Sequence[Sampled]) -> Tensor:
    return torch.tensor([value for answer in answers for value in answer.logprobs])
