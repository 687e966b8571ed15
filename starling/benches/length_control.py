"""How often a judge would prefer a model if its answers were as long as the rival's (Dubois et al., arXiv 2404.04475).

A logistic regression for each model, on the judge's preferences as soft labels, without intercept:

    logit P(the model is preferred on instruction i) = length * tanh(d_i) + difficulty * g_i + model

where d_i is the rival's length less the model's, in standard deviations over the instructions, and g_i how much easier
i is for models that meet this rival. The length-controlled win rate is the mean prediction with d_i = 0, in per cent.
Weights have an L1 penalty whose strength five-fold cross-validation chooses, as in the authors' tool.

We differ where the tool uses files that are not public with its results:
- Its g_i are published apart. Here they are estimated jointly from all models at hand: one regression with a weight for
  length and a constant for each model and g_i shared, g_i normal with standard deviation SPREAD, rescaled to it. From
  one model they cannot be told; then the term is left out.
- It adds the judge's preferences on two baselines that were made wordy and terse on purpose, at a total weight of 0.2,
  whatever model is fitted; they keep weights from running off where a model hardly ever wins. In their place stands
  what they do to the fit: a quadratic pull to the weights published for those two (`GAMED`).

Axes: M models, I instructions, K features (length, difficulty, model).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit

from starling.stats import NORMAL

Array = NDArray[np.float64]

# Standard deviation of the published difficulties, as the published weights and length-controlled win rates of 199
# models imply it: with g normal, mean expit(difficulty * g + model) meets them within 0.4 points (root mean square).
SPREAD = 1.59
FOLDS = 5
INVERSE_PENALTIES = np.logspace(-4, 4, 10)  # what cross-validation chooses from; the larger, the weaker the penalty
_SLACK = 1e-2  # keeps the constant of a model finite that wins or loses each time


class Pull(NamedTuple):
    """What the two gamed baselines do to a weight: whereto it is drawn, and how strongly for each instruction."""

    centre: float
    strength: float


# Centres: means of the weights published for gpt4_1106_preview_verbose and _concise. Strengths: the curvature of their
# log-likelihood at weight 0.1 an instruction each, 0.1 * E[p (1 - p) x^2] summed over the two, with p about their win
# rates (64.3 and 22.9 %) spread by difficulty, so that E[p (1 - p)] is .19 and .16; E[tanh(d)^2] is .42 and .57 for
# mean differences of -0.4 and +1 standard deviation, E[g^2] = SPREAD^2.
GAMED = (Pull(-1.61, 0.017), Pull(0.76, 0.087), Pull(0.0, 0.0))


class Weights(NamedTuple):
    """What a fit found: the weights of the three terms, and the inverse strength of the L1 penalty that was chosen."""

    length: float
    difficulty: float
    model: float
    inverse_penalty: float


class Controlled(NamedTuple):
    """A length-controlled win rate in per cent, with a 95 % interval over instructions.

    `standard_error` is the tool's: of the mean of the predictions, the weights taken as known. The interval counts the
    weights' own uncertainty too (sandwich estimate, on the scale of log-odds), but takes difficulties as they are.
    """

    win_rate: float
    standard_error: float
    low: float
    high: float
    weights: Weights


def length_term(own_I: Array, rival_I: Array) -> Array:
    """tanh of how much longer the rival's answers are, in standard deviations; 0 where all differ by the same."""
    difference_I = np.asarray(rival_I, float) - np.asarray(own_I, float)
    deviation = difference_I.std(ddof=1) if len(difference_I) > 1 else 0.0
    return np.tanh(difference_I / deviation) if deviation > 0 else np.zeros_like(difference_I)


def difficulties(preference_MI: Array, length_MI: Array, mask_MI: NDArray[np.bool_]) -> Array | None:
    """g_i, mean 0 and standard deviation SPREAD: high where a model is preferred more often than it is elsewhere.

    `preference_MI` is 1 where the model is preferred, 0 where the rival is; `mask_MI` is True where a preference is
    known. None where less than two models, or nothing but like instructions, leave nothing to tell it from.
    """
    models, instructions = preference_MI.shape
    if models < 2:
        return None
    known_MI = mask_MI.astype(float)
    pull = GAMED[0]
    strength_M = pull.strength * known_MI.sum(1)

    def loss(point: Array) -> tuple[float, Array]:
        model_M, weight_M, g_I = np.split(point, [models, 2 * models])
        logit_MI = model_M[:, None] + weight_M[:, None] * length_MI + g_I
        error_MI = known_MI * (expit(logit_MI) - preference_MI)
        away_M = weight_M - pull.centre
        value = (known_MI * (np.logaddexp(0, logit_MI) - preference_MI * logit_MI)).sum()
        value += (strength_M @ away_M**2 + _SLACK * model_M @ model_M + g_I @ g_I / SPREAD**2) / 2
        gradient = (
            error_MI.sum(1) + _SLACK * model_M,
            (error_MI * length_MI).sum(1) + strength_M * away_M,
            error_MI.sum(0) + g_I / SPREAD**2,
        )
        return float(value), np.concatenate(gradient)

    found = minimize(loss, np.zeros(2 * models + instructions), jac=True, method="L-BFGS-B", options={"maxiter": 2000})
    g_I = found.x[2 * models :] - found.x[2 * models :].mean()
    deviation = g_I.std()
    return SPREAD * g_I / deviation if deviation > 1e-6 else None


def control(preference_I: Array, length_I: Array, difficulty_I: Array | None) -> Controlled:
    """The length-controlled win rate of one model.

    `preference_I` is the probability that the model is preferred, `length_I` from `length_term`, `difficulty_I` from
    `difficulties`; None leaves that term out.
    """
    terms = [length_I, np.zeros_like(length_I) if difficulty_I is None else difficulty_I, np.ones_like(length_I)]
    feature_IK = np.stack(terms, 1)
    chosen = _choose_penalty(feature_IK, preference_I)
    weight_K = _fit(feature_IK, preference_I, chosen, np.zeros(3))
    predicted_I = _predict(feature_IK, weight_K)
    rate, instructions = float(predicted_I.mean()), len(preference_I)
    error = float(predicted_I.std(ddof=1) / np.sqrt(instructions)) if instructions > 1 else float("nan")
    wide = float(np.sqrt(np.square(_influence(feature_IK, preference_I, weight_K)).sum())) / instructions
    odds, reach = logit(rate), NORMAL * wide / (rate * (1 - rate))
    length, difficulty, model = map(float, weight_K)
    return Controlled(
        win_rate=100 * rate,
        standard_error=100 * error,
        low=100 * float(expit(odds - reach)),
        high=100 * float(expit(odds + reach)),
        weights=Weights(length, difficulty, model, chosen),
    )


def _influence(feature_IK: Array, preference_I: Array, weight_K: Array) -> Array:
    """How much each instruction counts for the win rate: its share of the error, times their number.

    Its own prediction less the mean, and what it does to the weights, through which it moves all predictions
    (infinitesimal jackknife). Weights that the penalty set to 0 stay there, all but the constant.
    """
    used_K = (weight_K != 0) | np.array([False, False, True])
    strength_K = np.array([pull.strength for pull in GAMED])
    away_K = weight_K - np.array([pull.centre for pull in GAMED])
    chance_I = expit(feature_IK @ weight_K)
    slope_IK = (preference_I - chance_I)[:, None] * feature_IK - strength_K * away_K
    curvature_KK = (feature_IK.T * (chance_I * (1 - chance_I))) @ feature_IK + np.diag(strength_K * len(preference_I))
    predicted_I = _predict(feature_IK, weight_K)
    change_K = (predicted_I * (1 - predicted_I)) @ _like_long(feature_IK)
    moved_I = slope_IK[:, used_K] @ np.linalg.pinv(curvature_KK[np.ix_(used_K, used_K)]) @ change_K[used_K]
    return predicted_I - predicted_I.mean() + moved_I


def _like_long(feature_IK: Array) -> Array:
    """The features, were the answers as long as the rival's."""
    return feature_IK * np.array([0.0, 1.0, 1.0])


def _predict(feature_IK: Array, weight_K: Array) -> Array:
    """The probability that the model is preferred on each instruction, were its answers as long as the rival's."""
    return expit(_like_long(feature_IK) @ weight_K)


def _choose_penalty(feature_IK: Array, preference_I: Array) -> float:
    """The inverse penalty of the lowest log loss on held-out folds; every fifth instruction is in the same fold."""
    fold_I = np.arange(len(preference_I)) % FOLDS
    losses = np.zeros(len(INVERSE_PENALTIES))
    for fold in range(min(FOLDS, len(preference_I))):
        held_I = fold_I == fold
        weight_K = np.zeros(feature_IK.shape[1])
        for at, inverse_penalty in enumerate(INVERSE_PENALTIES):
            weight_K = _fit(feature_IK[~held_I], preference_I[~held_I], inverse_penalty, weight_K)
            logit_I = feature_IK[held_I] @ weight_K
            losses[at] += (np.logaddexp(0, logit_I) - preference_I[held_I] * logit_I).mean()
    return float(INVERSE_PENALTIES[losses.argmin()])


def _fit(feature_IK: Array, preference_I: Array, inverse_penalty: float, start_K: Array) -> Array:
    """Weights that minimise cross-entropy + the gamed baselines' pull + |weights| / inverse penalty.

    Each weight is the difference of two numbers that are not negative, which makes the penalty smooth.
    """
    instructions, size = feature_IK.shape
    centre_K = np.array([pull.centre for pull in GAMED])
    strength_K = (
        np.array([pull.strength for pull in GAMED]) * instructions * feature_IK.any(0)
    )  # not of what is left out

    def loss(halves: Array) -> tuple[float, Array]:
        weight_K = halves[:size] - halves[size:]
        logit_I = feature_IK @ weight_K
        away_K = weight_K - centre_K
        value = (np.logaddexp(0, logit_I) - preference_I * logit_I).sum()
        value += (strength_K @ away_K**2) / 2 + halves.sum() / inverse_penalty
        slope_K = (expit(logit_I) - preference_I) @ feature_IK + strength_K * away_K
        return float(value), np.concatenate([slope_K, -slope_K]) + 1 / inverse_penalty

    start, bounds = np.concatenate([start_K.clip(0), (-start_K).clip(0)]), [(0, None)] * (2 * size)
    options = {"maxiter": 1000, "ftol": 1e-12, "gtol": 1e-8}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return np.asarray(found.x[:size] - found.x[size:], float)
