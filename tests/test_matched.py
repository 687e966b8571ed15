"""The test prompts that runs have in common."""

from typing import Any

import pytest
import runs
from tolerances import EXACT

from starling import matched


def cases(verdicts: list[float | None], **changes: Any) -> list[dict[str, Any]]:
    """A test prompt of a family of its own for each verdict; `changes` are made to every tuned answer."""
    return [
        runs.case(0)
        | {"prompt_id": f"p{at}", "family": f"f{at}", "verdict": verdict}
        | {"tuned": runs.case(0)["tuned"] | changes}
        for at, verdict in enumerate(verdicts)
    ]


def against(first: list[dict[str, Any]], other: list[dict[str, Any]], **rates: str) -> dict[str, dict[str, Any]]:
    found = matched.against(matched.by_prompt(first), matched.by_prompt(other), rates=rates)
    return {one["key"]: one for one in found}


def test_a_win_rate_is_compared_prompt_by_prompt() -> None:
    # Five of six prompts go from a tie to a win: (5 x 0.5) / 6 = 41.7 pt; all five signs alike: p = 2 / 2^5 = 0.0625.
    found = against(cases([0.5] * 6), cases([1.0] * 5 + [0.5]))["verdict"]
    assert found["change"]["value"] == pytest.approx(5 / 12, abs=EXACT)
    assert found["change"]["p"] == pytest.approx(0.0625, abs=EXACT)
    assert found["sentence"].startswith("Win rate over the base: no difference is shown, +41.7 pt")
    assert "(5 up, 0 down of 6 prompts; p = 0.062)" in found["sentence"]


def test_the_other_run_stands_after_the_first() -> None:
    # Six of six: p = 2 / 2^6 = 0.031.
    ties, wins = cases([0.5] * 6), cases([1.0] * 6)
    assert "better, +50.0 pt (no interval) (6 up, 0 down" in against(ties, wins)["verdict"]["sentence"]
    assert "worse, -50.0 pt (no interval) (0 up, 6 down" in against(wins, ties)["verdict"]["sentence"]


def test_to_refuse_a_harmless_look_alike_is_worse_and_an_ill_natured_request_better() -> None:
    answers = ({"answer": "Here it is."}, {"answer": "I'm sorry, but I cannot help with that."})
    for kind, word in (("look_alike", "worse"), ("ill_natured", "better")):
        first, other = ([case | {"kind": kind} for case in cases([0.5] * 6, **changes)] for changes in answers)
        assert f": {word}, +100.0 pt" in against(first, other)[f"refused_{kind}"]["sentence"]


def test_several_draws_of_a_prompt_count_once() -> None:
    # One draw that wins against two draws of which one wins: 0.5 - 1 = -50 pt, of one prompt.
    other = [runs.case(0) | {"verdict": verdict, "draw": draw} for draw, verdict in enumerate((1.0, 0.0))]
    found = against([runs.case(0) | {"verdict": 1.0}], other)["verdict"]["change"]
    assert (found["value"], found["n"]) == (-0.5, 1)


def test_the_order_of_the_draws_changes_nothing() -> None:
    # 0.1 + 0.2 + 0.3 and 0.3 + 0.2 + 0.1 differ in the last bit, which must not count as a change.
    def drawn(scores: tuple[float, ...]) -> list[dict[str, Any]]:
        return [runs.case(0) | {"tuned": runs.case(0)["tuned"] | {"score": score}} for score in scores]

    found = against(drawn((0.1, 0.2, 0.3)), drawn((0.3, 0.2, 0.1)))["rubric_score"]["change"]
    assert (found["gained"], found["lost"]) == (0, 0)


def test_prompts_of_a_family_go_together() -> None:
    first, other = ([case | {"family": "one"} for case in cases([v] * 6)] for v in (0.5, 1.0))
    found = against(first, other)["verdict"]["change"]
    assert (found["n"], found["clusters"], found["p"]) == (6, 1, 1.0)


def test_a_prompt_without_a_verdict_is_not_in_n() -> None:
    assert against(cases([0.5, None, 1.0]), cases([0.5, 1.0, None]))["verdict"]["change"]["n"] == 1


def test_a_prompt_is_the_same_only_with_its_text_and_checks() -> None:
    one = cases([0.5] * 3)
    other = [dict(case) for case in one]
    other[0]["messages"] = [{"role": "user", "content": "something else"}]
    other[1]["checks"] = []
    keys = matched.common([matched.by_prompt(one), matched.by_prompt(other)])
    assert [matched.by_prompt(one)[key][0]["prompt_id"] for key in keys] == ["p2"]
    assert matched.common([]) == []


def test_what_cannot_be_compared_says_why_and_the_rest_is_compared() -> None:
    found = against(cases([0.5] * 3), cases([1.0] * 3), verdict="since the judges are not the same")
    assert found["verdict"]["change"] is None
    assert found["verdict"]["sentence"] == "Win rate over the base: not compared, since the judges are not the same."
    assert found["held_out_verdict"]["change"]["n"] == 3


def test_runs_without_a_common_prompt_give_sentences_without_figures() -> None:
    other = [case | {"prompt_id": f"other {case['prompt_id']}"} for case in cases([0.5] * 2)]
    assert against(cases([0.5] * 2), other)["verdict"]["sentence"] == "Win rate over the base: no prompts to compare."
