"""Reading any table, a stage or a run."""

from pathlib import Path

import pytest
import runs
from small_road import write_lines

from starling import data_files, export, show, show_row
from starling.at_work import alone
from starling.errors import DataError
from starling.layouts import EXPORTS
from starling.store import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return runs.make(tmp_path_factory.mktemp("show") / "run")


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("COLUMNS", "220")

    def call(source: Path, count: int = 3, row: str = "") -> str:
        show.show(source, count, row)
        return capsys.readouterr().out

    return call


def test_a_run_shows_states_times_and_facts(run: Run, shown) -> None:
    text = shown(run.root)
    assert "It got better" in text
    for stage in runs.ALL:
        assert stage in text
    assert "1 min" in text and "rankings learnt 120" in text and "rubric, a program, not an LLM" in text


def test_a_run_under_way_is_shown(tmp_path: Path, shown) -> None:
    run = runs.make(tmp_path / "run", ("prompts",))
    run.started("sample")
    with alone(run.root):
        assert "under way" in shown(run.root)
    assert "stopped" in shown(run.root)


def test_a_table_shows_so_many_rows(run: Run, shown) -> None:
    text = shown(run.folder("prompts"), 2)
    assert "train-0" in text and "train-1" in text and "train-2" not in text
    assert "2 of 9 rows" in text


def test_what_models_wrote_is_not_read_as_markup(run: Run, shown) -> None:
    for text in (shown(run.folder("sample"), 9), shown(run.folder("rank")), shown(run.folder("evaluate"))):
        assert "[bold]not bold[/bold]" in text
        assert '<script>alert("answer")</script>' in text


def test_rankings_are_shown_by_rank(run: Run, shown) -> None:
    text = shown(run.folder("rank"))
    assert text.index(runs.HOSTILE_NAME) < text.index("hot")
    assert "weakened" in text and "cut" in text


def test_jsonl_of_ones_own_is_read(tmp_path: Path, shown) -> None:
    data_files.write_jsonl(tmp_path / "own.jsonl", [{"prompt": "[red]hi", "score": 0.123456789, "nothing": None}])
    text = shown(tmp_path / "own.jsonl")
    assert "[red]hi" in text and "0.123457" in text and "nothing" not in text


def test_a_stage_without_tables_shows_its_facts(run: Run, shown) -> None:
    text = shown(run.folder("fit"))
    assert "calibration_error" in text and "0.123" in text
    assert show.shown(run.folder("fit"), 3, "") == run.facts("fit")


def test_one_prompt_shows_its_road_in_order(run: Run, shown) -> None:
    text = shown(run.root, row="train-0")
    places = [text.index(word) for word in ("prompts: train-0", "rank: by rubric", runs.HOSTILE_NAME)]
    assert places == sorted(places)


def test_an_answered_prompt_that_was_not_ranked_shows_its_answers(run: Run, shown) -> None:
    assert "sample: not ranked" in shown(run.root, row="train-1")


def test_a_prompt_that_was_never_answered_says_so(run: Run, shown) -> None:
    assert "this train prompt was not ranked" in shown(run.root, row="train-2")


def test_a_test_prompt_shows_both_answers_and_the_verdict(run: Run, shown) -> None:
    text = shown(run.root, row="test-0")
    assert "evaluate: tuned is better" in text
    assert "base 0" in text and "tuned 0" in text and "0.625" in text


def test_a_test_prompt_before_evaluation_says_when(tmp_path: Path, shown) -> None:
    run = runs.make(tmp_path / "run", ("prompts",))
    assert "answered when evaluate runs" in shown(run.root, row="test-0")


def test_one_row_of_a_table_is_found_by_its_prompt(run: Run, shown) -> None:
    text = shown(run.folder("evaluate"), row="test-1")
    assert "─ test-1 ─" in text and "─ test-0 ─" not in text


@pytest.mark.parametrize("where", ["run", "table"])
def test_an_unknown_prompt_is_named(run: Run, shown, where: str) -> None:
    with pytest.raises(DataError, match="'nobody'"):
        shown(run.root if where == "run" else run.folder("prompts"), row="nobody")


def test_a_table_without_ids_shows_the_row_of_a_number(tmp_path: Path, shown) -> None:
    data_files.write_jsonl(tmp_path / "x.jsonl", [{"prompt": "one"}, {"prompt": "two"}])
    text = shown(tmp_path / "x.jsonl", row="2")
    assert "two" in text and "one" not in text and "1 of 2 rows" in text
    with pytest.raises(DataError, match="'3'; the first is without an id: give its number, 1"):
        shown(tmp_path / "x.jsonl", row="3")


@pytest.mark.parametrize("form", EXPORTS)
def test_every_export_is_read_back(run: Run, tmp_path: Path, shown, form: str) -> None:
    facts = export.export(run.root, form, tmp_path / "out")
    count = facts["rows"]["train"]
    for source in (tmp_path / "out", tmp_path / "out" / facts["files"]["train"]):
        text = shown(source, 9)
        assert "[bold]not bold[/bold]" in text and f"{count} of {count} rows" in text
    if form != "nectar":  # its columns have no place for an id
        assert "[bold]not bold[/bold]" in shown(tmp_path / "out", row="train-0")


def test_ranks_have_colours_from_green_to_red() -> None:
    # five steps over ranks 1 to 7: (rank - 1) / 6 * 4 rounds to 0, 1, 1, 2, 3, 3, 4
    names = [show_row.colour(rank, 7) for rank in range(1, 8)]
    assert (names[0], names[3], names[6]) == ("bright_green", "yellow", "red")
    assert [names.index(name) for name in names] == [0, 1, 1, 3, 4, 4, 6]
    assert show_row.colour(1, 1) == "bright_green"


def test_an_answer_without_a_place_has_a_dash_and_the_last_colour(tmp_path: Path, shown) -> None:
    assert (show_row.colour(None, 3), show_row.colour(0, 3)) == ("red", "red")
    answers = [{"answer": f"text {at}", "model": "m", "rank": rank} for at, rank in enumerate((1, None, None, 2))]
    path = write_lines(tmp_path / "x.jsonl", [{"prompt": "why?", "prompt_id": "p", "answers": answers}])
    for row in ("", "p"):  # the table as it is, and the row's lineage
        lines = [line.replace("│", " ").split() for line in shown(path, row=row).splitlines() if "text " in line]
        ranks = [next(word for word in line if word in "-12" and word != "answers") for line in lines]
        assert ranks == ["1", "-", "-", "2"], row


def test_a_missing_file_is_named(tmp_path: Path, shown) -> None:
    with pytest.raises(DataError, match="no such file"):
        shown(tmp_path / "missing.parquet")


def test_a_rank_of_many_digits_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.jsonl").write_text('{"answers": [{"answer": "x", "rank": 1%s}]}\n' % ("0" * 400))
    show.show(tmp_path / "x.jsonl", 3, "")
    assert "1 of 1 rows" in capsys.readouterr().out
