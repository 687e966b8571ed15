"""The first questions about a run, answered in words."""

from pathlib import Path

import runs

from starling import digest, glance


def cards(run: Path, stages: tuple[str, ...] = runs.ALL) -> dict[str, str]:
    return {card["title"]: card["text"] for card in glance.cards(digest.digest(runs.make(run, stages)))}


def test_where_it_got_worse_is_said(tmp_path: Path) -> None:
    said = cards(tmp_path / "run")["Where did it get worse?"]
    assert "Kinds of prompt that lose clearly: ill natured." in said
    assert "1 of 3 lost, 1 won; on held-out checks 3 of 3 lost, 0 won" in said


def test_the_report_has_these_cards_and_what_is_not_measured_has_none(tmp_path: Path) -> None:
    assert list(cards(tmp_path / "run")) == [
        "What did it cost?", "Is the judge biased?", "Did length or refusals drift?", "Where did it get worse?",
    ]  # fmt: skip
    assert list(cards(tmp_path / "ranked", ("prompts", "sample", "rank"))) == [
        "What did it cost?",
        "Is the judge biased?",
    ]
    cost = cards(tmp_path / "begun", ("prompts",))
    assert list(cost) == ["What did it cost?"] and "of computing; no tokens yet." in cost["What did it cost?"]


def test_cost_and_bias_have_the_runs_own_figures(tmp_path: Path) -> None:
    said = cards(tmp_path / "run")
    assert "48,674 tokens sampled for ranking" in said["What did it cost?"]
    assert "The run's own model as judge: 13 of 20 replies could not be read." in said["Is the judge biased?"]
