"""Progress of long work: a live bar with rate and time left on a terminal, a plain line now and then elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

console = Console(highlight=False, soft_wrap=True)
error_console = Console(stderr=True, highlight=False, soft_wrap=True)
_SECONDS_BETWEEN_LINES = 10.0

Advance = Callable[..., None]


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} {task.fields['unit']}/s" if task.speed else "", style="cyan")


@contextmanager
def track(stage: str, total: int, unit: str) -> Iterator[Advance]:
    """Yield `advance(count, note="")`; `total` is in `unit`s, and may be a bound that is not reached."""
    with (_bar if console.is_terminal else _lines)(stage, total, unit) as advance:
        yield advance


@contextmanager
def _bar(stage: str, total: int, unit: str) -> Iterator[Advance]:
    columns = (
        TextColumn("[bold]{task.description:>9}"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", style="dim"),
    )
    with Progress(*columns, console=console, speed_estimate_period=60) as progress:
        task = progress.add_task(stage, total=total, unit=unit, note="")

        def advance(count: int, note: str | None = None) -> None:
            progress.update(task, advance=count)
            if note is not None:
                progress.update(task, note=note)

        yield advance


@contextmanager
def _lines(stage: str, total: int, unit: str, seconds_between: float = _SECONDS_BETWEEN_LINES) -> Iterator[Advance]:
    begun = last = time.monotonic()
    done = 0
    remark = ""

    def advance(count: int, note: str | None = None) -> None:
        nonlocal done, last, remark
        done += count
        remark = remark if note is None else note
        now = time.monotonic()
        if now - last < seconds_between:
            return
        last = now
        rate = done / (now - begun)
        left = max(total - done, 0) / rate if rate else 0
        tail = f"  {remark}" if remark else ""
        console.print(f"{stage}: {done:,}/{total:,} {unit}, {rate:,.0f}/s, {left:.0f} s left{tail}")

    yield advance


def note_interrupted(calls: int) -> None:
    """Tell how many calls an earlier process left in flight: they may be asked, and paid for, a second time."""
    if calls:
        console.print(f"{calls} calls were in flight when an earlier attempt died; each may be asked once more")
