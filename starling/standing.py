"""How a run stands at a moment: which stage is under way or was stopped, how far, for how long."""

import time
from dataclasses import dataclass

from starling import figures, underway
from starling.at_work import is_held
from starling.store import ROAD, Run
from starling.underway import Note


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A stage that was begun and is not done.

    `seconds` is the time that all its attempts have taken, up to now, or up to when the last one was `heard_of`
    (seconds since 1970) where no process is at work in the run any more.
    """

    stage: str
    is_at_work: bool
    seconds: float
    heard_of: float
    note: Note | None

    @property
    def state(self) -> str:
        """The state in a word or two."""
        return "under way" if self.is_at_work else "stopped"


def standing(run: Run, now: float) -> Standing | None:
    """The stage that is under way or was stopped in the middle; None before, between and after stages.

    A killed process says nothing, but its hold on the folder is gone. Where the file system has no locks, a stage
    counts as under way until it notes that it was interrupted.
    """
    entries = run.manifest["stages"]
    stage = next((name for name in ROAD if entries.get(name, {}).get("state") == "running"), None)
    if stage is None:
        return None
    saved_at, note, held = run.saved_at, underway.read(run.progress_path), is_held(run.root)
    note = note if note and note.stage == stage else None
    is_at_work = held if held is not None else note is None or note.at >= saved_at
    if is_at_work and note and note.at < saved_at:  # of an attempt before this one
        note = None
    heard_of = max(saved_at, note.at if note else saved_at)
    took = max((now if is_at_work else heard_of) - saved_at, 0.0)
    return Standing(
        stage=stage, is_at_work=is_at_work, seconds=entries[stage]["seconds"] + took, heard_of=heard_of, note=note
    )


def said(run: Run, found: Standing | None, now: float) -> str:
    """What the run is at: which stage, how far, how long to go, when it was last heard of, and what goes on."""
    missing = next((stage for stage in ROAD if not run.is_done(stage)), None)
    if missing is None:
        return "All stages are done; nothing more will change."
    if found is None:
        return f"No stage is under way; the next is {missing}."
    note = found.note
    far = _far(note) if note else f"{found.stage}:"
    remark = f", {note.remark}" if note and note.remark else ""
    if not found.is_at_work:
        heard = f"stopped, last heard of at {clock(found.heard_of, now)}"
        return f"{far}{remark}{';' if note else ''} {heard}. `starling run --run {run.root}` goes on from there."
    if note is None:
        return f"{far} under way since {clock(found.heard_of, now)}."
    age = figures.duration(max(now - note.at, 0.0))
    return f"{far}, {figures.pace(note.done, note.total, note.rate)}{remark}. Last heard of {age} ago."


def clock(at: float, now: float) -> str:
    """The time of day, and the day where it is another."""
    then, today = time.localtime(at), time.localtime(now)
    return time.strftime("%H:%M:%S" if then[:3] == today[:3] else "%Y-%m-%d %H:%M:%S", then)


def _far(note: Note) -> str:
    share = f" ({figures.share(min(note.done / note.total, 1.0))})" if note.total else ""
    return f"{note.what}: {figures.number(note.done)} of {figures.number(note.total)} {note.unit}{share}"
