"""The length-controlled win rate: hand-made judges with a known taste for length, identities, published figures."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, logit
from tolerances import CLOSE, EXACT

from starling.benches import length_control
from starling.benches.length_control import GAMED, SPREAD, control, difficulties, length_term

N = 400


def lengths(seed: int, longer: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return 1000 + 300 * rng.standard_normal(N) + longer, 1000 + 300 * rng.standard_normal(N)


def judge(length_I: np.ndarray, taste: float, model: float, ease_I: np.ndarray | float = 0.0) -> np.ndarray:
    """The probabilities of a judge that follows the regression itself."""
    return expit(taste * length_I + ease_I + model)


def test_the_length_term_is_the_tanh_of_standard_deviations() -> None:
    # rival - own: 1, 3, so the deviation is sqrt(((1-2)^2 + (3-2)^2) / 1) = sqrt 2
    found = length_term(np.array([9.0, 7.0]), np.array([10.0, 10.0]))
    assert found == pytest.approx([np.tanh(1 / np.sqrt(2)), np.tanh(3 / np.sqrt(2))], abs=EXACT)


@pytest.mark.parametrize(("own", "rival"), [([5.0, 6.0], [7.0, 8.0]), ([5.0], [9.0])], ids=["all alike", "one"])
def test_lengths_that_differ_by_the_same_say_nothing(own: list[float], rival: list[float]) -> None:
    assert length_term(np.array(own), np.array(rival)).tolist() == [0.0] * len(own)


def test_a_longer_answer_has_a_negative_term_and_units_do_not_matter() -> None:
    own_I, rival_I = lengths(0, longer=5000)
    assert length_term(own_I, rival_I).max() < 0
    assert length_term(3 * own_I, 3 * rival_I) == pytest.approx(length_term(own_I, rival_I), abs=EXACT)


@pytest.mark.parametrize("longer", [-200.0, 0.0, 200.0])
def test_a_judge_with_the_gamed_baselines_taste_is_seen_through(longer: float) -> None:
    """Models of one quality, whatever their lengths, get the rate that the judge gives to equal lengths."""
    length_I = length_term(*lengths(1, longer))
    said_I = judge(length_I, GAMED[0].centre, 0.4)
    assert abs(said_I.mean() - expit(0.4)) > 0.05 or longer == 0
    assert control(said_I, length_I, None).win_rate == pytest.approx(100 * expit(0.4), abs=0.2)


def test_a_judge_of_another_taste_is_seen_through_up_to_the_pull_of_the_gamed_baselines() -> None:
    length_I = length_term(*lengths(1, 200.0))
    found = control(judge(length_I, -3.0, 0.4), length_I, None)
    assert -3.0 < found.weights.length < -2.4
    assert found.win_rate == pytest.approx(100 * expit(0.4), abs=2.0)


def test_a_judge_blind_to_length_is_told_apart_from_one_with_a_taste_for_brevity() -> None:
    length_I = length_term(*lengths(2, 300.0))
    rates = [control(judge(length_I, taste, 0.0), length_I, None).win_rate for taste in (-1.5, 0.0, 1.5)]
    raw = [100 * judge(length_I, taste, 0.0).mean() for taste in (-1.5, 0.0, 1.5)]
    assert np.ptp(rates) < np.ptp(raw) / 3


def test_without_a_difference_in_length_the_rate_is_the_raw_one() -> None:
    said_I = np.random.default_rng(3).random(N) ** 0.25
    found = control(said_I, np.zeros(N), None)
    # the penalty draws the log-odds to 0 by about 1 / (C n p (1 - p)), with C = 0.36 or more: 0.04, 0.6 points at most
    assert found.win_rate == pytest.approx(100 * said_I.mean(), abs=0.6)
    assert found.weights.length == 0.0


def test_swapping_the_two_sides_turns_the_rate_round() -> None:
    rng = np.random.default_rng(4)
    own_I, rival_I = lengths(4, 150.0)
    said_I = (rng.random(N) < judge(length_term(own_I, rival_I), -1.2, 0.3)).astype(float)
    one = control(said_I, length_term(own_I, rival_I), None)
    other = control(1 - said_I, length_term(rival_I, own_I), None)
    assert one.win_rate + other.win_rate == pytest.approx(100, abs=1e-3)
    assert (one.low, one.high) == pytest.approx((100 - other.high, 100 - other.low), abs=1e-3)
    assert one.weights.model == pytest.approx(-other.weights.model, abs=1e-4)
    assert one.weights.length == pytest.approx(other.weights.length, abs=1e-4)


def test_the_fit_is_where_an_independent_minimiser_of_the_written_out_loss_ends() -> None:
    rng = np.random.default_rng(5)
    feature_IK = np.stack([rng.uniform(-1, 1, 50), rng.standard_normal(50), np.ones(50)], 1)
    said_I = rng.random(50)

    def loss(weight_K: np.ndarray) -> float:
        total = 0.0
        for feature_K, said in zip(feature_IK, said_I, strict=True):
            chance = 1 / (1 + np.exp(-(feature_K @ weight_K)))
            total -= said * np.log(chance) + (1 - said) * np.log(1 - chance)
            total += 0.5 * 0.017 * (weight_K[0] + 1.61) ** 2 + 0.5 * 0.087 * (weight_K[1] - 0.76) ** 2
        return total + np.abs(weight_K).sum() / 2.0

    found = minimize(loss, np.full(3, 0.1), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12})
    assert length_control._fit(feature_IK, said_I, 2.0, np.zeros(3)) == pytest.approx(found.x, abs=CLOSE)


def test_difficulties_find_the_order_that_made_the_preferences() -> None:
    rng = np.random.default_rng(6)
    ease_I = SPREAD * rng.standard_normal(N)
    length_MI = np.stack([length_term(*lengths(10 + seed)) for seed in range(12)])
    said_MI = np.stack(
        [(rng.random(N) < judge(length_MI[at], -1.6, at / 4 - 2, ease_I)).astype(float) for at in range(12)]
    )
    found_I = difficulties(said_MI, length_MI, np.ones((12, N), bool))
    assert found_I is not None
    assert np.corrcoef(found_I, ease_I)[0, 1] > 0.85
    assert (found_I.mean(), found_I.std()) == pytest.approx((0, SPREAD), abs=CLOSE)


def test_what_is_not_known_changes_no_difficulty() -> None:
    rng = np.random.default_rng(7)
    said_MI, length_MI = rng.random((3, N)), np.stack([length_term(*lengths(20 + seed)) for seed in range(3)])
    mask_MI = rng.random((3, N)) < 0.7
    one_I = difficulties(said_MI, length_MI, mask_MI)
    other_I = difficulties(np.where(mask_MI, said_MI, 0.9), np.where(mask_MI, length_MI, -0.5), mask_MI)
    assert one_I is not None and other_I is not None
    assert one_I == pytest.approx(other_I, abs=CLOSE)


def test_one_model_or_likes_of_one_preference_have_no_difficulty() -> None:
    assert difficulties(np.full((1, 9), 0.3), np.zeros((1, 9)), np.ones((1, 9), bool)) is None
    assert difficulties(np.full((2, 9), 0.3), np.zeros((2, 9)), np.ones((2, 9), bool)) is None


def test_the_error_without_any_term_but_the_constant_is_that_of_a_mean() -> None:
    said_I = (np.random.default_rng(8).random(N) < 0.4).astype(float)
    found = control(said_I, np.zeros(N), None)
    # delta method: se(log-odds) = sqrt(p (1 - p) / n) / (p (1 - p)) = 1 / sqrt(n p (1 - p))
    rate = found.win_rate / 100
    reach = 1.959964 / np.sqrt(N * rate * (1 - rate))
    assert logit(found.high / 100) - logit(rate) == pytest.approx(reach, rel=0.02)
    assert logit(rate) - logit(found.low / 100) == pytest.approx(reach, rel=0.02)
    assert found.standard_error == pytest.approx(0.0, abs=EXACT)  # as the tool counts: all predictions are one number


def test_the_interval_holds_what_resampling_instructions_gives() -> None:
    rng = np.random.default_rng(9)
    length_I = length_term(*lengths(9, 200.0))
    said_I = (rng.random(N) < judge(length_I, -2.0, 0.2)).astype(float)
    found = control(said_I, length_I, None)
    feature_IK = np.stack([length_I, np.zeros(N), np.ones(N)], 1)
    rates = []
    for _ in range(100):
        drawn = rng.integers(0, N, N)
        weight_K = length_control._fit(feature_IK[drawn], said_I[drawn], found.weights.inverse_penalty, np.zeros(3))
        rates.append(100 * expit(weight_K[2]))
    low, high = np.quantile(rates, [0.025, 0.975])
    assert found.high - found.low == pytest.approx(high - low, rel=0.25)
    assert found.low < found.win_rate < found.high


def test_a_rate_that_the_penalty_draws_to_even_keeps_its_interval() -> None:
    said_I = np.resize([0.0, 1.0], N)
    found = control(said_I, np.zeros(N), None)
    assert found.win_rate == 50
    assert found.high - found.low == pytest.approx(2 * 196 / np.sqrt(4 * N), rel=0.02)  # 1.96 * sqrt(1/4 / n) each way


@pytest.mark.parametrize("said", [0.0, 1.0])
def test_a_model_that_always_wins_or_always_loses_has_a_rate(said: float) -> None:
    length_I = length_term(*lengths(11))
    found = control(np.full(N, said), length_I, None)
    assert 0 <= found.low <= found.win_rate <= found.high <= 100
    assert found.win_rate == pytest.approx(100 * said, abs=1.5)


def test_one_instruction_is_enough_for_a_rate_without_an_error() -> None:
    found = control(np.array([0.75]), np.zeros(1), None)
    assert np.isnan(found.standard_error)
    assert 0 < found.win_rate < 100


def test_an_instructions_influence_is_what_seeing_it_twice_does_to_the_rate() -> None:
    rng = np.random.default_rng(12)
    feature_IK = np.stack([length_term(*lengths(12, 300.0)), rng.standard_normal(N), np.ones(N)], 1)
    said_I = (rng.random(N) < judge(feature_IK[:, 0], -2.5, 0.7, feature_IK[:, 1])).astype(float)

    def fit(feature_IK: np.ndarray, said_I: np.ndarray) -> tuple[np.ndarray, float]:
        weight_K = length_control._fit(feature_IK, said_I, 1e8, np.zeros(3))
        return weight_K, float(expit(feature_IK[:, 1:] @ weight_K[1:]).mean())

    weight_K, rate = fit(feature_IK, said_I)
    influence_I = length_control._influence(feature_IK, said_I, weight_K)
    assert influence_I.mean() == pytest.approx(0, abs=1e-4)
    for at in range(5):
        twice = np.append(np.arange(N), at)
        changed = fit(feature_IK[twice], said_I[twice])[1] - rate
        assert changed * (N + 1) == pytest.approx(influence_I[at], abs=0.02)
