"""Ranks, levels and scores: from one to another, and how far two rankings agree."""

from collections.abc import Sequence

from scipy import stats as scipy_stats


def ranks_from_levels(levels: Sequence[Sequence[int]], k: int) -> list[float]:
    """Competition ranks of `k` answers: [[2], [0, 1]] gives 2, 2, 1; each answer stands in one level."""
    if sorted(index for level in levels for index in level) != list(range(k)):
        raise ValueError(f"levels {levels} do not hold each of {k} answers once")
    ranks = [0.0] * k
    better = 0
    for level in levels:
        for index in level:
            ranks[index] = float(better + 1)
        better += len(level)
    return ranks


def ranks_with_ties(scores: Sequence[float], margin: float) -> list[float]:
    """Competition ranks, highest score first: scores (0.9, 0.5, 0.89) at margin 0.02 give (1, 3, 1)."""
    ranks = [0.0] * len(scores)
    level_rank, level_top = 1.0, float("inf")
    for place, index in enumerate(sorted(range(len(scores)), key=lambda i: -scores[i]), 1):
        if level_top - scores[index] >= margin and level_top > scores[index]:
            level_rank, level_top = float(place), scores[index]
        ranks[index] = level_rank
    return ranks


def middle_ranks(ranks: Sequence[float]) -> list[float]:
    """The ranks with ties at the mean of the places that they take: 1, 1, 3 gives 1.5, 1.5, 3."""
    return [float(rank) for rank in scipy_stats.rankdata(ranks)]


def mean_ranks(rankings: Sequence[Sequence[float]]) -> list[float]:
    """Competition ranks by the mean over several rankings of the same answers; equal means tie."""
    sums = [sum(places) for places in zip(*map(middle_ranks, rankings), strict=True)]  # halves: exact in binary
    return ranks_with_ties([-total for total in sums], 0.0)


def preference(ranks: Sequence[float]) -> float:
    """1 where the first of two is ranked better, 0 where worse, 0.5 where they tie."""
    return 0.5 if ranks[0] == ranks[1] else float(ranks[0] < ranks[1])


def kendall(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Kendall's tau-b of two rankings: 1 alike, -1 reversed; None where one of them ties all answers."""
    if len(set(one)) == 1 or len(set(other)) == 1:
        return None
    return float(scipy_stats.kendalltau(one, other).statistic)
