"""What a step of tuning reports of its answers: rewards, lengths, KL."""

from collections.abc import Sequence

import torch

from starling.experience import Part, Scale
from starling.losses import kl


def of_answers(parts: Sequence[Part], scale: Scale) -> dict[str, float]:
    """Length and ending of the answers, and where they were rewarded their mean reward, scaled and raw."""
    answers = [answer for part in parts for group in part.groups for answer in group.answers]
    raw = [row for part in parts for row in part.raw]
    found = {}
    if raw:
        mean = sum(map(sum, raw)) / len(answers)
        found = {
            "reward": (mean - scale.mean) / scale.spread,
            "reward_raw": mean,
            "reward_spread_within_prompt": sum(map(_spread, raw)) / len(raw),
        }
    return found | {
        "completions/mean_length": sum(len(answer.ids) for answer in answers) / len(answers),
        "completions/finished": sum(answer.finished for answer in answers) / len(answers),
    }


def _spread(row: Sequence[float]) -> float:
    """The standard deviation; one answer by itself has none."""
    return float(torch.tensor(row).std()) if len(row) > 1 else 0.0


def of_rollouts(parts: Sequence[Part]) -> dict[str, float]:
    """KL of the policy that sampled to the reference: nats an answer by k1, nats a token by k3; and its entropy, nats
    an answer, from the same samples."""
    answers = [answer for part in parts for group in part.groups for answer in group.answers]
    logprob_N = torch.tensor([value for answer in answers for value in answer.logprobs])
    experiences = [experience for part in parts for experience in part.experiences]
    ref_logprob_N = torch.cat([experience.features.ref_logprob_N for experience in experiences]).cpu()
    return {
        "objective/kl": float(kl.k1(logprob_N, ref_logprob_N).sum()) / len(answers),
        "objective/kl_k3": float(kl.k3(logprob_N, ref_logprob_N).mean()),
        "objective/entropy": -float(logprob_N.sum()) / len(answers),
    }
