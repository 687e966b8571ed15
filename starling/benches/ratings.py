"""Bradley-Terry ratings of models from verdicts on pairs of answers, with intervals, also at equal length.

    P(a beats b) = 1 / (1 + exp(-(theta_a - theta_b + gamma z))),   z = log((1 + characters of a) / (1 + those of b))

Bradley and Terry 1952; the covariate is the style control of Chatbot Arena (Li et al. 2024), which takes
(len_a - len_b) / (len_a + len_b), standardised, where we take the log of the ratio, so that gamma keeps its meaning
from one file to the next. Without z, gamma is 0. The likelihood is maximised without any prior: a rating is
400 / ln 10 times theta (400 points are odds of 10 to 1), shifted so that the mean of the rated models is 1000.

Ties count as half a win for each side (Rao and Kupper's extra parameter is not fitted).

Intervals: 95 %, Bayesian bootstrap (Rubin 1981). Every cluster (verdicts on one prompt) is weighted by a draw from
Exp(1) and the fit repeated. Unlike with resampled votes, no verdict ever vanishes, so whatever has ratings has them in
every draw.

Ratings exist where every model of the group has won and lost, if only through others, against every other: the groups
that are strongly connected by wins (Ford 1957). The largest such group is rated, all others are listed with the reason.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse
from scipy.sparse import csgraph
from scipy.special import expit

from starling import stats
from starling.errors import DataError

POINTS = 400 / np.log(10)  # rating points per unit of theta
MEAN = 1000.0
RESAMPLES = 1000
_CLOSE = 1e-10  # relative error of the coefficients
_FLAT = 1e-7  # largest slope of the mean log-likelihood at its maximum

Floats = NDArray[np.float64]


class Verdict(NamedTuple):
    """Who won: 1 where a did, 0 where b did, 0.5 for a tie.

    `cluster` names the prompt; `log_length` is the log of a's length over b's, None where the texts are not known.
    """

    model_a: str
    model_b: str
    score_a: float
    cluster: str
    log_length: float | None = None


class Group(NamedTuple):
    """The models that can be rated together, the verdicts among them, and why each other model is not rated."""

    models: list[str]
    verdicts: list[Verdict]
    others: dict[str, str]


def rate(verdicts: Sequence[Verdict], *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """The rated models, best first, each with counts and interval; those not rated; what a doubled length is worth.

    `ahead` is the lead over the next model with its interval, from the same draws. `at_equal_length` is None, and
    `length_note` says why, where texts are not known or length alone tells the verdicts apart.
    """
    group = rateable(verdicts)
    weight_RN = _draws(group.verdicts, resamples, seed)
    plain_RM = _fits(group, weight_RN, length=False)
    note = _why_not_by_length(group)
    equal_RM = None if note else _fits(group, weight_RN, length=True)
    counts = {model: _counts(model, group.verdicts) for model in group.models}
    order = np.argsort(-plain_RM[0, : len(group.models)], kind="stable")
    rows = []
    for place, index in enumerate(order):
        model, after = group.models[index], order[place + 1] if place + 1 < len(order) else None
        rows.append({
            "model": model, **_interval(plain_RM[:, index]), **counts[model],
            "ahead": None if after is None else _interval(plain_RM[:, index] - plain_RM[:, after]),
            "at_equal_length": None if equal_RM is None else _interval(equal_RM[:, index]),
        })  # fmt: skip
    return {
        "ratings": rows,
        "not_rated": [{"model": model, "reason": reason, **_counts(model, verdicts)}
                      for model, reason in group.others.items()],
        "verdicts": len(group.verdicts),
        "not_among_rated": len(verdicts) - len(group.verdicts),
        "prompts": len({verdict.cluster for verdict in group.verdicts}),
        "doubled_length": None if equal_RM is None else _interval(expit(np.log(2) * equal_RM[:, -1])),
        "length_note": note,
    }  # fmt: skip


def rateable(verdicts: Sequence[Verdict]) -> Group:
    """The largest group of models in which everyone has won and lost, if only through others, against everyone.

    Of groups alike in size the one with more verdicts is taken.
    """
    models = sorted({name for verdict in verdicts for name in (verdict.model_a, verdict.model_b)})
    if len(models) < 2:
        raise DataError(f"ratings: verdicts on at least 2 models are needed; found {len(models)}")
    at = {model: index for index, model in enumerate(models)}
    beats_MM = np.zeros((len(models), len(models)), dtype=bool)
    for verdict in verdicts:
        a, b = at[verdict.model_a], at[verdict.model_b]
        beats_MM[a, b] |= verdict.score_a > 0
        beats_MM[b, a] |= verdict.score_a < 1
    count, group_M = csgraph.connected_components(beats_MM, connection="strong")
    inside = [group_M[at[v.model_a]] if group_M[at[v.model_a]] == group_M[at[v.model_b]] else -1 for v in verdicts]
    chosen = max(range(count), key=lambda group: ((group_M == group).sum(), inside.count(group)))
    member_M = group_M == chosen
    others = {models[i]: _reason(beats_MM, int(i), member_M) for i in np.flatnonzero(~member_M)}
    if member_M.sum() < 2:
        raise DataError(_nothing_to_rate(models, beats_MM))
    kept = [verdict for verdict, own in zip(verdicts, inside, strict=True) if own == chosen]
    return Group([models[i] for i in np.flatnonzero(member_M)], kept, others)


def strengths(design_ND: sparse.csr_array, score_N: Floats, weight_N: Floats, start_D: Floats) -> Floats:
    """The coefficients that maximise the weighted likelihood of a logistic regression whose outcomes may be shares."""
    weight_N = weight_N / weight_N.sum()

    def slope(beta_D: Floats) -> Floats:
        return np.asarray(design_ND.T @ (weight_N * (expit(design_ND @ beta_D) - score_N)))

    def curvature(beta_D: Floats) -> Floats:
        p_N = expit(design_ND @ beta_D)
        return np.asarray((design_ND.T @ (design_ND * (weight_N * p_N * (1 - p_N))[:, None])).toarray())

    found = optimize.root(slope, start_D, jac=curvature, tol=_CLOSE)
    assert np.abs(slope(found.x)).max() < _FLAT, f"a likelihood that has a maximum was not climbed: {found.message}"
    return np.asarray(found.x)


def _fits(group: Group, weight_RN: Floats, *, length: bool) -> Floats:
    """Ratings in each draw, the first of which is the data itself: (R, M), with gamma as one more column by length."""
    verdicts = group.verdicts
    design_ND = _design(group, length=length)
    score_N = np.array([verdict.score_a for verdict in verdicts])
    score_RN = np.broadcast_to(score_N, weight_RN.shape)
    if not length:  # verdicts on the same pair are one row
        pairs, pair_N = np.unique([(v.model_a, v.model_b) for v in verdicts], axis=0, return_inverse=True)
        first_P = np.unique(pair_N, return_index=True)[1]
        total_RP = np.stack([np.bincount(pair_N, weight_N, len(pairs)) for weight_N in weight_RN]).astype(float)
        won_RP = np.stack([np.bincount(pair_N, weight_N * score_N, len(pairs)) for weight_N in weight_RN])
        design_ND, weight_RN, score_RN = design_ND[first_P], total_RP, won_RP / total_RP
    start_D = strengths(design_ND, score_RN[0], weight_RN[0], np.zeros(design_ND.shape[1]))
    beta_RD = np.stack([start_D, *(
        strengths(design_ND, score_N, weight_N, start_D)
        for score_N, weight_N in zip(score_RN[1:], weight_RN[1:], strict=True)
    )])  # fmt: skip
    num_models = len(group.models)
    theta_RM = np.concatenate([np.zeros((len(beta_RD), 1)), beta_RD[:, : num_models - 1]], axis=1)
    rating_RM = MEAN + POINTS * (theta_RM - theta_RM.mean(1, keepdims=True))
    return np.concatenate([rating_RM, beta_RD[:, num_models - 1 :]], axis=1)


def _design(group: Group, *, length: bool) -> sparse.csr_array:
    """A row a verdict: 1 for a, -1 for b; the first model stands at 0. The last column is z, by length."""
    at = {model: index for index, model in enumerate(group.models)}
    count = len(group.verdicts)
    row_N = np.arange(count)
    a_N = np.array([at[verdict.model_a] for verdict in group.verdicts])
    b_N = np.array([at[verdict.model_b] for verdict in group.verdicts])
    sign = np.concatenate([np.ones(count), -np.ones(count)])
    cells = sign, (np.concatenate([row_N, row_N]), np.concatenate([a_N, b_N]))
    design_NM = sparse.csr_array(cells, shape=(count, len(group.models)))[:, 1:]
    if not length:
        return design_NM
    z_N1 = np.array([[verdict.log_length or 0.0] for verdict in group.verdicts])
    return sparse.csr_array(sparse.hstack([design_NM, z_N1]))


def _draws(verdicts: Sequence[Verdict], resamples: int, seed: int) -> Floats:
    """The weight of each verdict: all 1, then in R draws that of its cluster; no draws where there is one cluster."""
    names, cluster_N = np.unique([verdict.cluster for verdict in verdicts], return_inverse=True)
    draws = resamples if len(names) > 1 else 0
    drawn_RC = np.random.default_rng(seed).exponential(size=(draws, len(names)))
    return np.concatenate([np.ones((1, len(verdicts))), drawn_RC[:, cluster_N]])


def _why_not_by_length(group: Group) -> str:
    """Why ratings at equal length cannot be given; "" where they can.

    The likelihood has a maximum unless length and models tell all verdicts apart.
    """
    unknown = sum(verdict.log_length is None for verdict in group.verdicts)
    if unknown:
        return f"{unknown:,} of {len(group.verdicts):,} verdicts come without the answers' lengths"
    if len({verdict.log_length for verdict in group.verdicts}) == 1:
        return "all answers are equally long"
    design_ND = _design(group, length=True)
    if np.linalg.matrix_rank((design_ND.T @ design_ND).toarray()) < design_ND.shape[1]:
        return "each model's answers always differ by the same length, so length cannot be told from the model"
    score_N = np.array([verdict.score_a for verdict in group.verdicts])
    upright = sparse.vstack([design_ND[score_N > 0], -design_ND[score_N < 1]])  # a tie stands in both
    if stats.are_separated(upright):
        return "length, with the models, tells all verdicts apart; more verdicts are needed"
    return ""


def _counts(model: str, verdicts: Sequence[Verdict]) -> Mapping[str, float]:
    """Verdicts on the model, with wins and ties; a share counts as what it is nearest to."""
    own = [v.score_a if v.model_a == model else 1 - v.score_a for v in verdicts if model in (v.model_a, v.model_b)]
    ties = sum(score == 0.5 for score in own)
    return {"n": len(own), "wins": sum(score > 0.5 for score in own), "ties": ties}


def _interval(value_R: Floats) -> dict[str, float | None]:
    """The figure of the data itself, which stands first, and the ends of its interval."""
    low, high = np.quantile(value_R[1:], [0.025, 0.975]) if len(value_R) > 1 else (None, None)
    return {
        "value": float(value_R[0]),
        "low": None if low is None else float(low),
        "high": None if high is None else float(high),
    }


def _reason(beats_MM: NDArray[np.bool_], model: int, member_M: NDArray[np.bool_]) -> str:
    """Why a model does not belong to the rated ones."""
    won, lost = (beats_MM[model] & member_M).any(), (beats_MM[:, model] & member_M).any()
    if won:
        return "has never lost to the rated models"
    return "has never won against the rated models" if lost else "has not met the rated models"


def _nothing_to_rate(models: Sequence[str], beats_MM: NDArray[np.bool_]) -> str:
    who = models[int(np.argmin(beats_MM.sum(0)))]  # without a circle of wins somebody is unbeaten
    return (
        f"ratings: among {len(models)} models no two have won and lost against each other, even through others "
        f"({who} has never lost), so no rating is finite; more verdicts are needed"
    )
