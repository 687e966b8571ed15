"""Figures with intervals."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from starling.records import Score

MANY = 10_000  # clusters
_APART = 1e-7  # what the linear program may be off by
RESAMPLES = 2000  # where there are many figures
BINS = 10  # of stated probabilities
NORMAL = float(stats.norm.ppf(0.975))  # standard errors on either side of a 95 % interval


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


def krippendorff_alpha(name: str, values_UJ: NDArray[np.float64], clusters: Sequence[str]) -> Score:
    """How far J judges agree on U cases beyond chance, with a 95 % bootstrap interval over whole clusters.

    Krippendorff's alpha (Computing Krippendorff's Alpha-Reliability, 2011) with squared differences as distance:

        alpha = 1 - D_o / D_e

    D_o is the mean squared difference of two judges on one case, D_e that of any two of the values: 1 is agreement, 0
    what chance gives, below 0 is opposition. NaN is a case that a judge did not judge; n counts the cases with two
    values or more, and the others have no part in it. Where all values are equal there is nothing to tell agreement
    from: alpha is NaN, and such draws are no part of the interval.
    """
    judged_UJ = ~np.isnan(values_UJ)
    paired_U = judged_UJ.sum(1) > 1
    judged_UJ = judged_UJ[paired_U]
    if not judged_UJ.size:
        return Score(name=name, value=float("nan"), low=float("nan"), high=float("nan"), n=0)
    value_UJ = np.where(judged_UJ, values_UJ[paired_U], 0.0)
    value_UJ = np.where(judged_UJ, value_UJ - value_UJ.sum() / judged_UJ.sum(), 0.0)  # sums of squares stay exact
    count_U, sum_U, square_U = judged_UJ.sum(1), value_UJ.sum(1), np.square(value_UJ).sum(1)
    within_U = (count_U * square_U - sum_U**2) / (count_U - 1)
    names, which_U = np.unique(np.asarray(clusters, object)[paired_U].astype(str), return_inverse=True)
    total_CM = np.zeros((len(names), 4))
    np.add.at(total_CM, which_U, np.stack([count_U, sum_U, square_U, within_U], axis=1))
    drawn_RM = len(names) * resampled_means(total_CM, np.ones_like(total_CM), resamples=RESAMPLES, seed=0)
    value, *draws = _alpha(np.vstack([total_CM.sum(0), drawn_RM]))
    told = [draw for draw in draws if not np.isnan(draw)]
    low, high = np.quantile(told, [0.025, 0.975]) if told and not np.isnan(value) else (value, value)
    return Score(name=name, value=float(value), low=float(low), high=float(high), n=len(judged_UJ))


def ordinal_alpha(name: str, values_UJ: NDArray[np.float64], clusters: Sequence[str]) -> Score:
    """Krippendorff's alpha with the distance of ordinal data, for which only the order of the values counts.

    Two values c < k are as far apart as half of the values equal to c or k and all between them are many:

        delta(c, k) = sum of n_g over g from c to k, less (n_c + n_k) / 2

    which is the difference of their middle ranks among all values that have a partner; so it is the alpha above of
    these ranks. In the draws of the interval they stay as they are.
    """
    told_UJ = ~np.isnan(values_UJ) & ((~np.isnan(values_UJ)).sum(1) > 1)[:, None]
    rank_UJ = np.full(values_UJ.shape, np.nan)
    rank_UJ[told_UJ] = stats.rankdata(values_UJ[told_UJ])
    return krippendorff_alpha(name, rank_UJ, clusters)


def _alpha(total_RM: NDArray[np.float64]) -> NDArray[np.float64]:
    """Alpha from the number of values, their sum and sum of squares, and the squared differences within cases."""
    count_R, sum_R, square_R, within_R = total_RM.T
    among_R = square_R - sum_R**2 / count_R
    differ_R = among_R > 1e-9 * square_R  # else what is left is rounding
    observed_R = np.divide(within_R, among_R, out=np.full_like(among_R, np.nan), where=differ_R)
    return 1 - (count_R - 1) / count_R * observed_R


def ratio(total: NDArray[np.float64], count: NDArray[np.float64]) -> NDArray[np.float64]:
    """Total over count, 0 where there is no case."""
    return np.divide(total, count, out=np.zeros_like(total, dtype=float), where=count > 0)


def share(name: str, hits: int, n: int) -> Score:
    """A share of independent cases with its 95 % Wilson interval; without cases everything is NaN."""
    if not n:
        return Score(name=name, value=float("nan"), low=float("nan"), high=float("nan"), n=0)
    interval = stats.binomtest(hits, n).proportion_ci(method="wilson")
    return Score(name=name, value=hits / n, low=float(interval.low), high=float(interval.high), n=n)


def calibration_error(probability: Sequence[float], outcome: Sequence[float]) -> float:
    """Expected calibration error: the mean distance, weighted by cases, of stated probability from observed share.

    Over equal-width bins of [0, 1] (Naeini et al. 2015).
    """
    found = reliability(probability, outcome)
    return sum(n * abs(stated - observed) for stated, observed, n in found) / len(probability)


def reliability(probability: Sequence[float], outcome: Sequence[float]) -> list[tuple[float, float, int]]:
    """For each of ten bins that holds cases: mean stated probability, observed share, number of cases."""
    p, y = np.asarray(probability, float), np.asarray(outcome, float)
    which = np.minimum((p * BINS).astype(int), BINS - 1)
    return [
        (float(p[which == b].mean()), float(y[which == b].mean()), int((which == b).sum()))
        for b in range(BINS)
        if (which == b).any()
    ]


def clustered_share(name: str, hits: Sequence[float], clusters: Sequence[str], *, resamples: int = 10_000) -> Score:
    """A share with its 95 % interval, where cases of one cluster go together; a hit is 1, a miss 0, a tie may be half.

    Wilson's interval where every cluster holds one case and none is a tie, else the cluster bootstrap. Where all
    clusters give the same share, resampling would show no spread at all: Wilson's interval then counts each cluster
    once.
    """
    own = len(set(clusters))
    if own == len(hits) and set(hits) <= {0.0, 1.0}:
        return share(name, int(sum(hits)), len(hits))
    found = cluster_mean(name, [float(hit) for hit in hits], clusters, resamples=resamples)
    if found.low < found.high:
        return found
    whole = share(name, round(found.value * own), own)
    return Score(name=name, value=found.value, low=min(whole.low, found.value), high=max(whole.high, found.value),
                 n=len(hits))  # fmt: skip


def are_separated(row_ND: Any) -> bool:
    """Whether some direction of the D coefficients of a logistic model explains all N outcomes at least as well the
    further one goes, so that its likelihood has no maximum (Albert and Anderson 1984), which a linear program finds.

    A row, dense or sparse, is a case's features with the sign of its outcome.
    """
    found = optimize.linprog(-row_ND.sum(0), A_ub=-row_ND, b_ub=np.zeros(row_ND.shape[0]), bounds=(-1, 1))
    assert found.status == 0, found.message
    return bool(-found.fun > _APART)
