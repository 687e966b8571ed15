"""Exports: loaded by `datasets` row for row, whole or not there, everything counted."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import runs
from exported import NECTAR, exported, loaded, write_table
from small_road import content

from starling import cli, data_files, export, layouts, tables
from starling.errors import DataError, UsageError
from starling.layouts import EXPORTS


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(tmp_path)


@pytest.mark.parametrize(
    ("form", "rows", "left_out"),
    [
        ("nectar", 2, {}),
        ("trl", 3, {"pairs that are tied": 1}),
        ("unpaired", 5, {}),  # 1, 2, 2: the tied ones share 2.5, below the middle 2
        ("ultrafeedback", 2, {}),
        ("nemo-rl", 3, {"pairs that are tied": 1}),
        ("verl", 2, {}),
        ("llamafactory", 3, {"pairs that are tied": 1}),
    ],
)
def test_each_form_is_loaded_by_datasets_row_for_row(
    table: Path, form: str, rows: int, left_out: Mapping[str, int]
) -> None:
    facts = exported(table, form)
    assert (facts["rankings"], facts["rows"], facts["left_out"]) == (2, {"train": rows}, left_out)
    found = loaded(table)
    assert {split: data.num_rows for split, data in found.items()} == {"train": rows}
    written = data_files.read_rows(table.parent / "out" / facts["files"]["train"])
    assert list(found["train"]) == written
    schema = EXPORTS[form].schema
    assert schema is None or set(found["train"].features) == set(schema.names)


def test_the_forms_that_were_tested_are_all() -> None:
    assert list(EXPORTS) == ["nectar", "trl", "unpaired", "ultrafeedback", "nemo-rl", "verl", "llamafactory"]


def test_plain_nectar_comes_back_as_it_was(table: Path) -> None:
    exported(table, "nectar")
    assert loaded(table)["train"][0] == NECTAR


def test_what_was_exported_as_nectar_is_exported_again_without_change(table: Path) -> None:
    exported(table, "nectar")
    again = table.parent / "again"
    export.export(table.parent / "out" / "train.parquet", "nectar", again)
    assert data_files.read_rows(again / "train.parquet") == data_files.read_rows(table.parent / "out" / "train.parquet")


# runs


def test_a_run_is_exported_by_split_with_the_systems_of_its_generators(tmp_path: Path) -> None:
    run = runs.make(tmp_path / "run", ("prompts", "sample", "rank"))
    facts = export.export(run.root, "ultrafeedback", tmp_path / "out")
    assert (facts["rows"], facts["files"]) == ({"train": 1}, {"train": "train.jsonl"})
    assert facts["strategy"] == "a program"


def test_a_table_that_stands_in_its_run_keeps_its_splits(tmp_path: Path) -> None:
    run = runs.make(tmp_path / "run", ("prompts", "sample", "rank"))
    rows = data_files.read_rows(run.root / "prompts")
    moved = [row | ({"split": "validation"} if row["id"] == "train-0" else {}) for row in rows]
    data_files.write_parquet(run.root / "prompts" / "00000.parquet", moved, tables.PROMPTS)
    run.finished("prompts", run.facts("prompts"))
    for number, source in enumerate((run.root, run.root / "rank", run.root / "rank" / "00000.parquet")):
        facts = export.export(source, "trl", tmp_path / f"out-{number}")
        assert facts["rows"] == {"validation": 1}


def test_a_run_without_rank_says_how_to_make_it(tmp_path: Path) -> None:
    run = runs.make(tmp_path / "run", ("prompts", "sample"))
    with pytest.raises(UsageError, match=r"rank: not done yet in .*--until rank"):
        export.export(run.root, "trl", tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


def test_a_run_whose_rankings_were_changed_is_refused(tmp_path: Path) -> None:
    run = runs.make(tmp_path / "run", ("prompts", "sample", "rank"))
    (run.root / "rank" / "00000.parquet").write_bytes(b"other")
    with pytest.raises(DataError, match=r"missing or changed, first rank/00000\.parquet"):
        export.export(run.root, "trl", tmp_path / "out")


# bad input


@pytest.mark.parametrize(
    ("form", "pairs", "message"),
    [
        ("tlr", "", "no format 'tlr'; did you mean 'trl'.*nectar, trl, unpaired"),
        ("NEMO-RL", "", "did you mean 'nemo-rl'"),
        ("zzz", "", r"no format 'zzz' \(formats: nectar"),
        ("nectar", "all", "nectar has none"),
        ("trl", "some", "'some' is none of all, adjacent, best_worst"),
    ],
)
def test_an_unknown_form_or_choice_names_what_there_is(table: Path, form: str, pairs: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        exported(table, form, pairs=pairs)
    assert [path.name for path in table.parent.iterdir()] == ["rankings.jsonl"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "hi"}', r"rankings.jsonl:1: a ranking needs `prompt` and `answers`.*found: prompt"),
        ("", "holds no rankings"),
        ('{"prompt": "hi", "answers": [{"answer": "x", "rank": 1}]}', "left out: 1 rankings of fewer than two answers"),
        ('{"prompt": "hi", "answers": [{"answer": "x", "rank": 0}]}', "a `rank` of 1 or more"),
    ],
)
def test_a_file_that_holds_no_rankings_says_so_and_leaves_nothing(table: Path, line: str, message: str) -> None:
    table.write_text(line + "\n")
    with pytest.raises(DataError, match=message):
        exported(table, "trl")
    assert [path.name for path in table.parent.iterdir()] == ["rankings.jsonl"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing\.jsonl: there is no such file"):
        export.export(tmp_path / "missing.jsonl", "trl", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# places


def test_an_earlier_export_of_the_same_form_is_replaced_whole(table: Path) -> None:
    exported(table, "trl")
    (table.parent / "out" / "validation.parquet").write_text("of an earlier export")
    exported(table, "trl", pairs="best_worst")
    assert sorted(content(table.parent / "out")) == ["README.md", "export.json", "train.parquet"]
    assert loaded(table)["train"].num_rows == 2
    assert sorted(path.name for path in table.parent.iterdir()) == ["cache", "out", "rankings.jsonl"]


def test_the_same_export_twice_is_the_same_byte_for_byte(table: Path) -> None:
    exported(table, "llamafactory")
    before = content(table.parent / "out")
    exported(table, "llamafactory")
    assert content(table.parent / "out") == before


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("out/thesis.txt", "years of work", "holds other files; choose another folder"),
        ("out/export.json", '{"format": "verl"}', "holds an export to verl; choose another folder for trl"),
        ("out", "a file", "is a file, not a folder"),
        ("out.partial/thesis.txt", "years of work", "out.partial is in the way"),
    ],
)
def test_what_stands_there_is_left_alone(table: Path, name: str, text: str, message: str) -> None:
    path = table.parent / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        exported(table, "trl")
    assert path.read_text() == text


def test_an_export_that_was_killed_is_begun_anew(table: Path) -> None:
    work = table.parent / "out.partial"
    work.mkdir()
    (work / "export.json").write_text('{"format": "trl"}')
    (work / "train.parquet").write_bytes(b"PAR1 half")
    assert exported(table, "trl")["rows"] == {"train": 3}
    assert not work.exists()


# the command


def test_the_command_prints_what_went_in_what_came_out_and_what_was_left(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["export", str(table), "--to", "trl", "--out", str(table.parent / "out")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"export: 2 rankings read, 3 pairs written (3 in train) -> {table.parent / 'out'}",
        "export: left out 1 pairs that are tied",
    ]


def test_the_help_names_every_form(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", "--help"]) == 0
    printed = capsys.readouterr().out
    assert [name for name in (*EXPORTS, *layouts.PAIRS) if name not in printed] == []


def test_a_table_of_any_kind_is_exported_as_fit_reads_it(tmp_path: Path) -> None:
    row = '"prompt","answers","ranks"\n"hi","[""a"", ""b""]","[2, 1]"\n'
    (tmp_path / "mine.csv").write_text(row)
    export.export(tmp_path / "mine.csv", "nectar", tmp_path / "out")
    (nectar,) = data_files.read_rows(tmp_path / "out")
    assert [answer["answer"] for answer in nectar["answers"]] == ["b", "a"]
    shards = tmp_path / "shards"
    shards.mkdir()
    (tmp_path / "mine.csv").rename(shards / "1.csv")
    assert export.export(shards, "trl", tmp_path / "pairs")["rows"] == {"train": 1}


def test_orders_that_make_no_sense_are_told_with_their_row(table: Path) -> None:
    answers = '[{"answer": "x", "rank": 1}, {"answer": "y", "rank": 2}]'
    table.write_text(f'{{"prompt": "hi", "answers": {answers}, "orders": [[1, 2]]}}\n')
    with pytest.raises(DataError, match="`orders` must hold indices from 0 to 1"):
        exported(table, "nectar")  # as of its data card, which tells what each place adds
