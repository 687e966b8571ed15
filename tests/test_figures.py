"""Numbers as people read them."""

import math

import pytest

from starling import figures


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (48_674, "48,674"), (0, "0"), (0.0, "0.00"), (0.562, "0.562"), (46.83, "46.8"), (123.4, "123"), (99.96, "100"),
        (1234.5, "1,234"), (-2.134, "-2.13"), (0.00123, "0.00123"), (None, "n/a"), (math.nan, "n/a"),
    ],
)  # fmt: skip
def test_numbers_have_three_significant_digits_and_counts_have_all(value: float | None, text: str) -> None:
    assert figures.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.573, "57.3 %"), (0.0, "0 %"), (1.0, "100 %"), (None, "n/a"), (0.0512, "5.1 %")]
)
def test_shares_are_in_per_cent(value: float | None, text: str) -> None:
    assert figures.share(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.72, "0.7 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (157, "2 min 37 s"),
        (4350, "1 h 12 min"),
        (None, "n/a"),
    ],
)
def test_times_have_the_two_units_that_matter(seconds: float | None, text: str) -> None:
    assert figures.duration(seconds) == text


@pytest.mark.parametrize(
    ("per_second", "text"),
    [
        (1234.5, "1,234/s"), (9.96, "10/s"), (4.21, "4.2/s"), (1.0, "1.0/s"), (0.24, "14/min"), (1 / 60, "1.0/min"),
        (1 / 90, "40/h"), (1 / 7200, "12/day"), (0.0, "0/s"),
    ],
)  # fmt: skip
def test_a_rate_is_by_the_shortest_time_that_sees_one_done(per_second: float, text: str) -> None:
    assert figures.rate(per_second) == text


def test_a_pace_is_the_rate_and_the_time_left_or_just_begun() -> None:
    assert figures.pace(20, 160, 0.25) == "15/min, about 9 min 20 s left"  # 140 at one in 4 s
    assert figures.pace(15, 10, 2.0) == "2.0/s, about 0.0 s left"
    assert figures.pace(0, 10, None) == "just begun"


def test_an_interval_says_value_ends_and_n() -> None:
    score = {"value": 0.573, "low": 0.521, "high": 0.624, "n": 100}
    assert figures.share_interval(score) == "57.3 % (52.1 to 62.4), n = 100"
    assert figures.number_interval(score) == "0.573 (0.521 to 0.624), n = 100"


def test_the_ends_of_an_interval_have_the_decimals_of_the_largest() -> None:
    assert (
        figures.number_interval({"value": 0.3, "low": -0.00123, "high": 12.3456, "n": 5}) == "0.3 (0.0 to 12.3), n = 5"
    )


def test_a_change_has_a_sign() -> None:
    assert figures.share_change({"value": 0.052, "low": -0.011, "high": 0.093}) == "+5.2 pt (-1.1 to +9.3)"
    assert figures.number_change({"value": -4.81, "low": -6.9, "high": -2.7}) == "-4.81 (-6.90 to -2.70)"


def test_no_cases_are_said_to_be_none() -> None:
    empty = {"value": None, "low": None, "high": None, "n": 0}
    assert figures.share_interval(empty) == figures.number_interval(empty) == "no cases"
    assert figures.share_change(empty) == figures.number_change(empty) == "n/a"


def test_a_figure_without_interval_is_shown_without() -> None:
    assert figures.number_interval({"value": 3.21, "low": None, "high": None, "n": 7}) == "3.21, n = 7"


@pytest.mark.parametrize("value", [0.0, 0.833, 1.0])
def test_an_interval_without_width_is_none(value: float) -> None:
    score = {"value": value, "low": value, "high": value + 1e-17, "n": 3}
    assert not figures.has_interval(score)
    assert figures.share_interval(score) == f"{figures.share(value)} (no interval), n = 3"
    assert figures.number_change(score).endswith("(no interval)")


def test_a_budget_is_used_of_allowed_or_without_limit() -> None:
    assert figures.used_of({"used": 48_674, "allowed": 60_000}) == "48,674 of 60,000"
    assert figures.used_of({"used": 48_674, "allowed": 0}) == "48,674, no limit"


@pytest.mark.parametrize(("usd", "text"), [(0.0031, "$0.0031"), (1234.5, "$1,234.5000"), (None, "price unknown")])
def test_money_is_told_to_the_hundredth_of_a_cent(usd: float | None, text: str) -> None:
    assert figures.money(usd) == text
