"""Step metrics: one JSON object a line."""

import json
import math
from pathlib import Path

import pytest
import torch

from starling import metrics
from starling.errors import DataError, StarlingError
from starling.metrics import Recorder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def steps(path: Path, stage: str) -> list[int]:
    return [line["step"] for line in metrics.read(path) if line["stage"] == stage]


def test_a_line_has_stage_step_and_full_names(path: Path) -> None:
    Recorder(path, "tune").log(3, {"objective/kl": 0.5, "reward": torch.tensor(2.0)})
    assert json.loads(path.read_text()) == {"stage": "tune", "step": 3, "tune/objective/kl": 0.5, "tune/reward": 2.0}
    assert path.read_text().endswith("\n")


def test_lines_are_appended_in_order(path: Path) -> None:
    for step in (1, 2, 3):
        Recorder(path, "fit").log(step, {"nll": step / 2})
    assert [line["fit/nll"] for line in metrics.read(path)] == [0.5, 1.0, 1.5]


def test_values_keep_six_digits(path: Path) -> None:
    Recorder(path, "fit").log(1, {"small": 1.23456789e-7, "large": -123456789.0, "third": 1 / 3})
    assert metrics.read(path)[0] | {} == {
        "stage": "fit", "step": 1, "fit/small": 1.23457e-7, "fit/large": -123457000.0, "fit/third": 0.333333,
    }  # fmt: skip


def test_values_that_are_no_numbers_survive(path: Path) -> None:
    Recorder(path, "fit").log(1, {"nan": math.nan, "inf": math.inf})
    (line,) = metrics.read(path)
    assert math.isnan(line["fit/nan"])
    assert line["fit/inf"] == math.inf


def test_rewind_drops_the_steps_past_the_checkpoint_of_this_stage_only(path: Path) -> None:
    for stage in ("fit", "tune"):
        for step in range(1, 6):
            Recorder(path, stage).log(step, {"x": step})
    Recorder(path, "tune").rewind(3)
    assert steps(path, "fit") == [1, 2, 3, 4, 5]
    assert steps(path, "tune") == [1, 2, 3]
    assert [p.name for p in path.parent.iterdir()] == ["metrics.jsonl"]


def test_a_resumed_stage_leaves_the_same_bytes_as_one_in_a_piece(tmp_path: Path) -> None:
    whole, resumed = Recorder(tmp_path / "whole", "fit"), Recorder(tmp_path / "resumed", "fit")
    for step in range(1, 7):
        whole.log(step, {"nll": 1 / step})
    for step in range(1, 5):
        resumed.log(step, {"nll": 1 / step})
    resumed.rewind(2)
    for step in range(3, 7):
        resumed.log(step, {"nll": 1 / step})
    assert whole.path.read_bytes() == resumed.path.read_bytes()


def test_rewind_drops_a_line_that_was_cut(path: Path) -> None:
    recorder = Recorder(path, "fit")
    recorder.log(1, {"nll": 1.0})
    with path.open("a") as file:
        file.write('{"stage": "fit", "st')
    recorder.rewind(5)
    recorder.log(2, {"nll": 0.5})
    assert steps(path, "fit") == [1, 2]


def test_a_diary_cut_anywhere_goes_on_as_one_in_a_piece(tmp_path: Path) -> None:
    diary = tmp_path / "samples.md"
    recorder = Recorder(tmp_path / "metrics.jsonl", "tune", diary=diary)
    recorder.write(1, "wet")
    kept = diary.read_bytes()
    recorder.write(12, "\u4f60\u597d\n")
    whole = diary.read_bytes()
    for end in range(len(kept), len(whole) + 1):
        diary.write_bytes(whole[:end])
        recorder.rewind(1)
        assert diary.read_bytes() == kept
        recorder.write(12, "\u4f60\u597d\n")
        assert diary.read_bytes() == whole


def test_rewind_to_nothing_and_without_a_file(path: Path) -> None:
    recorder = Recorder(path, "fit")
    recorder.rewind(0)
    assert not path.exists()
    recorder.log(1, {"nll": 1.0})
    recorder.rewind(0)
    assert path.read_text() == ""


def test_reading_passes_over_a_last_line_that_was_cut(path: Path) -> None:
    Recorder(path, "fit").log(1, {"nll": 1.0})
    with path.open("a") as file:
        file.write('{"stage": "fit", "st')
    assert steps(path, "fit") == [1]


def test_reading_a_file_that_is_not_there_gives_nothing(path: Path) -> None:
    assert metrics.read(path) == []


@pytest.mark.parametrize(
    "line", [b"\xff\xfe", b"[1]", b"{}", b'{"stage": "fit", "st'], ids=["binary", "list", "empty", "cut"]
)
def test_a_damaged_line_before_others_is_named(path: Path, line: bytes) -> None:
    path.write_bytes(line + b"\n")
    Recorder(path, "fit").log(1, {"nll": 1.0})
    with pytest.raises(DataError, match=r":1: not a line of metrics; restore it, or delete the file"):
        metrics.read(path)


def test_a_step_that_cannot_be_written_is_one_plain_line(path: Path) -> None:
    path.mkdir()
    with pytest.raises(StarlingError, match=f"writing {path} failed: Is a directory"):
        Recorder(path, "fit").log(1, {"nll": 1.0})
