"""benchmarks/fit_alpaca.py: rankings from strengths, and the same ones for every loss."""

import importlib
from pathlib import Path
from typing import Any

import pytest

from starling.config import FitTable

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def fit_alpaca(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("fit_alpaca")


def rows(count: int, answers: int) -> list[dict[str, Any]]:
    """Instructions whose answers are the worse the later they stand."""
    return [
        {
            "prompt": f"ask {number}",
            "answers": [{"answer": f"a{at}", "model": f"m{at}", "score": 1 / (2 + at)} for at in range(answers)],
        }
        for number in range(count)
    ]


@pytest.mark.parametrize(
    ("strength", "expected"),
    [
        ([3.0, 2.5, 0.0], [1, 1, 3]),
        ([0.0, 3.0, 2.0], [3, 1, 2]),  # exactly the margin apart is apart
        ([2.0, 1.5, 0.9], [1, 1, 3]),  # the third is within 1 of the second, not of the best of their level
        ([5.0, 5.0], [1, 1]),
    ],
)
def test_answers_that_are_close_are_tied(fit_alpaca: Any, strength: list[float], expected: list[int]) -> None:
    assert fit_alpaca.ranks(strength, 1.0) == expected


def test_log_odds_are_finite_and_odd(fit_alpaca: Any) -> None:
    assert fit_alpaca.log_odds(0.5) == 0.0
    assert fit_alpaca.log_odds(0.8) == pytest.approx(-fit_alpaca.log_odds(0.2))
    assert fit_alpaca.log_odds(1.0) == pytest.approx(-fit_alpaca.log_odds(0.0))
    assert 13 < fit_alpaca.log_odds(1.0) < 14


def test_held_out_instructions_are_the_same_for_every_seed_and_never_trained_on(
    fit_alpaca: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_alpaca, "HELD_OUT", 5)
    first, tests = fit_alpaca.rankings(rows(12, 14), 1, 7, draws=2)
    other, again = fit_alpaca.rankings(rows(12, 14), 2, 7, draws=2)
    assert tests == again
    asked = [{one.messages[0]["content"] for one in found} for found in (first, tests)]
    assert (len(asked[0]), len(asked[1]), asked[0] & asked[1]) == (7, 5, set())
    assert len(first) == len(other) == 14
    assert [one.prompt_id for one in first] != [one.prompt_id for one in other]
    drawn = {one.prompt_id: {answer.draw for answer in one.answers} for one in first}
    assert all(drawn[name] & drawn[f"{name}-draw-2"] == set() for name in drawn if not name.endswith("-draw-2"))


def test_every_loss_sees_the_same_rankings_and_one_pair_two_answers_of_them(
    fit_alpaca: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_alpaca, "HELD_OUT", 5)
    whole, _ = fit_alpaca.rankings(rows(12, 9), 1, 7)
    pairs, _ = fit_alpaca.rankings(rows(12, 9), 1, 2)
    for ranking, pair in zip(whole, pairs, strict=True):
        assert ranking.prompt_id == pair.prompt_id
        assert {answer.answer for answer in pair.answers} < {answer.answer for answer in ranking.answers}
        assert sorted(pair.ranks) in ([1, 1], [1, 2])
        assert len(set(pair.ranks)) == min(2, len(set(ranking.ranks)))
    for changes, shown in fit_alpaca.VARIANTS.values():
        assert FitTable(**(fit_alpaca.TABLE.model_dump() | changes))
        assert shown in (2, fit_alpaca.K)
