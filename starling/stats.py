"""Figures with intervals."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from starling.records import Score

MANY = 10_000  # clusters


def cluster_mean(
    name: str,
    values: Sequence[float],
    clusters: Sequence[str],
    *,
    weights: Sequence[float] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> Score:
    """The mean of `values` with a 95 % percentile bootstrap interval that resamples whole clusters.

    Cases of one cluster (prompts of a family, pairs of a prompt) go together, so that their likeness does not feign
    certainty. From 10,000 clusters on, where resampling takes long and changes nothing, the interval is the normal one
    with the cluster-robust standard error. Without values everything is NaN and n is 0. `weights`, above 0, are how
    much each value counts; None means alike.
    """
    if not values:
        return Score(name=name, value=float("nan"), low=float("nan"), high=float("nan"), n=0)
    names = sorted(set(clusters))
    index = {cluster: at for at, cluster in enumerate(names)}
    total, count = np.zeros(len(names)), np.zeros(len(names))
    for value, cluster, weight in zip(values, clusters, weights or [1.0] * len(values), strict=True):
        total[index[cluster]] += weight * value
        count[index[cluster]] += weight
    mean = float(total.sum() / count.sum())
    low, high = mean, mean
    if len(names) >= MANY:
        robust = np.sqrt(np.square(total - mean * count).sum()) / count.sum()
        low, high = map(float, stats.norm.interval(0.95, mean, robust)) if robust > 0 else (mean, mean)
    elif len(names) > 1 and np.ptp(total / count) > 0:
        result = stats.bootstrap(
            (total, count),
            lambda t, c, axis: t.sum(axis) / c.sum(axis),
            paired=True,
            vectorized=True,
            n_resamples=resamples,
            method="percentile",
            rng=np.random.default_rng(seed),
            batch=1000,
        )
        low, high = float(result.confidence_interval.low), float(result.confidence_interval.high)
    return Score(name=name, value=mean, low=low, high=high, n=len(values))


def resampled_means(
    total_CM: NDArray[np.float64], count_CM: NDArray[np.float64], *, resamples: int, seed: int = 0
) -> NDArray[np.float64]:
    """M means in each of R bootstrap draws of C whole clusters: sums over counts, (R, M).

    The same draw serves all M columns. A mean without a case in a draw is 0.
    """
    rng = np.random.default_rng(seed)
    clusters = len(total_CM)
    drawn_RC = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples)
    return ratio(drawn_RC @ total_CM, drawn_RC @ count_CM)


def ratio(total: NDArray[np.float64], count: NDArray[np.float64]) -> NDArray[np.float64]:
    """Total over count, 0 where there is no case."""
    return np.divide(total, count, out=np.zeros_like(total, dtype=float), where=count > 0)


def share(name: str, hits: int, n: int) -> Score:
    """A share of independent cases with its 95 % Wilson interval; without cases everything is NaN."""
    if not n:
        return Score(name=name, value=float("nan"), low=float("nan"), high=float("nan"), n=0)
    interval = stats.binomtest(hits, n).proportion_ci(method="wilson")
    return Score(name=name, value=hits / n, low=float(interval.low), high=float(interval.high), n=n)


def calibration_error(probability: Sequence[float], outcome: Sequence[float], bins: int = 10) -> float:
    """Expected calibration error: the mean distance, weighted by cases, of stated probability from observed share.

    Over equal-width bins of [0, 1] (Naeini et al. 2015).
    """
    p, y = np.asarray(probability, float), np.asarray(outcome, float)
    which = np.minimum((p * bins).astype(int), bins - 1)
    gaps = [
        abs(p[which == b].mean() - y[which == b].mean()) * (which == b).sum() for b in range(bins) if (which == b).any()
    ]
    return float(sum(gaps) / len(p))


def reliability(
    probability: Sequence[float], outcome: Sequence[float], bins: int = 10
) -> list[tuple[float, float, int]]:
    """For each bin that holds cases: mean stated probability, observed share, number of cases."""
    p, y = np.asarray(probability, float), np.asarray(outcome, float)
    which = np.minimum((p * bins).astype(int), bins - 1)
    return [
        (float(p[which == b].mean()), float(y[which == b].mean()), int((which == b).sum()))
        for b in range(bins)
        if (which == b).any()
    ]


def clustered_share(name: str, hits: Sequence[bool], clusters: Sequence[str]) -> Score:
    """A share with its 95 % interval, where cases of one cluster go together.

    Wilson's interval where every cluster holds one case, the cluster bootstrap where some hold more. Where all clusters
    give the same share, resampling would show no spread at all: Wilson's interval then counts each cluster once.
    """
    own = len(set(clusters))
    if own == len(hits):
        return share(name, sum(hits), len(hits))
    found = cluster_mean(name, [float(hit) for hit in hits], clusters)
    if found.low < found.high:
        return found
    whole = share(name, round(found.value * own), own)
    return Score(name=name, value=found.value, low=min(whole.low, found.value), high=max(whole.high, found.value),
                 n=len(hits))  # fmt: skip
