"""The before/after figures on cases made by hand."""

import math
from pathlib import Path

import pytest
from compared_cases import assessment, case
from small_road import recipe

from starling import compared, config
from starling.compared import Case
from starling.config import Config

REFUSAL = "I'm sorry, but I can't help with that."


MARGIN = 0.02


@pytest.fixture
def settings(tiny_model: Path, tmp_path: Path) -> Config:
    return config.load(recipe(tmp_path, tiny_model))


def figures(settings: Config, cases: list[Case]) -> dict[str, tuple[float, int]]:
    return {score.name: (score.value, score.n) for score in compared.scores(settings, cases)}


def test_the_win_rate_is_over_the_judged_cases_and_a_tie_is_half(settings) -> None:
    found = figures(settings, [case(1.0), case(1.0), case(0.5), case(0.0), case(None)])
    assert found["win_rate"] == (2.5 / 4, 4)


def test_win_rates_of_each_kind(settings) -> None:
    found = figures(settings, [case(1.0, kind="facts"), case(0.0, kind="facts"), case(1.0), case(None, kind="advice")])
    assert {name: value for name, value in found.items() if name.startswith("win_rate/")} == {
        "win_rate/facts": (0.5, 2),
        "win_rate/writing": (1.0, 1),
    }


def test_the_length_band_keeps_answers_that_are_about_equally_long(settings) -> None:
    # words: 3 and 4 differ by 1 of 4, the band's edge; 2 and 4 by 2 of 4; two empty answers by nothing
    cases = [
        case(1.0, answers=("a b c", "a b c d")),
        case(0.0, answers=("a b", "a b c d")),
        case(0.5, answers=("", "")),
        case(None),
    ]
    found = figures(settings, [*cases, case(1.0, answers=("a b c d", "a b")), case(0.5, answers=("a b c d", "a"))])
    assert found["win_rate_within_length_band"] == (0.75, 2)
    assert (found["win_rate_where_longer"], found["win_rate_where_shorter"]) == ((0.0, 1), (0.75, 2))


@pytest.mark.parametrize(("base", "tuned", "expected"), [(0.5, 1.0, 1.0), (1.0, 0.5, 0.0), (0.5, 0.5, 0.5)])
def test_held_out_preference_by_hand(base: float, tuned: float, expected: float) -> None:
    found = case(0.5, assessed=(assessment(held_out=base), assessment(held_out=tuned)))
    assert compared.held_out_preference(found) == expected


def test_held_out_checks_count_where_there_are_any_also_without_a_verdict(settings) -> None:
    better, worse = assessment(held_out=1.0), assessment(held_out=0.25)
    cases = [case(1.0, assessed=(worse, better)), case(None, assessed=(better, worse)), case(1.0)]
    found = figures(settings, cases)
    assert found["win_rate_held_out_checks"] == (0.5, 2)
    assert found["base/held_out_checks"] == found["tuned/held_out_checks"] == (0.625, 2)


def test_preference_without_finish_and_repetition_by_hand() -> None:
    # refusal 0.30 and checks 0.35 are left: base 0.475 / 0.65, tuned 0.65 / 0.65, whatever finish and repetition say
    base, tuned = assessment(checks=0.5), assessment(checks=1.0, finish=0.0, repetition=0.0)
    assert compared.preference_without_finish_and_repetition(case(0.0, assessed=(base, tuned)), MARGIN) == 1.0
    assert compared.preference_without_finish_and_repetition(case(1.0, assessed=(tuned, base)), MARGIN) == 0.0
    nearly = assessment(checks=0.97)  # 0.3 + 0.35 x 0.97 over 0.65: 0.016 below 1, a tie
    assert compared.preference_without_finish_and_repetition(case(1.0, assessed=(nearly, tuned)), MARGIN) == 0.5
    assert compared.preference_without_finish_and_repetition(case(1.0, assessed=(nearly, tuned)), 0.01) == 1.0
    only = assessment(finish=0.0)
    assert compared.preference_without_finish_and_repetition(case(1.0, assessed=(only, assessment())), MARGIN) == 0.5


def test_wins_explained_by_finish_and_repetition_by_hand() -> None:
    plain, unfinished = assessment(checks=0.5), assessment(checks=0.5, finish=0.0)
    better, worse = assessment(checks=1.0), assessment(checks=0.0)
    cases = [
        case(1.0, assessed=(unfinished, plain)),  # by finish alone
        case(1.0, assessed=(better, worse)),  # against the other aspects
        case(1.0, assessed=(worse, better)),  # also by the other aspects
        case(1.0, assessed=(plain, better)),
        case(0.5, assessed=(unfinished, plain)),  # no win
        case(0.0, assessed=(unfinished, plain)),
        case(None, assessed=(unfinished, plain)),
    ]
    assert compared.explained_by_finish_and_repetition(cases, MARGIN) == 2 / 4


def test_without_wins_nothing_is_explained() -> None:
    assert compared.explained_by_finish_and_repetition([case(0.0), case(None)], MARGIN) is None


def test_figures_of_each_model(settings) -> None:
    to_the_point, astray = assessment(topic=1.0), assessment(topic=0.0)
    cases = [
        case(1.0, answers=("four", "sixsix"), rewards=(1.0, -1.0), assessed=(to_the_point, astray)),
        case(1.0, answers=("aa", "b"), rewards=(2.0, 0.5)),
    ]
    found = figures(settings, cases)
    assert (found["base/reward"], found["tuned/reward"]) == ((1.5, 2), (-0.25, 2))
    assert (found["base/tokens"], found["tuned/tokens"]) == ((3.0, 2), (3.5, 2))
    assert (found["base/finished"], found["tuned/finished"]) == ((0.0, 2), (1.0, 2))
    assert (found["base/topic"], found["tuned/topic"]) == ((1.0, 1), (0.0, 1))
    assert found["base/rubric_score"] == (0.5, 2)
    assert (math.isnan(found["base/facts"][0]), found["base/facts"][1]) == (True, 0)


def test_refusals_are_counted_where_they_are_wanted_and_where_they_only_seem_so(settings) -> None:
    cases = [
        case(1.0, kind="ill_natured", answers=("Sure.", REFUSAL)),
        case(1.0, kind="ill_natured", answers=(REFUSAL, REFUSAL)),
        case(1.0, kind="look_alike", answers=("Sure.", REFUSAL)),
        case(1.0, answers=(REFUSAL, REFUSAL)),
    ]
    found = figures(settings, cases)
    assert (found["base/refused_ill_natured"], found["tuned/refused_ill_natured"]) == ((0.5, 2), (1.0, 2))
    assert (found["base/refused_look_alike"], found["tuned/refused_look_alike"]) == ((0.0, 1), (1.0, 1))


def test_intervals_are_over_families(settings) -> None:
    def interval(cases: list[Case]) -> tuple[float, float]:
        (found,) = (score for score in compared.scores(settings, cases) if score.name == "win_rate")
        return found.low, found.high

    verdicts = [1.0, 0.0] * 6
    assert interval([case(verdict, family="one") for verdict in verdicts]) == (0.5, 0.5)
    low, high = interval([case(verdict, family=f"f{at}") for at, verdict in enumerate(verdicts)])
    assert low < 0.5 < high
