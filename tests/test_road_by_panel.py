"""The whole road with a panel in both places: what evaluate and the report tell of its judges."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_reader import Page, wrong_numbers
from servers import Server, ranking_judge, replies_with
from small_road import recipe

from starling import cli, data_files

LONGER = replies_with(ranking_judge(len))


@pytest.fixture(scope="module")
def road(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Server]]:
    """Rankings by the rubric and a judge of length; the test by these two and one that writes prose."""
    folder = tmp_path_factory.mktemp("panel")
    with Server(always=LONGER) as longer, Server(always=replies_with(lambda question: "Nice.")) as prose:
        by = [f"openai:longer@{longer.url}", f"openai:prose@{prose.url}"]
        settings: dict[str, Any] = {
            "rank__judges": ["rubric", by[0]], "rank__probe_prompts": 0, "evaluate__judges": ["rubric", *by],
            "evaluate__attempts": 1, "fit__weights": "agreement", "fit__checkpoint_seconds": 60,
            "tune__checkpoint_seconds": 60,
        }  # fmt: skip
        path = recipe(folder, tiny_model, **settings)
        assert cli.main(["run", str(path), "--run", str(folder / "run")]) == 0
        yield folder / "run", longer


def scores_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "evaluate" / "scores.json").read_text())


def test_each_judge_has_its_win_rate_and_the_panels_is_over_what_all_could_judge(road) -> None:
    table = scores_of(road[0])
    cases = data_files.read_rows(road[0] / "evaluate" / "cases.jsonl")
    rubric, longer, prose = table["panel"]["members"]
    assert table["judge"].startswith("panel of rubric, kwise:longer@")
    for member in (rubric, longer, prose):
        votes = [case["verdicts"][member["judge"]] for case in cases if case["verdicts"][member["judge"]] is not None]
        assert (member["win_rate"]["n"], member["unparsed"]) == (len(votes), len(cases) - len(votes))
        assert not votes or member["win_rate"]["value"] == pytest.approx(sum(votes) / len(votes))
    assert (rubric["win_rate"]["n"], longer["win_rate"]["n"], prose["win_rate"]["n"]) == (6, 6, 0)
    assert (table["unparsed"], table["panel"]["partly"], table["panel"]["silent"]) == (0, 0, [prose["judge"]])
    for case in cases:  # of the two that could be read: what both say, else a tie
        one, other = (case["verdicts"][member["judge"]] for member in (rubric, longer))
        assert case["verdict"] == (one if one == other else 0.5)
    assert [len(one["between"]) for one in table["panel"]["agreement"]] == [2, 2, 2, 3]
    assert [one["same"]["n"] for one in table["panel"]["agreement"]] == [6, 0, 0, 0]
    for case in cases:
        better = len(case["tuned"]["answer"]) - len(case["base"]["answer"])
        if better:  # the judge of length saw tuned first
            assert case["verdicts"][longer["judge"]] == float(better > 0)


def test_the_report_shows_both_panels_and_its_numbers_are_those_beside_it(road) -> None:
    page = Page((road[0] / "report.html").read_text())
    numbers = json.loads((road[0] / "report.json").read_text())
    assert wrong_numbers(page, numbers) == []
    assert "Each judge of the panel" in page.text and "has no part in the vote" in page.text
    assert len(numbers["judge"]["panel"]["members"]) == 2
    assert len(numbers["result"]["panel"]["members"]) == 3


def test_the_same_command_does_nothing_twice_and_another_panel_is_another_run(road, capsys) -> None:
    run, longer = road
    asked = len(longer.requests)
    assert cli.main(["run", "--run", str(run)]) == 0
    assert len(longer.requests) == asked
    assert cli.main(["run", "--run", str(run), "--set", 'rank.judges=["rubric", "smollm2"]']) == 2
    assert "made with other settings (rank.judges" in capsys.readouterr().err.replace("\n", " ")
