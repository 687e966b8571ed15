"""Progress of long work: a bar with rate, time left and curves on a terminal, a plain line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from starling import underway
from starling.curves import Curves

console = Console(highlight=False, soft_wrap=True)
error_console = Console(stderr=True, highlight=False, soft_wrap=True)
_SECONDS_BETWEEN_LINES = 10.0
_NAME, _BAR = 9, 28  # columns of the bar's name and of the bar, below which the curves stand

Advance = Callable[..., None]
Show = Callable[[int, str], None]  # all that is done, and the last remark


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} {task.fields['unit']}/s" if task.speed else "", style="cyan")


class _Rows:
    """The curves below a bar, as they stand whenever the terminal is drawn anew."""

    def __init__(self, curves: Curves | None) -> None:
        self._curves = curves

    def __rich__(self) -> Group:
        drawable = self._curves is not None and console.encoding.startswith("utf")
        rows = self._curves.rows(_BAR) if self._curves and drawable else []
        texts = (Text.assemble(" " * (_NAME + 1), (f"{line:<{_BAR}}", "cyan"), f" {said}") for line, said in rows)
        return Group(*(_fitting(text) for text in texts))


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


@contextmanager
def track(stage: str, total: int, unit: str, curves: Curves | None = None) -> Iterator[Advance]:
    """Yield `advance(count, note="")`; `total` is in `unit`s, and may be a bound that is not reached.

    On a terminal the `curves` stand below the bar.
    """
    done, remark = 0, ""
    with _bar(stage, total, unit, curves) if console.is_terminal else _lines(stage, total, unit) as show:

        def advance(count: int, note: str | None = None) -> None:
            nonlocal done, remark
            done += count
            remark = remark if note is None else note
            show(done, remark)
            for keeper in _keepers:
                keeper.note(stage, done, total, unit, remark)

        yield advance


@contextmanager
def _bar(stage: str, total: int, unit: str, curves: Curves | None) -> Iterator[Show]:
    columns = (
        TextColumn(f"[bold]{{task.description:>{_NAME}}}"),
        BarColumn(bar_width=_BAR),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", style="dim"),
    )
    progress = Progress(*columns, console=console, speed_estimate_period=60)
    task = progress.add_task(stage, total=total, unit=unit, note="")

    def show(done: int, remark: str) -> None:
        progress.update(task, completed=done, note=remark)

    with Live(Group(progress, _Rows(curves)), console=console, refresh_per_second=10):
        yield show


@contextmanager
def _lines(stage: str, total: int, unit: str, seconds_between: float = _SECONDS_BETWEEN_LINES) -> Iterator[Show]:
    begun = last = time.monotonic()

    def show(done: int, remark: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < seconds_between:
            return
        last = now
        rate = done / (now - begun)
        left = max(total - done, 0) / rate if rate else 0
        tail = f"  {remark}" if remark else ""
        console.print(f"{stage}: {done:,}/{total:,} {unit}, {rate:,.0f}/s, {left:.0f} s left{tail}")

    yield show


def note_interrupted(calls: int) -> None:
    """Tell how many calls an earlier process left in flight: they may be asked, and paid for, a second time."""
    if calls:
        console.print(f"{calls} calls were in flight when an earlier attempt died; each may be asked once more")
