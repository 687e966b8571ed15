"""Files, folders and `datasets` sets, row by row."""

import csv
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_road import write_lines

from starling import own_files, sources, tables
from starling.config import Source
from starling.errors import DataError
from starling.forms import Found
from starling.sources import Removal

ROWS = [{"prompt": f"what is number {number}?"} for number in range(3)]
ASKED = [row["prompt"] for row in ROWS]


def found(path: Path | str, **more) -> list[Found | Removal]:
    return list(sources.found(sources.resolved(Source(path=str(path), **more))))


def asked(path: Path | str, **more) -> list[str]:
    return [one.prompt.messages[-1]["content"] for one in found(path, **more) if isinstance(one, Found)]


def write(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".csv":
        path.write_text("\n".join(["prompt", *(row["prompt"] for row in rows)]) + "\n")
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    else:
        write_lines(path, rows)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet", "a.csv", "a.json"])
def test_every_kind_of_file_gives_the_same_prompts(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, ROWS)
    assert asked(path) == ASKED
    assert [one.prompt.id for one in found(path, name="mine")] == ["mine-1", "mine-2", "mine-3"]
    assert asked(path, rows=2) == ASKED[:2]


def test_the_builtin_set_is_as_it_was() -> None:
    assert [one.prompt for one in found("builtin")] == tables.builtin_prompts()
    assert {one.prompt.source for one in found("builtin", name="ours")} == {"ours"}


def test_a_folder_of_shards_is_one_source(tmp_path: Path) -> None:
    write(tmp_path / "b.jsonl", ROWS[2:])
    write(tmp_path / "a.parquet", ROWS[:2])
    (tmp_path / "notes.txt").write_text("no shard")
    assert asked(tmp_path) == ASKED


def test_a_folder_that_only_datasets_can_lay_together_is_loaded_by_it(tmp_path: Path) -> None:
    write(tmp_path / "set" / "data" / "train-00000-of-00001.jsonl", ROWS)
    write(tmp_path / "set" / "data" / "test-00000-of-00001.jsonl", ROWS[:1])
    assert asked(tmp_path / "set") == ASKED
    assert asked(tmp_path / "set", part="test") == ASKED[:1]
    assert asked(tmp_path / "set", rows=2) == ASKED[:2]
    with pytest.raises(DataError, match=r"cannot load .*set as a data set .*dev.*check the name, `subset`, `part`"):
        asked(tmp_path / "set", part="dev")


def test_the_name_of_a_set_that_cannot_be_reached_is_one_line() -> None:
    with pytest.raises(DataError, match=r"^cannot load nobody/nothing as a data set") as caught:
        found("nobody/nothing")
    assert "\n" not in str(caught.value)


def test_cells_of_a_csv_file_may_hold_lists_and_empty_cells_are_missing(tmp_path: Path) -> None:
    messages = json.dumps([{"role": "user", "content": 'say "hi",\nthen stop'}]).replace('"', '""')
    (tmp_path / "a.csv").write_text(f'messages,reference,good_natured\n"{messages}",,False\n')
    (one,) = found(tmp_path / "a.csv")
    assert one.prompt.messages[0]["content"] == 'say "hi",\nthen stop'
    assert (one.prompt.reference, one.prompt.good_natured) == ("", False)


SAID = [{"role": "user", "content": "hi?"}, {"role": "assistant", "content": "Yes."}]
RANKINGS = {
    "answers with ranks": {"prompt": "hi?", "answers": [{"answer": "a", "rank": 2}, {"answer": "b", "rank": 1}]},
    "ranks beside": {"prompt": "hi?", "answers": ["a", "b", "c"], "ranks": [2, None, 1], "agreement": 0.8,
                     "self_agreement": -0.5, "orders": [[0, 2, 1]]},
    "texts": {"prompt": "hi?", "chosen": '[{"a": 1}]', "rejected": "[{"},
    "messages": {"prompt": SAID[:1], "chosen": SAID[1:], "rejected": [{**SAID[1], "content": "No."}]},
    "whole conversations": {"chosen": SAID, "rejected": [SAID[0], {**SAID[1], "content": "No."}]},
}  # fmt: skip


@pytest.mark.parametrize("row", RANKINGS.values(), ids=RANKINGS.keys())
def test_a_ranking_in_a_csv_file_is_the_one_that_json_lines_hold(tmp_path: Path, row: dict) -> None:
    with (tmp_path / "a.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, row)
        table.writeheader()
        table.writerow({key: value if isinstance(value, str) else json.dumps(value) for key, value in row.items()})
    (read,) = sources.rows(Source(path=str(tmp_path / "a.csv")))
    assert read == row
    assert tables.ranking_from_row(read, "here") == tables.ranking_from_row(row, "here")


def test_messages_in_a_csv_file_as_python_prints_them_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f'chosen,rejected\n"{SAID}",no\n')
    with pytest.raises(DataError, match=r"a\.csv:2: `chosen` holds messages as Python prints them, not as JSON"):
        found(tmp_path / "a.csv")


def test_whether_an_answer_in_a_csv_file_is_finished_is_a_truth_value(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "prompt,answer,finished\nhi?,yes,False\nhi?,yes,TRUE\nhi?,yes,\nhi?,yes,0\nhi?,yes,2\n"
    )
    *read, number = sources.rows(Source(path=str(tmp_path / "a.csv")))
    assert [own_files.question(row, "here").finished for row in read] == [[False], [True], [True], [False]]
    with pytest.raises(DataError, match=r"^here: `finished` is 2, neither true nor false"):
        own_files.question(number, "here")
    with pytest.raises(DataError, match=r"^here: answer 0: `finished` is 'no', neither true nor false"):
        tables.ranking_from_row({"prompt": "hi?", "answers": [{"answer": "a", "rank": 1, "finished": "no"}]}, "here")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"prompt": "fine"}\n{"prompt": \n', r"a\.jsonl:2: not JSON"),
        ("a.jsonl", b"", "has no rows"),
        ("a.csv", b"prompt\nhi,there\n", r"a\.csv:2: a row has more cells than the heading"),
        ("a.csv", b'prompt\n"never closed\n', r"a\.csv:\d: cannot be read as CSV"),
        ("a.csv", b"messages\noops\n", r"a\.csv:2: `messages` holds 'oops', where JSON is expected"),
        ("a.csv", b"prompt\ncaf\xe9\n", r"cannot be read as CSV in UTF-8"),
        ("a.parquet", b"no", "not a Parquet file"),
        ("a.json", b"{half", "cannot load .* as a data set"),
        ("a.jsonl", b'{"inputs": "hi"}\n', r"a\.jsonl:1: a prompt needs a column .*; found: inputs"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_one_clear_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        found(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["gone.jsonl", "gone.csv", "gone.parquet", "gone.json"])
def test_a_missing_file_is_not_sought_on_the_network(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="no such file"):
        found(tmp_path / name)


def test_a_row_of_a_published_set_that_is_wrong_is_counted_and_the_next_is_read(tmp_path: Path) -> None:
    turn = {"from": "human", "value": "what is rain?"}
    rows = [{"conversations": [turn]}, {"conversations": [turn | {"from": "tool"}]}, {"other": 1}]
    path = write(tmp_path / "share.jsonl", [*rows, {"conversations": [turn]}])
    one, two, three, four = found(path)
    assert isinstance(one, Found) and isinstance(four, Found)
    assert (two.prompt_id, two.reason, three.reason) == ("share-2", "unknown_role", "bad_row")
    assert "share.jsonl:3" in three.detail and "found: other" in three.detail


def test_a_source_is_read_no_further_than_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "fine"}\n' * 5 + "not JSON\n")
    assert len(found(path, rows=5)) == 5


def test_a_stages_table_is_its_parquet_and_a_mistyped_path_is_told(tmp_path: Path, monkeypatch) -> None:
    stage = tmp_path / "run" / "sample"
    stage.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([{"answer": "kept"}]), stage / "0.parquet")
    (stage / "left_out.jsonl").write_text('{"answer": "left out"}\n')
    assert [row for _where, row in sources.table_rows(str(stage))] == [{"answer": "kept"}]
    monkeypatch.chdir(tmp_path)
    for typo in ("rnu", "run/smaple"):
        with pytest.raises(DataError, match=f"^{typo}: there is no such file"):
            list(sources.table_rows(typo))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '\n\n{"prompt": "a?"}\n\n{"prompt": "b?"}\n'),
        ("a.csv", 'prompt,note\n"two\nlines?",x\nb?,y\n'),
    ],
    ids=["jsonl", "csv"],
)
def test_rows_are_placed_by_the_line_that_an_editor_shows(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    assert [where for where, _ in sources.located_rows(str(path))] == [f"{path}:3", f"{path}:{4 + (name == 'a.jsonl')}"]
    assert found(path, name="mine")[0].prompt.id == "mine-1"  # an id counts rows


def test_a_json_file_without_a_row_and_a_models_folder_are_one_clear_line(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "empty.json").write_text("")
    with pytest.raises(DataError, match=r"empty\.json: there is no row in it"):
        asked(tmp_path / "empty.json")
    with pytest.raises(DataError, match="a model's folder"):
        asked(tiny_model)


def test_an_empty_answer_in_a_csv_file_is_an_answer(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,answer\na?,yes\nb?,\n")
    rows = [row for _, row in sources.located_rows(str(tmp_path / "a.csv"))]
    assert rows == [{"prompt": "a?", "answer": "yes"}, {"prompt": "b?", "answer": ""}]
