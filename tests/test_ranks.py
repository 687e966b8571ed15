"""Ranks, levels, scores, and how far two rankings agree."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tolerances import EXACT

from starling.judges.ranks import kendall, mean_ranks, middle_ranks, preference, ranks_from_levels, ranks_with_ties


@pytest.mark.parametrize(
    ("levels", "ranks"),
    [
        ([[2], [0], [1]], [2.0, 3.0, 1.0]),
        ([[0, 1], [2]], [1.0, 1.0, 3.0]),
        ([[2], [0, 1]], [2.0, 2.0, 1.0]),
        ([[0, 1, 2]], [1.0, 1.0, 1.0]),
    ],
)
def test_levels_become_competition_ranks(levels, ranks):
    assert ranks_from_levels(levels, 3) == ranks


@pytest.mark.parametrize("levels", [[[0], [1]], [[0], [0], [1]], [[0, 1, 2, 3]]])
def test_levels_that_do_not_hold_each_answer_once_are_refused(levels):
    with pytest.raises(ValueError, match="once"):
        ranks_from_levels(levels, 3)


@pytest.mark.parametrize(
    ("scores", "margin", "ranks"),
    [
        ((0.9, 0.5, 0.89), 0.02, [1, 3, 1]),
        ((0.5, 0.5), 0.0, [1, 1]),
        ((3, 2.9, 2.8), 0.15, [1, 1, 3]),  # tied with the best of the level, not with its neighbour
    ],
)
def test_scores_become_ranks_with_ties_by_the_margin(scores, margin, ranks):
    assert ranks_with_ties(scores, margin) == ranks


def test_tied_answers_share_the_mean_of_their_places():
    # places 1 and 2 give 1.5 each, 3 stands alone, places 4 and 5, which are not known, give 4.5 each
    assert middle_ranks([1, 1, 3, math.inf, math.inf]) == [1.5, 1.5, 3, 4.5, 4.5]


def test_mean_ranks_by_hand():
    # sums of places 1 + 2, 2 + 1, 3 + 3: the first two are equal
    assert mean_ranks([[1, 2, 3], [2, 1, 3]]) == [1, 1, 3]
    # with the tie 1.5, 1.5, 3 the sums are 2.5, 3.5, 6
    assert mean_ranks([[1, 2, 3], [1, 1, 3]]) == [1, 2, 3]


@given(st.permutations(range(1, 6)), st.integers(1, 4))
def test_the_mean_of_one_ranking_said_again_is_that_ranking(order, times):
    assert mean_ranks([list(map(float, order))] * times) == list(order)


def test_kendall_by_hand():
    assert kendall([1, 2, 3], [1, 2, 3]) == pytest.approx(1, abs=EXACT)
    assert kendall([1, 2, 3], [3, 2, 1]) == pytest.approx(-1, abs=EXACT)
    assert kendall([1, 2, 3], [1, 3, 2]) == pytest.approx((2 - 1) / 3, abs=EXACT)
    assert kendall([1, 1, 1], [1, 2, 3]) is None


@pytest.mark.parametrize(("ranks", "expected"), [([1, 2], 1.0), ([2, 1], 0.0), ([1, 1], 0.5)])
def test_preference_by_hand(ranks: list[float], expected: float) -> None:
    assert preference(ranks) == expected
