"""Reward and judge part: the one rises while the other likes the answers clearly less."""

import math

import pytest

from starling.parting import Parting, has_fallen, win_rate

FAMILIES = [f"family {number // 2}" for number in range(12)]  # six families of two prompts
LIKED: list[float | None] = [1.0] * 12
DISLIKED: list[float | None] = [0.0] * 12


def test_a_clear_fall_of_the_judge_counts_only_while_the_reward_is_higher() -> None:
    # All six families fall: so far from 0 in 2 of the 2^6 ways to swap looks, 3 %; where five fall, in 2 of 2^5, 6 %.
    assert has_fallen(LIKED, DISLIKED, FAMILIES)
    assert not has_fallen(LIKED, [*DISLIKED[:10], 1.0, 1.0], FAMILIES)
    assert not has_fallen(DISLIKED, LIKED, FAMILIES)
    parting = Parting(FAMILIES)
    assert not parting.note(LIKED, 1.0, is_best=True)
    assert parting.note(DISLIKED, 1.1, is_best=False)
    assert parting.in_a_row == 1
    assert not parting.note(DISLIKED, 0.9, is_best=False)
    assert parting.in_a_row == 0


def test_a_fall_within_the_interval_is_chance() -> None:
    # One family of six falls: in (5/6)^6 = 33 % of the resamples it is not drawn at all.
    after = [0.0, 0.0, *LIKED[2:]]
    assert not has_fallen(LIKED, after, FAMILIES)


def test_one_family_shows_nothing_and_unread_verdicts_count_nowhere() -> None:
    assert not has_fallen(LIKED, DISLIKED, ["one"] * 12)
    assert not has_fallen(LIKED, [None] * 12, FAMILIES)
    assert has_fallen([None, *LIKED[1:]], DISLIKED, FAMILIES)


def test_looks_count_in_a_row_and_a_new_best_begins_anew() -> None:
    parting = Parting(FAMILIES)
    parting.note(LIKED, 0.0, is_best=True)
    for number in (1, 2):
        parting.note(DISLIKED, 1.0, is_best=False)
        assert parting.in_a_row == number
    parting.note([1.0] * 12, 2.0, is_best=True)
    assert parting.in_a_row == 0
    assert not parting.note(DISLIKED, 1.5, is_best=False)  # its reward is below that of the new best


def test_the_state_goes_on() -> None:
    parting, again = Parting(FAMILIES), Parting(FAMILIES)
    parting.note(LIKED, 0.0, is_best=True)
    parting.note(DISLIKED, 1.0, is_best=False)
    again.load_state_dict(parting.state_dict())
    assert again.note(DISLIKED, 1.0, is_best=False)
    assert again.in_a_row == 2


@pytest.mark.parametrize(("wins", "value", "n"), [([1.0, 0.5, None, 0.0], 0.5, 3), ([1.0, None, None, None], 1.0, 1)])
def test_the_win_rate_is_over_what_could_be_read(wins: list[float | None], value: float, n: int) -> None:
    found = win_rate(wins, ["a", "b", "c", "d"])
    assert (found.value, found.n) == (value, n)
    assert found.low <= value <= found.high


def test_without_a_verdict_there_is_no_win_rate() -> None:
    assert math.isnan(win_rate([None], ["a"]).value)
