"""A process at work in a folder: alone there, seen to be there, its time, its memory."""

import fcntl
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from starling.errors import StarlingError, UsageError, explained
from starling.store import Run, refuse_file

_TRIES, _SECONDS_BETWEEN = 10, 0.05  # at a folder that somebody may only be looking at


@contextmanager
def timed(run: Run, stage: str) -> Iterator[None]:
    """Count the wall time of a stage and the process's memory by its end, also when it is interrupted."""
    begun = time.monotonic()
    try:
        yield
    except BaseException:
        with suppress(StarlingError):  # what stopped the stage is the news, not that its time is lost too
            run.spent(stage, time.monotonic() - begun, peak_memory_mib())
        raise
    run.spent(stage, time.monotonic() - begun, peak_memory_mib())


def peak_memory_mib() -> int:
    """The most resident memory that this process has held so far."""
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // 2**20


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Hold a folder against every other process that asks for it; however a process ends, its hold ends with it."""
    refuse_file(root)
    with explained(f"making {root}"):
        root.mkdir(parents=True, exist_ok=True)
        handle = os.open(root, os.O_RDONLY)
    try:
        if not _taken(handle):
            raise UsageError(f"run: another starling is at work in {root}; wait for it or choose another folder")
        yield
    finally:
        os.close(handle)


def is_held(root: Path) -> bool | None:
    """Whether a process is `alone` in the folder at this moment; None where the file system has no locks."""
    handle = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(handle)
    return False


def _taken(handle: int) -> bool:
    """Whether the lock is ours now; where the file system has none nobody can be told apart, and it is."""
    for attempt in range(_TRIES):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # for an instant also where `is_held` looks
            time.sleep(_SECONDS_BETWEEN * (attempt < _TRIES - 1))
        except OSError:
            return True
        else:
            return True
    return False
