"""Bradley-Terry ratings: worked numbers, choix as oracle, what cannot be rated."""

import math
from collections.abc import Sequence

import choix
import numpy as np
import pytest
from scipy import optimize
from tolerances import CLOSE

from starling.benches.ratings import Verdict, rate, rateable
from starling.errors import DataError


def wins(winner: str, loser: str, count: int, first: int = 0) -> list[Verdict]:
    return [Verdict(winner, loser, 1.0, f"p{first + number}") for number in range(count)]


def ties(one: str, other: str, count: int) -> list[Verdict]:
    return [Verdict(one, other, 0.5, f"t{number}") for number in range(count)]


def points(verdicts: Sequence[Verdict], resamples: int = 0) -> dict[str, float]:
    return {row["model"]: row["value"] for row in rate(verdicts, resamples=resamples)["ratings"]}


def made(theta: dict[str, float], gamma: float, count: int) -> list[Verdict]:
    """Verdicts drawn from the model itself."""
    rng = np.random.default_rng(3)
    found = []
    for number in range(count):
        a, b = rng.choice(list(theta), 2, replace=False)
        z = rng.normal()
        p = 1 / (1 + math.exp(-(theta[a] - theta[b] + gamma * z)))
        found.append(Verdict(str(a), str(b), float(rng.random() < p), f"p{number % 90}", float(z)))
    return found


def test_three_wins_to_one_are_odds_of_three() -> None:
    # theta_a - theta_b = ln 3; 400 / ln 10 * ln 3 = 400 log10(3) = 190.8485, half to each side of 1000
    found = points(wins("a", "b", 3) + wins("b", "a", 1))
    assert found == pytest.approx({"a": 1095.42425, "b": 904.57575}, abs=1e-4)


def test_a_tie_is_half_a_win() -> None:
    # 2 wins and 2 ties are 3 of 4, as three wins to one
    assert points(wins("a", "b", 2) + ties("a", "b", 2)) == pytest.approx(
        points(wins("a", "b", 3) + wins("b", "a", 1)), abs=1e-4
    )


def test_ratings_add_up_along_a_chain() -> None:
    # b over c at odds 2, a over b at odds 3: with nothing between a and c the odds multiply, 400 log10(6) = 311.26
    chain = wins("a", "b", 3) + wins("b", "a", 1) + wins("b", "c", 2) + wins("c", "b", 1)
    found = points(chain)
    assert found["a"] - found["c"] == pytest.approx(400 * math.log10(6), abs=1e-3)
    assert np.mean(list(found.values())) == pytest.approx(1000)


def test_ratings_are_those_of_choix() -> None:
    verdicts = made({"a": 0.0, "b": 0.7, "c": -0.4, "d": 1.1}, 0.0, 300)
    pairs = [(v.model_a, v.model_b) if v.score_a else (v.model_b, v.model_a) for v in verdicts]
    theta = choix.opt_pairwise(4, [("abcd".index(one), "abcd".index(other)) for one, other in pairs], tol=1e-10)
    expected = 1000 + 400 / math.log(10) * (theta - theta.mean())
    assert [points(verdicts)[name] for name in "abcd"] == pytest.approx(expected, abs=1e-2)


def test_ratings_at_equal_length_are_those_of_an_independent_maximum() -> None:
    verdicts = made({"a": 0.0, "b": 0.7, "c": -0.4}, 0.8, 240)

    def nll(x: np.ndarray) -> float:
        theta = dict(zip("abc", [0.0, x[0], x[1]], strict=True))
        eta = [theta[v.model_a] - theta[v.model_b] + x[2] * (v.log_length or 0) for v in verdicts]
        return sum(math.log1p(math.exp(-e if v.score_a else e)) for e, v in zip(eta, verdicts, strict=True))

    x = optimize.minimize(nll, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10}).x
    theta = np.array([0.0, x[0], x[1]])
    found = rate(verdicts, resamples=0)
    equal = {row["model"]: row["at_equal_length"]["value"] for row in found["ratings"]}
    assert [equal[name] for name in "abc"] == pytest.approx(
        1000 + 400 / math.log(10) * (theta - theta.mean()), abs=1e-2
    )
    assert found["doubled_length"]["value"] == pytest.approx(1 / (1 + 2 ** -x[2]), abs=CLOSE)


def test_swapping_the_sides_of_every_verdict_changes_nothing() -> None:
    verdicts = made({"a": 0.0, "b": 0.7, "c": -0.4}, 0.8, 60)
    swapped = [Verdict(v.model_b, v.model_a, 1 - v.score_a, v.cluster, -(v.log_length or 0)) for v in verdicts]
    one, other = rate(verdicts, resamples=20), rate(swapped, resamples=20)
    assert [row["value"] for row in one["ratings"]] == pytest.approx([row["value"] for row in other["ratings"]])
    assert one["doubled_length"]["low"] == pytest.approx(other["doubled_length"]["low"])


def test_intervals_hold_the_figure_narrow_with_more_prompts_and_follow_from_the_seed() -> None:
    few, many = (wins("a", "b", 3 * n) + wins("b", "a", n, 3 * n) for n in (4, 100))
    rows = [rate(verdicts, resamples=200, seed=1)["ratings"][0] for verdicts in (few, many, few)]
    widths = [row["high"] - row["low"] for row in rows]
    assert all(row["low"] < row["value"] < row["high"] for row in rows)
    assert widths[1] < widths[0] / 3
    assert rows[0] == rows[2]
    # the logit of a share of 300 in 400 has the standard error 1 / sqrt(400 * 3/4 * 1/4) = 0.1155; a's own rating is
    # half of the difference: 1.96 * 0.1155 * 173.72 = 39.3 wide
    assert widths[1] == pytest.approx(39.3, rel=0.2)


def test_verdicts_on_one_prompt_vary_together() -> None:
    apart = wins("a", "b", 30) + wins("b", "a", 10, 30)
    together = [v._replace(cluster=f"p{index // 10}") for index, v in enumerate(apart)]  # ten at a time agree
    one, other = (rate(verdicts, resamples=300)["ratings"][0] for verdicts in (apart, together))
    assert other["high"] - other["low"] > 1.5 * (one["high"] - one["low"])
    alone = rate([v._replace(cluster="p") for v in apart])["ratings"][0]
    assert (alone["low"], alone["high"]) == (None, None)


def test_a_model_that_never_lost_is_listed_and_the_rest_rated() -> None:
    found = rate(wins("a", "b", 3) + wins("b", "a", 1) + wins("top", "a", 2) + wins("b", "low", 1), resamples=0)
    assert [row["model"] for row in found["ratings"]] == ["a", "b"]
    assert [(row["model"], row["reason"], row["n"], row["wins"]) for row in found["not_rated"]] == [
        ("low", "has never won against the rated models", 1, 0),
        ("top", "has never lost to the rated models", 2, 2),
    ]
    assert (found["verdicts"], found["not_among_rated"]) == (4, 3)


def test_groups_that_never_met_are_not_put_on_one_scale() -> None:
    found = rateable(ties("a", "b", 2) + ties("c", "d", 3))
    assert found.models == ["c", "d"]
    assert found.others == {"a": "has not met the rated models", "b": "has not met the rated models"}


@pytest.mark.parametrize(
    ("verdicts", "said"), [([], "at least 2 models are needed; found 0"), (wins("a", "b", 4), "a has never lost")]
)
def test_what_has_no_finite_rating_says_so(verdicts: list[Verdict], said: str) -> None:
    with pytest.raises(DataError, match=said):
        rate(verdicts)


@pytest.mark.parametrize(
    ("lengths", "said"),
    [
        ([None, 0.1, 0.2, 0.3], "1 of 4 verdicts come without"),
        ([0.5, 0.5, 0.5, 0.5], "equally long"),
        ([0.5, 0.1, 0.2, -0.3], "tells all verdicts apart"),
    ],
)
def test_where_length_cannot_be_controlled_for_the_reason_is_told(lengths: list[float | None], said: str) -> None:
    plain = [*wins("a", "b", 3), Verdict("a", "b", 0.0, "p9")]
    found = rate([v._replace(log_length=z) for v, z in zip(plain, lengths, strict=True)], resamples=0)
    assert said in found["length_note"]
    assert found["ratings"][0]["at_equal_length"] is None
    assert found["doubled_length"] is None


def test_a_length_that_goes_with_the_model_is_not_controlled_for() -> None:
    plain = wins("a", "b", 3) + wins("b", "a", 1) + wins("b", "c", 1) + wins("c", "b", 1)
    size = {"a": 1.0, "b": 2.0, "c": 4.0}
    found = rate([v._replace(log_length=size[v.model_a] - size[v.model_b]) for v in plain], resamples=0)
    assert "cannot be told from the model" in found["length_note"]
