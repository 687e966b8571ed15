"""The page that compares runs."""

import json
from pathlib import Path
from typing import Any

import pytest
import runs
from page_reader import Page, typed_numbers, wrong_numbers

from starling import cli, comparison, comparison_page, data_files
from starling.errors import UsageError
from starling.store import Run


def make(folder: Path) -> list[Run]:
    """Two runs whose answers differ, and one that is not evaluated; one's name is hostile."""
    made = [runs.make(folder / "one"), runs.make(folder / "t<b>wo"), runs.make(folder / "early", ("prompts",))]
    path = made[1].root / "evaluate" / "cases.jsonl"
    rows = data_files.read_rows(path)
    rows[0]["verdict"], rows[0]["tuned"]["score"] = 0.0, 0.25
    rows[1]["base"]["answer"] = "quite another base"
    data_files.write_jsonl(path, [*rows, rows[2] | {"draw": 1}, runs.case(0) | {"prompt_id": "more"}])
    return made


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comparison")
    path = folder / "out" / "runs.html"
    comparison_page.write(path, comparison.compare(make(folder)))
    return path


@pytest.fixture(scope="module")
def page(path: Path) -> Page:
    return Page(path.read_text())


@pytest.fixture(scope="module")
def numbers(path: Path) -> dict[str, Any]:
    return json.loads(path.with_suffix(".json").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_every_number_of_the_page_is_the_one_in_the_json(page: Page, numbers: dict[str, Any]) -> None:
    assert len(page.numbers) > 150
    assert wrong_numbers(page, numbers) == []


def test_no_number_is_typed_past_the_json(path: Path) -> None:
    """Outside marked numbers, texts of models and plots, the body holds no result."""
    found = typed_numbers(path.read_text()) - {"95", "50", "0"}
    assert found <= {"12", "0", "1", "2"}, found  # a check's own parameter; the ids of prompts


def test_the_page_is_well_formed_and_can_be_used_without_a_mouse(page: Page) -> None:
    assert page.unbalanced == [] and page.open == []
    assert len(page.ids()) == len(set(page.ids()))
    assert {str(a["href"])[1:] for tag, a in page.elements if tag == "a"} <= set(page.ids())
    assert ("html", {"lang": "en"}) in page.elements
    plots = [a for tag, a in page.elements if tag == "svg"]
    assert len(plots) == 1 and plots[0]["role"] == "img"
    assert "All test prompts: one 57.3 % (52.1 to 62.4), n = 100; t<b>wo 57.3 %" in str(plots[0]["aria-label"])
    sections = [a["id"] for tag, a in page.elements if tag == "section"]
    assert sections == ["result", "settings", "plots", "pairs", "table", "tuning", "cost", "browser"]


def test_what_models_and_folders_are_called_stays_text(page: Page, path: Path) -> None:
    assert path.read_text().count("<script") == 1
    assert [tag for tag, _ in page.elements if tag in ("img", "bold", "b", "iframe", "object")] == []
    assert [name for _, attributes in page.elements for name in attributes if name.startswith("on")] == []
    assert "t<b>wo" in page.text and "{{ 7 * 7 }}" in page.text
    policy = next(str(a["content"]) for tag, a in page.elements if tag == "meta" and a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")


def test_a_base_answer_that_runs_share_stands_once(page: Page) -> None:
    assert page.text.count(f"{runs.HOSTILE} base 0") == 1
    assert "quite another base" in page.text and f"{runs.HOSTILE} base 1" in page.text
    assert page.text.count(f"{runs.HOSTILE} tuned 0") == 2
    sides = [a["class"] for _, a in page.elements if str(a.get("class", "")).startswith("side ")]
    assert sides == [*["side base", "side tuned", "side tuned"], *["side base"] * 2, *["side tuned"] * 2,
                     "side base", "side tuned", "side tuned"]  # fmt: skip


def test_a_case_says_for_the_filters_how_each_run_went(page: Page) -> None:
    cases = [a for _, a in page.elements if a.get("class") == "case"]
    assert [(a["data-tags"], a["data-gain"]) for a in cases] == [
        ("apart better-0 worse-1", "0.375"), ("worse-0 worse-1", "0.0"), ("unread-0 unread-1", "0.0"),
    ]  # fmt: skip
    options = [a["value"] for tag, a in page.elements if tag == "option"]
    assert {"apart", "better-0", "worse-0", "better-1", "worse-1"} <= set(options)


def test_what_is_left_out_is_counted_and_listed(page: Page) -> None:
    assert "1 test prompts of t<b>wo that not all evaluated runs have" in page.text.replace("\u00a0", " ")
    assert "more" in page.text and "1 further answers are not." in page.text


def test_a_run_that_is_not_evaluated_is_told_and_the_rest_shown(page: Page) -> None:
    assert "Not measured: early." in page.text
    assert "the stage sample is not done" in page.text


def test_runs_of_which_none_is_evaluated_make_a_page(tmp_path: Path) -> None:
    made = [runs.make(tmp_path / name, ()) for name in "ab"]
    comparison_page.write(tmp_path / "c.html", comparison.compare(made))
    page = Page((tmp_path / "c.html").read_text())
    assert page.unbalanced == [] and "No run is evaluated yet." in page.text


def test_benchmarks_of_runs_stand_side_by_side(tmp_path: Path) -> None:
    one = runs.make(tmp_path / "one", benchmarks=runs.benchmarks())
    other = runs.make(tmp_path / "two", benchmarks=runs.benchmarks()[1:])
    comparison_page.write(tmp_path / "compare.html", comparison.compare([one, other]))
    text = (tmp_path / "compare.html").read_text()
    page, numbers = Page(text), json.loads((tmp_path / "compare.json").read_text())
    assert wrong_numbers(page, numbers) == [] and page.unbalanced == [] and page.open == []
    shown = {place: said for _, place, said in page.numbers if place.startswith("/benchmarks/")}
    assert shown["/benchmarks/0/figures/0"] == "-25.0 pt (-35.0 to -15.0)" and "/benchmarks/0/figures/1" not in shown
    assert shown["/benchmarks/1/figures/1"] == "25.0 % (15.0 to 35.0), n = 98"
    assert [a["id"] for tag, a in page.elements if tag == "section"][4:6] == ["table", "benchmarks"]


def test_dollars_stand_beside_the_time_of_the_stages_that_cost_some(tmp_path: Path) -> None:
    found = comparison.compare([runs.make(tmp_path / name) for name in "ab"])
    run = found.numbers["runs"][0]
    run |= {"asked": True, "usd": None}
    run["stages"][1] |= {"asked": True, "usd": 0.25}
    run["stages"][2] |= {"asked": True, "usd": None}
    comparison_page.write(tmp_path / "c.html", found)
    page = Page((tmp_path / "c.html").read_text())
    assert wrong_numbers(page, found.numbers) == []
    assert [(at, text) for kind, at, text in page.numbers if kind == "money"] == [
        ("/runs/0/stages/1/usd", "$0.2500"),
        ("/runs/0/stages/2/usd", "price unknown"),
        ("/runs/0/usd", "price unknown"),
    ]


def test_the_same_runs_give_the_same_page(path: Path) -> None:
    before = path.read_bytes()
    folder = path.parents[1]
    facts = comparison_page.write(path, comparison.compare([Run.read(folder / n) for n in ("one", "t<b>wo", "early")]))
    assert path.read_bytes() == before
    assert facts == {"path": str(path), "bytes": len(before), "numbers": str(path.with_suffix(".json"))}


@pytest.mark.parametrize("name", ["page.html", "page.json"])
def test_a_file_that_is_no_comparison_is_not_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"kind": "mine"}')
    with pytest.raises(UsageError, match=f"{name} is there and no comparison of runs; choose another --out FILE"):
        comparison_page.refuse_others(tmp_path / "page.html")


def test_a_comparison_may_be_written_anew(path: Path, tmp_path: Path) -> None:
    comparison_page.refuse_others(path)
    comparison_page.refuse_others(tmp_path / "new.html")
    with pytest.raises(UsageError, match=r"must end in \.html"):
        comparison_page.refuse_others(tmp_path / "new.json")


def test_the_command_compares_two_runs_and_touches_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    for name in "ab":
        runs.make(tmp_path / name)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert cli.main(["report", "a", "b"]) == 0
    shown = capsys.readouterr().out
    assert "Better than its base: a, b." in shown and "57.3 % (52.1 to 62.4)" in shown
    assert shown.rstrip().endswith("report: compare.html")
    after = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert after.keys() - before.keys() == {tmp_path / "compare.html", tmp_path / "compare.json"}
    assert all(after[file] == text for file, text in before.items())
    assert cli.main(["report", "a", "b", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["path"] == "compare.html" and [run["name"] for run in found["runs"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a", "./a"], "a and a are the same run"),
        (["a", "nowhere"], "there is no run in nowhere"),
        (["a", "--out", "x.html"], "--out is for two or more RUNs"),
        (["a", "b", "--out", "a/config.html"], None),
        (["a", "b", "--out", "a/manifest.html"], "manifest.json is there and no comparison"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str | None,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        runs.make(tmp_path / name, ("prompts",))
    assert cli.main(["report", *arguments]) == (2 if said else 0)
    if said:
        assert said in capsys.readouterr().err
