"""TensorBoard, trackio and wandb as mirrors of the metrics."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from starling import metrics, trackers
from starling.errors import UsageError
from starling.metrics import Recorder


def needs(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed: pip install '.[{name}]'")


class Listening:
    """Remembers what it was shown."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def begin(self, lines: Sequence[Any]) -> None:
        self.lines = [dict(line) for line in lines]

    def show(self, line: Any) -> None:
        self.lines.append(dict(line))


def cut_and_resumed(path: Path, *mirrors: Any) -> None:
    """Steps 0 to 3 of tune and one of fit, with a crash after step 2 of which a checkpoint knew step 1."""
    Recorder(path, "fit").log(1, {"nll": 1.0})
    first = Recorder(path, "tune", mirrors)
    first.rewind(-1)
    for step in range(3):
        first.log(step, {"reward": step / 2})
    again = Recorder(path, "tune", mirrors)
    again.rewind(1)
    for step in (2, 3):
        again.log(step, {"reward": step / 2})


def test_a_mirror_shows_what_the_file_says_of_its_stage_after_a_resume_too(tmp_path: Path) -> None:
    listening = Listening()
    cut_and_resumed(tmp_path / "metrics.jsonl", listening)
    written = [line for line in metrics.read(tmp_path / "metrics.jsonl") if line["stage"] == "tune"]
    assert listening.lines == written
    assert [line["step"] for line in written] == [0, 1, 2, 3]


def test_tensorboard_has_every_step_once_after_a_resume(tmp_path: Path) -> None:
    needs("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with trackers.opened(tmp_path / "run", ("tensorboard",), "tune") as mirrors:
        cut_and_resumed(tmp_path / "metrics.jsonl", *mirrors)
    found = EventAccumulator(str(tmp_path / "run/trackers/tensorboard/tune"))
    found.Reload()
    assert found.Tags()["scalars"] == ["tune/reward"]
    assert [(event.step, event.value) for event in found.Scalars("tune/reward")] == [
        (0, 0.0), (1, 0.5), (2, 1.0), (3, 1.5),
    ]  # fmt: skip


def test_a_missing_package_is_one_line_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"^run: run\.trackers names wandb, trackio, not .*\[wandb,trackio\]"):
        trackers.refuse_missing(("wandb", "trackio"))
    trackers.refuse_missing(())


def test_a_tracker_that_never_began_is_left_alone(tmp_path: Path) -> None:
    with trackers.opened(tmp_path, ("tensorboard", "wandb", "trackio"), "tune") as mirrors:
        assert len(mirrors) == 3
    assert not (tmp_path / "trackers").exists()


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_the_other_trackers_write_files_of_their_own_and_no_key(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needs(name)
    secret = "0123456789abcdef" * 3
    for variable in ("WANDB_API_KEY", "HF_TOKEN"):
        monkeypatch.setenv(variable, secret)
    monkeypatch.setenv("TRACKIO_SPACE_ID", "owner/space")  # nothing leaves all the same
    with trackers.opened(tmp_path / "run", (name,), "tune") as mirrors:
        cut_and_resumed(tmp_path / "metrics.jsonl", *mirrors)
    written = [path for path in (tmp_path / "run/trackers" / name).rglob("*") if path.is_file()]
    assert any(path.suffix in (".wandb", ".db") for path in written)
    assert not any(secret.encode() in path.read_bytes() for path in written)
    assert capsys.readouterr().out == ""
    if name == "trackio":
        from trackio.sqlite_storage import SQLiteStorage

        assert [entry["step"] for entry in SQLiteStorage.get_logs("tune", "run")] == [0, 1, 2, 3]
