"""Two models on the same cases: by how much they differ, how sure that is, and what may be said of it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from starling import figures
from starling.stats import cluster_mean

LEVEL = 0.05
_SEEN_IN = 0.8  # of experiments like this one
_RESAMPLES = 9_999
_DRAWS_AT_ONCE = 500  # SciPy holds all sign flips of a batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What changed from one model to the other: the mean difference with its 95 % interval.

    `p` is the chance of so large a mean difference, to either side, if the two were exchangeable in every cluster.
    `smallest` is the difference that would be seen in 80 of 100 such comparisons; a smaller one may well be missed.
    `gained` and `lost` count the cases that went up and down.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    clusters: int
    gained: int
    lost: int
    p: float
    smallest: float

    @property
    def is_shown(self) -> bool:
        """Whether both the test and the interval say that there is a difference."""
        return self.p < LEVEL and not self.low <= 0 <= self.high


def compare(name: str, before: Sequence[float], after: Sequence[float], clusters: Sequence[str]) -> Change:
    """Compare two models case by case, where cases of one cluster (instructions of a prompt) go together.

    The test is the paired permutation test: the two models' values are swapped in whole clusters, in every possible way
    where there are few, else in 9,999 drawn ones. With one case in a cluster and values 0 and 1 it is McNemar's exact
    test. `smallest` is (z_0.975 + z_0.8) standard errors of the mean difference, clusters kept whole; where no case
    changed there is no error to go by, and it is the share that would leave n clusters unchanged with a chance of 5 %.
    """
    difference = np.asarray(after, float) - np.asarray(before, float)
    found = cluster_mean(name, [float(one) for one in difference], clusters)
    names = {cluster: at for at, cluster in enumerate(dict.fromkeys(clusters))}
    total, count = np.zeros(len(names)), np.zeros(len(names))
    for value, cluster in zip(difference, clusters, strict=True):
        total[names[cluster]] += value
        count[names[cluster]] += 1
    return Change(
        name=name,
        value=found.value,
        low=found.low,
        high=found.high,
        n=found.n,
        clusters=len(names),
        gained=int((difference > 0).sum()),
        lost=int((difference < 0).sum()),
        p=_chance(total),
        smallest=_smallest(total, count),
    )


def verdict(change: Change, good: int) -> str:
    """better, worse, or unclear; `good` is 1 where more is better, -1 where less is."""
    if not change.n or not change.is_shown:
        return "unclear"
    return "better" if good * change.value > 0 else "worse"


def sentence(change: Change, *, good: int = 1, unit: str = "prompts", is_share: bool = True) -> str:
    """What the figures allow one to say; `good` is 1 where more is better, -1 where less is, 0 where neither."""
    how = (figures.share_change if is_share else figures.number_change)(_score(change))
    seen = f"{100 * change.smallest:.1f} pt" if is_share else figures.number(change.smallest)
    if not change.n:
        return f"{change.name}: no {unit} to compare."
    moved = f"{change.gained} up, {change.lost} down of {change.n:,} {unit}; p = {_p(change.p)}"
    if change.is_shown:
        word = {1: "better", -1: "worse", 0: "different"}[good * int(np.sign(change.value))]
        return f"{change.name}: {word}, {how} ({moved})."
    if not is_share and not change.gained + change.lost:
        return f"{change.name}: no difference is shown, {how} ({moved})."  # nothing tells how large one would be seen
    return (
        f"{change.name}: no difference is shown, {how} ({moved}); a difference below {seen} would probably not be seen "
        f"with n = {change.n:,}{_grouped(change)}."
    )


def _grouped(change: Change) -> str:
    return f" in {change.clusters:,} groups" if change.clusters < change.n else ""


def _score(change: Change) -> dict[str, float]:
    return {"value": change.value, "low": change.low, "high": change.high}


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "below 0.001"


def _chance(total: np.ndarray) -> float:
    moved = total[total != 0]  # the others are the same swapped or not
    if not len(moved):
        return 1.0
    if len(moved) == 1:
        return 1.0  # of two ways to lay one cluster, both are as far from 0
    tested = stats.permutation_test(
        (moved, np.zeros_like(moved)),
        lambda one, other, axis: (one - other).sum(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=_RESAMPLES,
        batch=_DRAWS_AT_ONCE,
        rng=np.random.default_rng(0),
    )
    return float(tested.pvalue)


def _smallest(total: np.ndarray, count: np.ndarray) -> float:
    if not len(total):
        return float("nan")
    mean = total.sum() / count.sum()
    error = np.sqrt(np.square(total - mean * count).sum()) / count.sum()
    if error == 0:
        return float(1 - LEVEL ** (1 / len(total)))
    return float((stats.norm.ppf(1 - LEVEL / 2) + stats.norm.ppf(_SEEN_IN)) * error)
