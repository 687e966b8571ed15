"""A benchmark's result as a run shows it."""

from typing import Any

import pytest
from rich.console import Console

from starling.benches import told

DATE = "2027-01-01T00:00:00+00:00"


def figure(value: float, low: float, high: float, n: int = 40) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n": n}


def row(name: str, value: float, low: float, high: float, *, level: int = 0, **more: Any) -> dict[str, Any]:
    return {"name": name, "unit": "share", "level": level} | figure(value, low, high) | more


def result(**changes: Any) -> dict[str, Any]:
    return {
        "bench": "safety", "date": DATE, "model": {"name": "runs/x"}, "judge": {"name": "rubric"},
        "data": {"name": "own", "cases": 80}, "left_out": {"count": 0, "reasons": {}, "items": []},
        "rows": [row("refused", 0.5, 0.4, 0.6), row("curt", 0.25, 0.2, 0.3, level=1)],
    } | changes  # fmt: skip


AGAINST = {
    "model": {"name": "m"},
    "rows": [row("refused", 0.75, 0.6, 0.9), row("curt", 0.5, 0.4, 0.6, level=1)],
    "changes": [
        {"name": "Refused", "row": "refused", "says": "worse"} | figure(-0.25, -0.4, -0.1),
        {"name": "Polite where both refuse", "row": "", "says": "unclear"} | figure(0.125, -0.1, 0.2, 8),
        {"name": "Of nothing", "row": "", "says": "unclear"} | figure(0.0, 0.0, 0.0, 0),
    ],
    "says": ["Refused: worse."],
}  # fmt: skip


def test_both_sides_stand_beside_the_change_of_the_same_row() -> None:
    found = told.told("mine", result(against=AGAINST))
    assert (found["title"], found["kind"], found["says"]) == ("mine", told.CHANGE, ["Refused: worse."])
    assert found["date"] == "2027-01-01"  # the day alone
    refused, curt, polite = found["rows"]
    assert refused["base"] == figure(0.75, 0.6, 0.9) and refused["tuned"] == figure(0.5, 0.4, 0.6)
    assert (refused["change"], refused["says"]) == (figure(-0.25, -0.4, -0.1), "worse")
    assert curt["base"]["value"] == 0.5 and curt["change"] is None and curt["says"] == ""
    assert polite["label"] == "Polite where both refuse" and polite["base"] is polite["tuned"] is None
    assert told.worse([found]) == ["mine (refused)"]


@pytest.mark.parametrize(
    ("low", "high", "says", "sentence"),
    [
        (0.55, 0.7, "better", "The tuned model is preferred: it wins against the base in 60.0 %"),
        (0.4, 0.7, "unclear", "No preference is shown"),
        (0.6, 0.6, "unclear", "how sure this is cannot be said"),
    ],
)
def test_a_win_rate_says_what_its_interval_allows(low: float, high: float, says: str, sentence: str) -> None:
    rows = [row("runs/x against m", 0.6, low, high), row("turn 1", 0.7, 0.5, 0.9, level=1)]
    found = told.told("mt_bench", result(bench="mt_bench", rows=rows, against={"name": "m"}))
    assert found["kind"] == told.WIN_RATE and found["rows"][0]["says"] == says and sentence in found["says"][0]
    assert [one["label"] for one in found["rows"]] == ["tuned against base, ties half", "turn 1"]
    assert found["rows"][1]["says"] == ""


def test_a_reward_models_figures_stand_beside_length_alone() -> None:
    rows = [{"name": "overall", "level": 0, "note": "", "length_only": figure(0.5, 0.4, 0.6)} | figure(0.7, 0.6, 0.8)]
    plain = result(bench="reward_bench", rows=rows, data={"name": "x", "rows": 9})
    del plain["judge"]
    found = told.told(
        "reward_bench", plain | {"contamination": {"questions": 9, "questions_held": 2, "prompts": 5, "found": []}}
    )
    assert (found["kind"], found["cases"], found["says"], found["judge"]) == (told.REWARD_MODEL, 9, [], "")
    assert found["rows"][0]["tuned"] == figure(0.7, 0.6, 0.8) and found["rows"][0]["length_only"]["value"] == 0.5
    assert found["contamination"] == {"questions": 9, "questions_held": 2, "prompts": 5}


def test_the_terminal_shows_base_tuned_change_n_and_judge_in_eighty_columns() -> None:
    won = told.told(
        "mt_bench", result(rows=[row("a against b", 0.25, 0.1, 0.4)], judge={"name": "gpt", "template_hash": "ab"})
    )
    console = Console(width=80, record=True)
    console.print(told.table([told.told("safety", result(against=AGAINST)), won]))
    text = " ".join(console.export_text().split())
    assert "safety: refused 75.0 % 50.0 % -25.0 pt (-40.0 to -10.0) 40 rubric" in text
    assert "wins 25.0 % (10.0 to 40.0) 40 gpt" in text
    assert "curt" not in text


def test_without_a_standard_error_a_change_has_no_interval() -> None:
    change = {"name": "t acc", "row": "t acc", "value": 0.1, "low": None, "high": None, "says": "unclear"}
    rows = [row("t acc", 0.5, 0.4, 0.6)]
    found = told.told("lm_eval", result(rows=rows, against={"rows": rows, "changes": [change], "says": []}))
    assert found["rows"][0]["change"] == {"value": 0.1, "low": None, "high": None, "n": 40}


def test_runs_share_a_row_where_judge_and_data_are_the_same() -> None:
    one, other = told.told("safety", result(against=AGAINST)), told.told("safety", result(against=AGAINST))
    won = told.told("mt_bench", result(rows=[row("a against b", 0.25, 0.1, 0.4)]))
    found = told.beside([[one, won], [], [other | {"judge": "another"}, won]])
    assert [(line["title"], line["label"], line["kind"]) for line in found] == [
        ("safety", "refused", "share_change"),
        ("safety", "Polite where both refuse", "share_change"),
        ("mt_bench", "tuned against base, ties half", "share_interval"),
        ("safety", "refused", "share_change"),
        ("safety", "Polite where both refuse", "share_change"),
    ]
    assert found[0]["figures"] == [figure(-0.25, -0.4, -0.1), None, None]
    assert found[2]["figures"][0] == found[2]["figures"][2] == figure(0.25, 0.1, 0.4)
