"""Best-of-n: its KL, and the estimate from more answers than n."""

import math
import random
from itertools import combinations

import pytest
from tolerances import EXACT

from starling.best_of import expected_kl, shares


def test_kl_by_hand() -> None:
    assert expected_kl(1) == 0
    assert expected_kl(2) == pytest.approx(math.log(2) - 1 / 2, abs=EXACT)
    assert expected_kl(16) == pytest.approx(1.8350887, abs=1e-7)  # 4 log 2 - 15/16 = 2.7725887 - 0.9375


@pytest.mark.parametrize("n", [2, 3, 7])
def test_kl_is_that_of_the_best_of_n_draws(n: int) -> None:
    # of many equally likely answers the one at quantile u is best with density n u^(n - 1): integral of p log p
    points = [(step + 0.5) / 200_000 for step in range(200_000)]
    density = [n * u ** (n - 1) for u in points]
    assert sum(p * math.log(p) for p in density) / len(points) == pytest.approx(expected_kl(n), abs=1e-5)


def test_shares_by_hand() -> None:
    # pairs of 5, 9, 7: 9 wins two of three, 7 one
    assert shares([5.0, 9.0, 7.0], 2) == pytest.approx([0, 2 / 3, 1 / 3], abs=EXACT)
    assert shares([5.0, 9.0, 7.0], 1) == pytest.approx([1 / 3] * 3, abs=EXACT)
    assert shares([5.0, 9.0, 7.0], 3) == [0, 1, 0]


def test_equal_rewards_share_what_they_win_together() -> None:
    # pairs of 1, 2, 2: (1, 2) twice and (2, 2) once, so the two win all three, half each
    assert shares([2.0, 1.0, 2.0], 2) == pytest.approx([1 / 2, 0, 1 / 2], abs=EXACT)
    assert shares([4.0] * 5, 3) == pytest.approx([1 / 5] * 5, abs=EXACT)


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_the_estimate_is_the_mean_over_all_draws(n: int) -> None:
    draw = random.Random(n)
    rewards = [draw.choice([0.0, 0.5, 1.0, 2.0, 3.0]) for _ in range(8)]
    values = [draw.random() for _ in rewards]
    means = []
    for chosen in combinations(range(8), n):
        highest = max(rewards[place] for place in chosen)
        best = [values[place] for place in chosen if rewards[place] == highest]
        means.append(sum(best) / len(best))
    found = sum(share * value for share, value in zip(shares(rewards, n), values, strict=True))
    assert found == pytest.approx(sum(means) / len(means), abs=EXACT)


def test_more_answers_never_lower_the_reward_and_order_does_not_matter() -> None:
    rewards = [0.3, -1.0, 2.0, 0.7, 0.7, 1.1]
    means = [sum(s * r for s, r in zip(shares(rewards, n), rewards, strict=True)) for n in range(1, 7)]
    assert means == sorted(means)
    assert means[-1] == 2.0
    assert shares(rewards[::-1], 3) == shares(rewards, 3)[::-1]
    assert shares([10 * reward - 5 for reward in rewards], 3) == shares(rewards, 3)


@pytest.mark.parametrize("n", [0, 4])
def test_what_cannot_be_estimated_is_refused(n: int) -> None:
    with pytest.raises(ValueError, match=f"the best of {n} cannot be estimated from 3 answers"):
        shares([1.0, 2.0, 3.0], n)
