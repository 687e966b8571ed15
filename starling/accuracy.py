"""What a reward model gets right on rankings it never saw."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import torch

from starling import device, packed_rewards, stats, turns
from starling.examples import Example, ragged
from starling.losses.ranking import plackett_luce_nll
from starling.models import Model
from starling.records import Ranking


def figures(examples: Sequence[Example], scored: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Agreement with held-out rankings of the rewards of each example's answers, beside a judge that only counts
    characters."""
    pairs = [
        pair for example, rewards in zip(examples, scored, strict=True) for pair in pairs_of(example.ranking, rewards)
    ]
    fair = [pair for pair in pairs if not pair.weakened]
    top1 = [_top1(example.ranking.ranks, rewards) for example, rewards in zip(examples, scored, strict=True)]
    prompts = [turns.text_of(example.ranking.messages) for example in examples]
    probability = [pair.probability for pair in pairs] + [1 - pair.probability for pair in pairs]
    outcome = [1.0] * len(pairs) + [0.0] * len(pairs)
    figures = [
        stats.clustered_share("pair_accuracy", [p.right for p in pairs], [p.prompt for p in pairs]),
        stats.clustered_share("pair_accuracy_length_only", [p.longer for p in pairs], [p.prompt for p in pairs]),
        stats.clustered_share("pair_accuracy_not_weakened", [p.right for p in fair], [p.prompt for p in fair]),
        stats.clustered_share(
            "pair_accuracy_not_weakened_length_only", [p.longer for p in fair], [p.prompt for p in fair]
        ),
        stats.clustered_share("top1_agreement", top1, prompts),
    ]
    return {
        "scores": [asdict(figure) for figure in figures],
        "calibration_error": stats.calibration_error(probability, outcome),
        "reliability": stats.reliability(probability, outcome),
    }


def _top1(ranks: Sequence[float], rewards: Sequence[float]) -> float:
    """Whether the answer with the highest reward is ranked first; of those that share it, the part that is."""
    highest = [rank for rank, reward in zip(ranks, rewards, strict=True) if reward == max(rewards)]
    return highest.count(min(ranks)) / len(highest)


def score(model: Model, examples: Sequence[Example], microbatch_tokens: int) -> list[list[float]]:
    """The reward of every answer of every example, as a loaded model gives it: without autocast, unless the caller
    sets it."""
    packs, names = [one.pack for one in examples], [one.name for one in examples]
    return packed_rewards.rewards(model.network, packs, microbatch_tokens, names)


def look(model: Model, tests: Sequence[Example], microbatch_tokens: int) -> dict[str, float]:
    """Pair accuracy and nll a place on held-out rankings, of a model that goes on training after it."""
    model.network.eval()
    with device.autocast(model.network.device):
        scored = score(model, tests, microbatch_tokens)
    model.network.train()
    pairs = [
        pair for example, rewards in zip(tests, scored, strict=True) for pair in pairs_of(example.ranking, rewards)
    ]
    return {
        "held_out_pair_accuracy": sum(pair.right for pair in pairs) / max(len(pairs), 1),
        "held_out_nll": nll(tests, scored),
    }


def nll(examples: Sequence[Example], scored: Sequence[Sequence[float]]) -> float:
    """The Plackett-Luce nll of the rankings under these rewards, a place."""
    reward_N = torch.tensor([reward for rewards in scored for reward in rewards])
    total = float(plackett_luce_nll(*ragged(reward_N, examples)).sum())
    return total / sum(example.num_places for example in examples)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers that the judge ranks apart: is the better one scored higher, and is it the longer one?

    `prompt` tells conversations apart, of which a file may hold several rankings.
    """

    prompt: str
    right: float
    longer: float
    margin: float
    probability: float
    weakened: bool


def pairs_of(ranking: Ranking, rewards: Sequence[float]) -> list[Pair]:
    found = []
    for i, j in combinations(range(len(ranking.answers)), 2):
        if ranking.ranks[i] == ranking.ranks[j]:
            continue
        better, worse = (i, j) if ranking.ranks[i] < ranking.ranks[j] else (j, i)
        margin = rewards[better] - rewards[worse]
        lengths = len(ranking.answers[better].answer), len(ranking.answers[worse].answer)
        found.append(
            Pair(
                prompt=turns.text_of(ranking.messages),
                right=_half_if_equal(margin),
                longer=_half_if_equal(lengths[0] - lengths[1]),
                margin=margin,
                probability=float(torch.sigmoid(torch.tensor(margin))),
                weakened=ranking.answers[i].weakened or ranking.answers[j].weakened,
            )
        )
    return found


def _half_if_equal(difference: float) -> float:
    return 0.5 if difference == 0 else float(difference > 0)
