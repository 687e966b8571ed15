"""The report: one page, its numbers beside it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import runs
from page_reader import Page, typed_numbers, wrong_numbers

from starling.at_work import alone
from starling.stages import report
from starling.store import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = runs.make(tmp_path_factory.mktemp("report") / "run")
    report.run(run)
    return run


@pytest.fixture(scope="module")
def page(run: Run) -> Page:
    return Page(run.report_path.read_text())


@pytest.fixture(scope="module")
def numbers(run: Run) -> dict[str, Any]:
    return json.loads(run.report_path.with_suffix(".json").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_every_number_of_the_page_is_the_one_in_the_json(page: Page, numbers: dict[str, Any]) -> None:
    assert len(page.numbers) > 150
    assert wrong_numbers(page, numbers) == []


def test_the_headline_is_the_evaluations_win_rate_with_interval_n_and_judge(page: Page, run: Run) -> None:
    rate = next(score for score in run.facts("evaluate")["scores"] if score["name"] == "win_rate")
    assert rate["value"] == 0.573
    first = next(text for kind, place, text in page.numbers if place == "/headline/0")
    assert first == (
        "It got better: the tuned model wins against the base model in 57.3 % (52.1 to 62.4), n = 100. "
        "Judge: rubric, a program, not an LLM."
    )


def test_the_table_shows_base_tuned_and_both_intervals(page: Page) -> None:
    shown = {place: text for _, place, text in page.numbers}
    assert shown["/result/table/0/base"] == "0.562 (0.512 to 0.612), n = 100"
    assert shown["/result/table/0/tuned"] == "0.731 (0.681 to 0.781), n = 100"
    assert "no cases" in shown.values()


def test_no_number_is_typed_past_the_json(run: Run) -> None:
    """Outside marked numbers, texts of models, settings and plots, the body holds no result."""
    known = {"95", "50", "0"}  # the level of the intervals, the line of no difference, the side of a change
    found = typed_numbers(run.report_path.read_text(), "pre") - known
    assert found <= {"12", "1", "2"}, found  # a check's own parameter; the positions of answers


def test_what_models_wrote_stays_text(page: Page, run: Run) -> None:
    raw = run.report_path.read_text()
    scripts = [attributes for tag, attributes in page.elements if tag == "script"]
    assert scripts == [{}]
    assert raw.count("<script") == 1
    assert "&lt;script&gt;alert(" in raw
    assert [tag for tag, _ in page.elements if tag in ("img", "bold", "red", "b", "iframe", "object")] == []
    assert "{{ 7 * 7 }}" in page.text
    assert [name for _, attributes in page.elements for name in attributes if name.startswith("on")] == []


def test_rankings_that_were_not_learnt_from_stand_with_their_reason(page: Page) -> None:
    assert next(text for _, place, text in page.numbers if place == "/fit/unusable/0/count") == "9"
    assert "all answers are tied" in page.text


def test_answers_are_whole_and_side_by_side(page: Page) -> None:
    for number in range(3):
        assert f"{runs.HOSTILE} base {number}" in page.text
        assert f"{runs.HOSTILE} tuned {number}" in page.text


def test_nothing_is_loaded_from_a_network(page: Page) -> None:
    links = [
        str(value)
        for _, attributes in page.elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset")
    ]
    assert links and all(link.startswith("#") for link in links)
    policy = next(str(a["content"]) for tag, a in page.elements if tag == "meta" and a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")


def test_the_style_and_script_load_nothing(run: Run) -> None:
    pages = Path(report.__file__).parent.parent / "pages"
    for path in pages.iterdir():
        if path.name == "card.md.jinja":  # Markdown, not a page: its links are followed by nobody but a reader
            continue
        if path.name == "live.js":  # only what is served has it, and asks its own server: tests/test_live.py
            continue
        text = path.read_text()
        assert not re.search(r"url\(|@import|https?:|//[a-z]+\.[a-z]|fetch\(|XMLHttpRequest|import\(", text), path.name


def test_the_page_is_well_formed_and_can_be_used_without_a_mouse(page: Page) -> None:
    assert page.unbalanced == [] and page.open == []
    assert len(page.ids()) == len(set(page.ids()))
    targets = {str(a["href"])[1:] for tag, a in page.elements if tag == "a"}
    assert targets <= set(page.ids())
    assert ("html", {"lang": "en"}) in page.elements
    plots = [a for tag, a in page.elements if tag == "svg" and a.get("class") == "plot"]
    assert len(plots) == 13
    assert all(a["role"] == "img" and a["aria-label"] for a in plots)


def test_the_sections_stand_in_the_order_of_the_questions(page: Page) -> None:
    sections = [a["id"] for tag, a in page.elements if tag == "section"]
    assert sections == ["result", "table", "road", "plots", "judge", "browser", "made"]


def test_benchmarks_stand_on_the_page_as_they_do_in_the_json_losses_too(tmp_path: Path) -> None:
    run = runs.make(tmp_path / "run", benchmarks=runs.benchmarks())
    report.run(run)
    text = run.report_path.read_text()
    page, numbers = Page(text), json.loads(run.report_path.with_suffix(".json").read_text())
    assert numbers["result"]["benchmarks"] == list(runs.benchmarks())
    assert wrong_numbers(page, numbers) == [] and page.unbalanced == [] and page.open == []
    shown = {place: said for _, place, said in page.numbers if place.startswith("/result/benchmarks/")}
    assert shown["/result/benchmarks/0/rows/0/base"] == "50.0 % (40.0 to 60.0), n = 98"
    assert shown["/result/benchmarks/0/rows/0/change"] == "-25.0 pt (-35.0 to -15.0)"
    assert shown["/result/benchmarks/0/contamination/questions_held"] == "3"
    assert shown["/result/benchmarks/1/rows/0/tuned"] == "25.0 % (15.0 to 35.0), n = 98"
    assert shown["/result/benchmarks/2/rows/0/length_only"] == "50.0 % (40.0 to 60.0), n = 98"
    assert "Benchmark figures that are clearly worse: ifeval (prompts, strict)." in page.text
    sections = [a["id"] for tag, a in page.elements if tag == "section"]
    assert sections[:4] == ["result", "table", "benchmarks", "road"]
    assert typed_numbers(text, "pre") - {"95", "50", "0"} <= {"12", "1", "2"}
    assert [tag for tag, _ in page.elements if tag in ("img", "bold", "red", "b")] == []


def test_a_case_says_how_it_went_for_the_filters(page: Page) -> None:
    cases = [a for _, a in page.elements if a.get("class") == "case"]
    assert [(a["data-tags"], a["data-kind"]) for a in cases] == [
        ("better held-out-worse", "writing"), ("worse held-out-worse", "writing"), ("unread held-out-worse", "writing"),
    ]  # fmt: skip


def test_the_same_run_gives_the_same_page(run: Run) -> None:
    before = run.report_path.read_bytes()
    facts = report.run(run)
    assert run.report_path.read_bytes() == before
    assert facts == {"path": "report.html", "bytes": len(before), "numbers": "report.json"}


@pytest.mark.parametrize("done", range(len(runs.ALL)), ids=lambda done: "nothing" if not done else runs.ALL[done - 1])
def test_a_run_that_is_under_way_says_what_is_missing(
    tmp_path: Path, done: int, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs.make(tmp_path / "run", runs.ALL[:done])
    run.started(runs.ALL[done])
    with alone(run.root):
        report.run(run)
    page = Page(run.report_path.read_text())
    assert f"the stage {runs.ALL[done]} is not done" in page.text
    assert "under way" in page.text
    assert page.unbalanced == [] and page.open == []
    assert capsys.readouterr().out == ""


def test_texts_with_little_in_common_are_not_marked_at_all() -> None:
    case = runs.case(0)
    case["base"]["answer"], case["tuned"]["answer"] = "a b c d e f g", "t u v w x y z"
    shown = report._shown(case)
    assert not shown["alike"]
    assert shown["pieces"] == {"base": [("a b c d e f g", False)], "tuned": [("t u v w x y z", False)]}
