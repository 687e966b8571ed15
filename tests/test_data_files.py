"""Rows of Parquet and JSON lines, in and out."""

import gzip
import json
from pathlib import Path

import pytest

from starling import data_files, tables
from starling.errors import DataError, StarlingError


def write(path: Path, *rows: object) -> Path:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        with gzip.open(path, "wt") as file:
            file.write(lines)
    else:
        path.write_text(lines)
    return path


def test_a_written_file_leaves_no_partial_one(tmp_path: Path) -> None:
    data_files.write_parquet(tmp_path / "a.parquet", [], tables.CANDIDATES)
    data_files.write_jsonl(tmp_path / "a.jsonl", [{"a": 1}])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "a.parquet"]


def test_a_place_that_cannot_be_written_is_a_plain_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for write_table in (
        lambda path: data_files.write_parquet(path, [], tables.CANDIDATES),
        lambda path: data_files.write_jsonl(path, []),
    ):
        with pytest.raises(StarlingError, match=r"writing .* failed"):
            write_table(tmp_path / "file" / "table")


def test_a_disk_that_is_full_when_the_file_is_closed_is_a_plain_error_and_keeps_the_old_file(tmp_path: Path) -> None:
    data_files.write_jsonl(tmp_path / "rows.jsonl", [{"old": 1}])
    (tmp_path / "rows.jsonl.partial").symlink_to("/dev/full")
    with pytest.raises(StarlingError, match=r"writing .*rows\.jsonl failed"):
        data_files.write_jsonl(tmp_path / "rows.jsonl", [{"new": 1}])
    assert data_files.read_rows(tmp_path / "rows.jsonl") == [{"old": 1}]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_json_lines_are_read_with_or_without_compression(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, {"a": 1}, {"a": "naïve 雨"})
    assert data_files.read_rows(path) == [{"a": 1}, {"a": "naïve 雨"}]


def test_written_json_lines_come_back(tmp_path: Path) -> None:
    rows = [{"text": "naïve 雨\nline"}, {"n": 1.5, "none": None}]
    data_files.write_jsonl(tmp_path / "rows.jsonl", rows)
    assert data_files.read_rows(tmp_path / "rows.jsonl") == rows
    assert "雨" in (tmp_path / "rows.jsonl").read_text()


def test_a_folder_is_read_shard_by_shard_in_name_order(tmp_path: Path) -> None:
    for name, draw in (("b", 2), ("a", 1), ("c", 3)):
        row = {"prompt_id": name, "draw": draw}
        data_files.write_parquet(tmp_path / f"{name}.parquet", [row], tables.CANDIDATES)
    (tmp_path / "notes.txt").write_text("not a shard")
    assert [row["draw"] for row in data_files.read_rows(tmp_path)] == [1, 2, 3]


def test_blank_lines_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n\n  \n{"a": 2}')
    assert [row["a"] for row in data_files.read_rows(tmp_path / "rows.jsonl")] == [1, 2]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", '{"a": 1}\n{"a": \n', r"rows\.jsonl:2: not JSON"),
        ("rows.jsonl", "[1, 2]\n", r"rows\.jsonl:1: a line must be a JSON object"),
        ("rows.parquet", "not parquet at all", r"rows\.parquet: not a Parquet file"),
    ],
    ids=["broken line", "no object", "no parquet"],
)
def test_a_broken_file_is_named_with_the_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        data_files.read_rows(tmp_path / name)


def test_a_missing_file_and_an_empty_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        data_files.read_rows(tmp_path / "nowhere.jsonl")
    with pytest.raises(DataError, match="holds no Parquet files"):
        data_files.read_rows(tmp_path)


def test_a_damaged_line_is_named_by_its_number(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_bytes(b'{"prompt": "fine"}\n{"prompt": "caf\xe9"}\n')
    with pytest.raises(DataError, match=r"mine\.jsonl:2: not JSON in UTF-8"):
        data_files.read_rows(tmp_path / "mine.jsonl")


def test_a_compressed_file_that_was_cut_is_named_at_the_line(tmp_path: Path) -> None:
    whole = write(tmp_path / "mine.jsonl.gz", *({"prompt": f"what is {number}?"} for number in range(50)))
    whole.write_bytes(whole.read_bytes()[:-12])
    with pytest.raises(DataError, match=r"mine\.jsonl\.gz:\d+: cannot be read"):
        data_files.read_rows(whole)


def test_a_byte_order_mark_and_windows_line_ends_are_read_over(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n{"a": 2}\r\n')
    assert data_files.read_rows(tmp_path / "x.jsonl") == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("line", "message"),
    [('"' + "[" * 100_000, "not JSON"), ("[" * 100_000, "too deep"), ('{"a": "\\ud800"}', "surrogates not allowed")],
    ids=["text", "deep", "half a character"],
)
def test_a_line_that_no_later_step_could_use_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "x.jsonl").write_text("{}\n" + line + "\n")
    with pytest.raises(DataError, match=rf"x\.jsonl:2: .*{message}"):
        data_files.read_rows(tmp_path / "x.jsonl")


def test_a_whole_character_beyond_the_first_plane_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"a": "\\ud83d\\ude00"}\n')
    assert data_files.read_rows(tmp_path / "x.jsonl") == [{"a": "\U0001f600"}]


def test_rows_of_many_batches_come_one_after_the_other(tmp_path: Path) -> None:
    rows = [dict.fromkeys(tables.CANDIDATES.names) | {"draw": number} for number in range(3000)]
    data_files.write_parquet(tmp_path / "0.parquet", rows[:2500], tables.CANDIDATES)
    data_files.write_parquet(tmp_path / "1.parquet", rows[2500:], tables.CANDIDATES)
    stream = data_files.stream_rows(tmp_path)
    assert next(stream) == rows[0]
    assert [row["draw"] for row in stream] == list(range(1, 3000))


@pytest.mark.parametrize("name", ["mine.csv", "mine.TSV", "mine.xlsx"])
def test_a_table_in_another_form_is_named_as_such(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("prompt,chosen,rejected\na,b,c\n")
    with pytest.raises(DataError, match=rf"{name}: a table of \w+ is not read here; write it as Parquet or JSON lines"):
        data_files.read_rows(tmp_path / name)


def test_a_list_over_several_lines_is_told_what_it_must_become(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('[\n{"a": 1},\n{"a": 2}\n]\n')
    with pytest.raises(DataError, match=r"x\.json:1: not JSON .*must become one object a line"):
        data_files.read_rows(tmp_path / "x.json")
