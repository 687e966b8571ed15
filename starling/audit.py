"""Bias and consistency of a judge, from its rankings."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from scipy import stats

from starling.judges.protocol import Judged
from starling.records import Candidate, Prompt

Item = tuple[Prompt, Sequence[Candidate]]


def first_place_by_position(judged: Sequence[Judged], k: int) -> dict[str, Any]:
    """How often the answer shown at each position came first, with a chi-square test against an even spread.

    Only calls with one presentation order and a single winner count.
    """
    counts: Counter[int] = Counter()
    for verdict in judged:
        if verdict.ranks is None or len(verdict.orders) != 1:
            continue
        winners = [index for index, rank in enumerate(verdict.ranks) if rank == 1]
        if len(winners) == 1:
            counts[list(verdict.orders[0]).index(winners[0])] += 1
    total = sum(counts.values())
    observed = [counts[position] for position in range(k)]
    test = stats.chisquare(observed) if total else None
    return {
        "n": total,
        "first": observed,
        "chi_square": float(test.statistic) if test else None,
        "p_value": float(test.pvalue) if test else None,
    }


def mean_rank_by_model(items: Sequence[Item], judged: Sequence[Judged]) -> dict[str, float]:
    """The mean competition rank of each generator; low is good."""
    ranks: dict[str, list[float]] = defaultdict(list)
    for (_, answers), verdict in zip(items, judged, strict=True):
        for answer, rank in zip(answers, verdict.ranks or (), strict=False):
            ranks[answer.model].append(rank)
    return {
        model: sum(values) / len(values) for model, values in sorted(ranks.items(), key=lambda x: sum(x[1]) / len(x[1]))
    }


def length_effect(items: Sequence[Item], judged: Sequence[Judged]) -> dict[str, Any]:
    """How often the longer answer (in characters) stands above the shorter one; ties of either kind do not count."""
    longer = total = 0
    for (_, answers), verdict in zip(items, judged, strict=True):
        for (a, rank_a), (b, rank_b) in combinations(zip(answers, verdict.ranks or (), strict=False), 2):
            if rank_a == rank_b or len(a.answer) == len(b.answer):
                continue
            total += 1
            longer += (len(a.answer) > len(b.answer)) == (rank_a < rank_b)
    return {"share": longer / total if total else None, "n": total}


def tied_share(judged: Sequence[Judged]) -> float:
    """The share of answer pairs that the judge calls equal."""
    pairs = [a == b for verdict in judged if verdict.ranks is not None for a, b in combinations(verdict.ranks, 2)]
    return sum(pairs) / len(pairs) if pairs else 0.0
