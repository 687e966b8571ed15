"""A process at work in a run's folder."""

import fcntl
import json
import os
import threading
from pathlib import Path

import pytest

from starling import at_work, config
from starling.errors import StarlingError, UsageError
from starling.store import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.open(tmp_path / "run", config.load(config.find_recipe("smollm2"), []))


def noted(run: Run, stage: str) -> dict:
    """What the manifest says of a stage."""
    return json.loads((run.root / "manifest.json").read_text())["stages"][stage]


def test_peak_memory_is_what_the_process_has_held(run: Run) -> None:
    run.started("fit")
    with at_work.timed(run, "fit"):
        held = bytearray(64 * 2**20)
    assert len(held) / 2**20 < noted(run, "fit")["peak_memory_mib"] < 100_000


def test_time_is_counted_also_when_a_stage_fails(run: Run) -> None:
    run.started("fit")
    with pytest.raises(KeyError), at_work.timed(run, "fit"):
        raise KeyError
    assert "seconds" in noted(run, "fit")


def test_what_stopped_a_stage_is_told_even_if_its_time_cannot_be_written(run: Run) -> None:
    run.started("fit")
    (run.root / "manifest.json.partial").mkdir()  # nothing can be written under that name now
    with pytest.raises(StarlingError, match="the real reason"), at_work.timed(run, "fit"):
        raise StarlingError("the real reason")


def test_a_folder_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    with at_work.alone(tmp_path / "run"):
        with pytest.raises(UsageError, match="another starling is at work in"), at_work.alone(tmp_path / "run"):
            pass
        with at_work.alone(tmp_path / "another"):
            pass
    with at_work.alone(tmp_path / "run"):
        pass


def test_whether_a_folder_is_held_can_be_seen_by_many_and_holds_nobody_up(tmp_path: Path) -> None:
    root = tmp_path / "run"
    with at_work.alone(root):
        assert at_work.is_held(root) and at_work.is_held(root)
    assert at_work.is_held(root) is False
    looking = os.open(root, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)  # as `is_held` does, for longer
    assert at_work.is_held(root) is False
    threading.Timer(0.1, os.close, [looking]).start()
    with at_work.alone(root):
        assert at_work.is_held(root)
