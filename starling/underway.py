"""How far a running stage is: `progress.json`, kept by its bar for those who look at the run from outside."""

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

SECONDS_BETWEEN = 2.0  # notes are for people, who read no faster


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What a bar had done `at` a time (seconds since 1970); `rate` is in units a second, None before it is known."""

    stage: str
    what: str
    done: int
    total: int
    unit: str
    remark: str
    rate: float | None
    at: float


class Keeper:
    """Writes a stage's notes, each in the place of the one before it, and none sooner than `seconds_between` later.

    A note that cannot be written is let go: the stage's own files say soon enough that a disk is full.
    """

    def __init__(self, path: Path, stage: str, seconds_between: float = SECONDS_BETWEEN) -> None:
        self._path = path
        self._stage = stage
        self._seconds_between = seconds_between
        self._next = 0.0
        self._what = ""
        self._lock = threading.Lock()  # rollouts that are sampled ahead advance the bar from a thread of their own

    def note(self, what: str, done: int, total: int, unit: str, remark: str, rate: float | None = None) -> None:
        """Note how far `what` is, and how fast it goes."""
        now = time.monotonic()
        with self._lock:
            if what == self._what and now < self._next:
                return
            self._what, self._next = what, now + self._seconds_between
            self._write(
                Note(
                    stage=self._stage, what=what, done=done, total=total, unit=unit, remark=remark, rate=rate,
                    at=time.time(),
                )
            )  # fmt: skip

    def _write(self, note: Note) -> None:
        partial = self._path.with_name(self._path.name + ".partial")
        with suppress(OSError):
            partial.write_text(json.dumps(asdict(note)) + "\n")
            os.replace(partial, self._path)


@contextmanager
def kept(path: Path, stage: str) -> Iterator[Keeper]:
    """Keep notes there while a stage is at work; they stay where it is interrupted, and go where it is done."""
    with suppress(OSError):
        path.unlink(missing_ok=True)
    yield Keeper(path, stage)
    with suppress(OSError):
        path.unlink(missing_ok=True)


def read(path: Path) -> Note | None:
    """The last note, None where there is none that can be read."""
    try:
        return Note(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None
