"""Progress of long work: a bar with rate, time left and curves on a terminal, a plain line now and then elsewhere."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from starling import figures, texts, underway
from starling.curves import Curves

console = Console(highlight=False, soft_wrap=True)
error_console = Console(stderr=True, highlight=False, soft_wrap=True)
_SECONDS_BETWEEN_LINES = 10.0
_WINDOW_SECONDS = 120.0  # over which a rate is taken: what a ledger answers at the start is soon no part of it
_NAME, _BAR = 9, 28  # columns of the bar's name and of the bar, below which the curves stand

Advance = Callable[..., None]
Show = Callable[[int, str, str], None]  # all that is done, how fast it goes, and the last remark


class Rate:
    """How much was done a second, of late; None before anything was.

    Taken over the window, or where nothing was done for so long, since the last time that something was.
    """

    def __init__(self, begun: float) -> None:
        self._seen = deque([(begun, 0)])  # at a time, all that was done; those within a second are one

    def after(self, count: int, now: float) -> float | None:
        """The rate once so much more is done."""
        at, done = self._seen[-1]
        if len(self._seen) > 1 and now - at < 1:
            self._seen[-1] = at, done + count
        else:
            self._seen.append((now, done + count))
        done += count
        while self._seen[1][0] <= now - _WINDOW_SECONDS and self._seen[1][1] < done:
            self._seen.popleft()
        since, before = self._seen[0]
        return (done - before) / (now - since) if done > before and now > since else None


class _Rows:
    """The last remark and the curves below a bar, as they stand whenever the terminal is drawn anew."""

    def __init__(self, curves: Curves | None) -> None:
        self.remark = ""
        self._curves = curves

    def __rich__(self) -> Group:
        drawable = self._curves is not None and console.encoding.startswith("utf")
        rows = self._curves.rows(_BAR) if self._curves and drawable else []
        margin = " " * (_NAME + 1)
        below = [texts.terminal(margin + self.remark, "dim")] if self.remark else []
        below += [Text.assemble(margin, (f"{line:<{_BAR}}", "cyan"), f" {said}") for line, said in rows]
        return Group(*map(_fitting, below))


def _fitting(text: Text) -> Text:
    text.truncate(console.width - 1, overflow="ellipsis")  # a line that the terminal breaks is drawn over wrongly
    return text


_keepers: list[underway.Keeper] = []  # of the stage at work, if any


@contextmanager
def noted_in(path: Path, stage: str) -> Iterator[None]:
    """Keep in this file how far the bars of a stage are, see `underway`."""
    with underway.kept(path, stage) as keeper:
        _keepers.append(keeper)
        try:
            yield
        finally:
            _keepers.remove(keeper)


def say(text: str, style: str = "") -> None:
    """Print a plain line to the letter, whosever words are in it: none of them steers the terminal or is markup."""
    console.print(texts.terminal(text, style))


def show(content: RenderableType) -> None:
    """Print a table, or a line that breaks between words where the terminal ends."""
    console.print(content, soft_wrap=False)


@contextmanager
def track(stage: str, total: int, unit: str, curves: Curves | None = None) -> Iterator[Advance]:
    """Yield `advance(count, note="", found=False)`; `total` is in `unit`s, and may be a bound that is not reached.

    What is `found` done, by an earlier process, says nothing of the rate. On a terminal the `curves` stand below the
    bar.
    """
    done, remark, measured = 0, "", Rate(time.monotonic())
    with _bar(stage, total, unit, curves) if console.is_terminal else _lines(stage, total, unit) as show:

        def advance(count: int, note: str | None = None, *, found: bool = False) -> None:
            nonlocal done, remark
            done += count
            remark = remark if note is None else note
            rate = measured.after(0 if found else count, time.monotonic())
            show(done, figures.pace(done, total, rate), remark)
            for keeper in _keepers:
                keeper.note(stage, done, total, unit, remark, rate)

        yield advance


@contextmanager
def _bar(stage: str, total: int, unit: str, curves: Curves | None) -> Iterator[Show]:
    columns = (
        TextColumn(f"[bold]{{task.description:>{_NAME}}}"),
        BarColumn(bar_width=_BAR),
        TextColumn("{task.completed:,}/{task.total:,} {task.fields[unit]}"),
        TextColumn("{task.fields[pace]}", style="cyan"),
    )
    progress, rows = Progress(*columns, console=console), _Rows(curves)
    task = progress.add_task(stage, total=total, unit=unit, pace="")

    def show(done: int, pace: str, remark: str) -> None:
        rows.remark = remark
        progress.update(task, completed=done, pace=pace)

    with Live(Group(progress, rows), console=console, refresh_per_second=10):
        yield show


@contextmanager
def _lines(stage: str, total: int, unit: str, seconds_between: float = _SECONDS_BETWEEN_LINES) -> Iterator[Show]:
    last = time.monotonic()

    def show(done: int, pace: str, remark: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < seconds_between:
            return
        last = now
        tail = f"  {remark}" if remark else ""
        say(f"{stage}: {done:,}/{total:,} {unit}, {pace}{tail}")

    yield show


def note_interrupted(calls: int) -> None:
    """Tell how many calls an earlier process left in flight: they may be asked, and paid for, a second time."""
    if calls:
        say(f"{calls} calls were in flight when an earlier attempt died; each may be asked once more")
