"""What a step of `fit` minimises, and what it reports of it."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from starling import device, heads
from starling.config import FitTable
from starling.errors import DataError
from starling.examples import Example, ragged
from starling.losses import pairs
from starling.losses.length import length_terms
from starling.losses.ranking import centring_penalty, decided_places, plackett_luce_nll
from starling.records import Ranking


def _worth_its_places(mean_nll: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A ranking's mean over pairs, counted for each place that it decides: as often as the K-wise loss counts it."""

    def nll(reward_BK: Tensor, rank_BK: Tensor, mask_BK: Tensor, **settings: Any) -> Tensor:
        return mean_nll(reward_BK, rank_BK, mask_BK, **settings) * decided_places(reward_BK, rank_BK, mask_BK)

    return nll


LOSSES: Mapping[str, Callable[..., Tensor]] = {
    "plackett_luce": plackett_luce_nll,
    "all_pairs": _worth_its_places(pairs.all_pairs),
    "sampled_pair": _worth_its_places(pairs.sampled_pair),
    "adjacent_pairs": _worth_its_places(pairs.adjacent_pairs),
    "best_against_rest": _worth_its_places(pairs.best_against_rest),
}


class Summed(NamedTuple):
    """Sums over some of a step's rankings, to be divided by the places of all of them: the loss, and what to report.

    `nll` is the K-wise negative log likelihood, whatever the loss, so that runs with different losses compare.
    """

    loss: Tensor
    report: dict[str, float]


class Objective:
    """The loss of `fit`'s settings: kind, margin, weights, centring, length head.

    Every ranking counts as the places it decides times its weight, whatever the loss; the divisor is the step's places.
    So the gradient of a step does not depend on its microbatches. The length terms alone do: they correlate what runs
    together.
    """

    def __init__(self, cfg: FitTable, network: Any, examples: Sequence[Example], seed: int) -> None:
        self._cfg = cfg
        self._network = network
        self._seed = seed
        self._mean_agreement = _mean_agreement([example.ranking for example in examples])
        if cfg.weights == "agreement" and self._mean_agreement == 0:
            raise DataError(
                "fit: the judge agrees with itself on no ranking, so all weights are 0; set fit.weights = 'none'"
            )
        self._length_head = None
        if cfg.length_head:
            drawn_H = heads.drawn(network.config.hidden_size, device.seed_for(seed, "fit", "length head"))
            self._length_head = nn.Parameter(drawn_H.to(network.device))

    @property
    def weights(self) -> dict[str, nn.Parameter]:
        """What is trained beside the network and not saved with it, by name."""
        return {} if self._length_head is None else {"length_head.weight": self._length_head}

    def __call__(self, reward_N: Tensor, hidden_NH: Tensor, examples: Sequence[Example]) -> Summed:
        """From the rewards of the examples' answers in packed order, and the hidden states they were read from."""
        cfg = self._cfg
        reward_BK, rank_BK, mask_BK = ragged(reward_N, examples)
        ranked_BK, extra, report = reward_BK, cfg.centring_coef * centring_penalty(reward_BK, mask_BK).sum(), {}
        if self._length_head is not None:
            length_reward_BK, _, _ = ragged(hidden_NH.float() @ self._length_head, examples)
            ranked_BK = reward_BK + length_reward_BK
            heads_2H = torch.stack([self._network.score.weight[0], self._length_head])
            found = length_terms(reward_BK, length_reward_BK, _lengths(examples, mask_BK), mask_BK, heads_2H)
            places = num_places(examples)
            extra = extra + cfg.length_head * places * found.value
            report = {
                "length_correlation": places * float(found.quality_correlation),
                "length_head_correlation": places * float(found.length_correlation),
            }
        own = {"draw_B": self._draws(examples, reward_N.device)} if cfg.loss == "sampled_pair" else {}
        nll_B = LOSSES[cfg.loss](ranked_BK, rank_BK, mask_BK, margin=cfg.margin, **own)
        loss = (self._weights(examples, nll_B) * nll_B).sum() + extra
        nll = plackett_luce_nll(reward_BK.detach(), rank_BK, mask_BK).sum()
        return Summed(loss, {"loss": float(loss.detach()), "nll": float(nll), **report})

    def weight(self, ranking: Ranking) -> float:
        """How much a ranking counts; the mean over the training rankings is 1."""
        return 1.0 if self._cfg.weights == "none" else agreement(ranking) / self._mean_agreement

    def weight_facts(self, examples: Sequence[Example]) -> dict[str, Any] | None:
        """The least and the largest weight, and for how many rankings nothing is known of the judge's agreement."""
        if self._cfg.weights == "none":
            return None
        rankings = [example.ranking for example in examples]
        found = [self.weight(ranking) for ranking in rankings]
        unknown = sum(ranking.agreement is None and ranking.self_agreement is None for ranking in rankings)
        return {"least": min(found), "largest": max(found), "unknown": unknown}

    def _weights(self, examples: Sequence[Example], like_B: Tensor) -> Tensor:
        return like_B.new_tensor([self.weight(example.ranking) for example in examples])

    def _draws(self, examples: Sequence[Example], where: torch.device) -> Tensor:
        """A number in [0, 1) for each ranking: the same at every visit, as in a data set of pairs."""
        return torch.tensor(
            [_draw(self._seed, example.ranking) for example in examples], dtype=torch.float64, device=where
        )


def num_places(examples: Sequence[Example]) -> int:
    """What a step's sums are divided by: the places that its rankings decide, K - 1 of a whole ranking."""
    return sum(example.num_places for example in examples)


def agreement(ranking: Ranking) -> float:
    """How far the judge agrees with itself on a ranking, from 0 to 1; what is not known of it counts as full.

    The share of its pair verdicts that the ranking upholds, times the share of pairs that its repeats order alike,
    (1 + tau) / 2.
    """
    verdicts = 1.0 if ranking.agreement is None else ranking.agreement
    repeats = 1.0 if ranking.self_agreement is None else (1 + ranking.self_agreement) / 2
    return verdicts * repeats


def _mean_agreement(rankings: Sequence[Ranking]) -> float:
    return statistics.fmean(map(agreement, rankings)) if rankings else 1.0


def _draw(seed: int, ranking: Ranking) -> float:
    answers = [
        f"{answer.model} {answer.draw} {rank}" for answer, rank in zip(ranking.answers, ranking.ranks, strict=True)
    ]
    return device.seed_for(seed, "fit", "pair", ranking.prompt_id, *answers) / 2**63


def _lengths(examples: Sequence[Example], mask_BK: Tensor) -> Tensor:
    """Tokens of each answer, those that all answers to a prompt begin with left out."""
    width = mask_BK.shape[1]
    rows = [[len(ending) for ending in example.endings] for example in examples]
    return torch.tensor([row + [0] * (width - len(row)) for row in rows], device=mask_BK.device).float()
