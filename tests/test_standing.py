"""How a run stands at a moment."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import runs

from starling.standing import clock, said, standing
from starling.store import Run
from starling.underway import Note

WHEN = r"\d\d:\d\d:\d\d"


@pytest.fixture
def fitting(tmp_path: Path) -> Iterator[Run]:
    """A run in which a process is at work on `fit`, two steps in."""
    with runs.fitting(tmp_path / "run") as run:
        yield run


def note_of(run: Run, **changes: Any) -> None:
    note = Note(
        stage="fit", what="fit", done=1200, total=4800, unit="tokens", remark="", rate=10.0, at=run.saved_at + 5
    )
    run.progress_path.write_text(json.dumps(asdict(note) | changes))


def told(run: Run, now: float) -> str:
    return said(run, standing(run, now), now)


def test_a_stage_says_how_far_it_is_and_how_long_to_go(fitting: Run) -> None:
    note_of(fitting, remark="nll 1.250")
    # 3600 tokens at 10 a second are 360 s; last heard of 3 s before
    assert told(fitting, fitting.saved_at + 8) == (
        "fit: 1,200 of 4,800 tokens (25.0 %), 10/s, about 6 min 0 s left, nll 1.250. Last heard of 3.0 s ago."
    )


def test_a_stage_that_has_just_begun_says_so(fitting: Run) -> None:
    note_of(fitting, rate=None)
    assert told(fitting, fitting.saved_at + 6) == (
        "fit: 1,200 of 4,800 tokens (25.0 %), just begun. Last heard of 1.0 s ago."
    )


def test_a_bound_that_is_passed_leaves_no_time(fitting: Run) -> None:
    note_of(fitting, done=5000)
    assert "(100 %), 10/s, about 0.0 s left" in told(fitting, fitting.saved_at + 6)


def test_a_note_of_another_stage_or_attempt_is_not_taken_for_this_one(fitting: Run) -> None:
    note_of(fitting, stage="rank")
    assert re.fullmatch(rf"fit: under way since {WHEN}\.", told(fitting, time.time()))
    note_of(fitting, at=fitting.saved_at - 1)
    assert re.fullmatch(rf"fit: under way since {WHEN}\.", told(fitting, time.time()))
    fitting.progress_path.unlink()
    assert re.fullmatch(rf"fit: under way since {WHEN}\.", told(fitting, time.time()))


def test_between_stages_and_after_the_last_it_says_so(tmp_path: Path) -> None:
    assert told(runs.make(tmp_path / "some", runs.BEFORE_FIT), 0.0) == "No stage is under way; the next is fit."
    done = runs.make(tmp_path / "all")
    done.started("report")
    done.finished("report", {})
    assert told(done, 0.0) == "All stages are done; nothing more will change."


def test_the_time_of_a_stage_passes_while_a_process_is_at_work_and_stands_when_it_is_gone(tmp_path: Path) -> None:
    with runs.fitting(tmp_path / "run") as run:
        run.manifest["stages"]["fit"]["seconds"] = 60.0  # of an attempt before
        note_of(run)  # 5 s after the stage was begun
        found = standing(run, run.saved_at + 20)
        assert found is not None and found.state == "under way"
        assert found.seconds == pytest.approx(80.0)
    found = standing(run, run.saved_at + 3600)
    assert found is not None and found.state == "stopped"
    assert found.seconds == pytest.approx(65.0)
    assert found.heard_of == pytest.approx(run.saved_at + 5)


def test_an_interrupted_stage_has_noted_its_time_itself(tmp_path: Path) -> None:
    with runs.fitting(tmp_path / "run") as run:
        run.spent("fit", 12.0)
        note_of(run, at=run.saved_at - 1)
    found = standing(run, run.saved_at + 3600)
    assert found is not None and (found.state, found.seconds, found.heard_of) == ("stopped", 12.0, run.saved_at)
    assert re.fullmatch(
        rf"fit: 1,200 of 4,800 tokens \(25\.0 %\); stopped, last heard of at {WHEN}\. "
        rf"`starling run --run \S+` goes on from there\.",
        told(run, run.saved_at),
    )


def test_a_process_that_is_killed_is_seen_to_be_gone(tmp_path: Path) -> None:
    root = runs.make(tmp_path / "run", runs.BEFORE_FIT).root
    lines = [
        "import pathlib, sys, time",
        "from starling import at_work, store",
        "root = pathlib.Path(sys.argv[1])",
        "with at_work.alone(root):",
        "    store.Run.read(root).started('fit')",
        "    print('at work', flush=True)",
        "    time.sleep(600)",
    ]
    command = [sys.executable, "-c", "\n".join(lines), str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "at work\n"
        run = Run.read(root)
        slow = told(run, time.time() + 3600)
        process.kill()
    assert re.fullmatch(rf"fit: under way since (\S+ )?{WHEN}\.", slow)
    assert re.fullmatch(
        rf"fit: stopped, last heard of at {WHEN}\. `starling run --run \S+` goes on from there\.",
        told(run, run.saved_at),
    )


def test_the_clock_names_the_day_where_it_is_another() -> None:
    noon = time.mktime((2026, 5, 4, 12, 0, 0, 0, 0, -1))
    assert clock(noon, noon + 60) == "12:00:00"
    assert clock(noon, noon + 86_400) == "2026-05-04 12:00:00"
