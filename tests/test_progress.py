"""Progress of long work; a test's output is no terminal, so it gets plain lines unless it makes one."""

import io
import re
from collections.abc import Iterator

import pytest
from rich.console import Console

from starling import progress
from starling.curves import Curves


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_a_plain_line_says_what_is_done_how_fast_and_what_is_left(capsys) -> None:
    with progress._lines("fit", 12_000, "tokens", seconds_between=0.0) as show:
        show(1500, "")
        show(1500, "nll 0.512")
        show(6000, "nll 0.512")
    found = lines(capsys)
    assert len(found) == 3
    assert re.fullmatch(r"fit: 1,500/12,000 tokens, [\d,]+/s, \d+ s left", found[0])
    assert re.fullmatch(r"fit: 1,500/12,000 tokens, [\d,]+/s, \d+ s left  nll 0\.512", found[1])
    assert re.fullmatch(r"fit: 6,000/12,000 tokens, [\d,]+/s, \d+ s left  nll 0\.512", found[2])


def test_a_bound_that_is_passed_leaves_no_time(capsys) -> None:
    with progress._lines("tune", 10, "tokens", seconds_between=0.0) as show:
        show(15, "")
    assert re.fullmatch(r"tune: 15/10 tokens, [\d,]+/s, 0 s left", lines(capsys)[0])


def test_nothing_done_is_no_division_by_zero(capsys) -> None:
    with progress._lines("tune", 10, "tokens", seconds_between=0.0) as show:
        show(0, "")
    assert lines(capsys) == ["tune: 0/10 tokens, 0/s, 0 s left"]


def test_lines_come_now_and_then_only(capsys) -> None:
    with progress.track("fit", 10, "tokens") as advance:
        for _ in range(10):
            advance(1)
    assert lines(capsys) == []


def test_brackets_in_a_note_are_no_markup(capsys) -> None:
    with progress._lines("rank", 2, "prompts", seconds_between=0.0) as show:
        show(1, "[B, A]")
    assert lines(capsys)[0].endswith("[B, A]")


def test_an_error_passes_through(capsys) -> None:
    with pytest.raises(KeyError), progress.track("fit", 10, "tokens"):
        raise KeyError


def test_calls_that_an_earlier_attempt_left_in_flight_are_told(capsys) -> None:
    progress.note_interrupted(0)
    progress.note_interrupted(3)
    assert lines(capsys) == ["3 calls were in flight when an earlier attempt died; each may be asked once more"]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.BytesIO]:
    """What a terminal of 60 columns is sent."""
    sent = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    monkeypatch.setattr(progress, "console", Console(file=sent, force_terminal=True, width=60, soft_wrap=True))
    yield sent.buffer
    sent.detach()


def test_on_a_terminal_the_curves_stand_below_the_bar_as_wide_as_it(terminal: io.BytesIO) -> None:
    curves = Curves("fit")
    with progress.track("fit", 10, "tokens", curves) as advance:
        for step in range(1, 57):
            curves.show({"fit/nll": 2.0 - step / 56})
        advance(5, note="nll 1.000")
    last = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", terminal.getvalue().decode()).replace("\r", "").rstrip("\n").split("\n")
    assert last[-1] == " " * 10 + "████▇▇▇▆▆▆▆▅▅▅▄▄▄▃▃▃▃▂▂▂▁▁▁▁" + " nll 1.00, from 1.98"
    assert "fit" in last[-2] and "━" in last[-2]


def test_a_remark_stays_until_the_next_one_and_counts_add_up(terminal: io.BytesIO) -> None:
    progress.console.width = 100
    with progress.track("fit", 9, "tokens") as advance:
        advance(2, note="nll 0.9")
        advance(3)
    last = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", terminal.getvalue().decode()).rstrip("\n").split("\n")[-1]
    assert "5/9" in last and last.rstrip().endswith("nll 0.9")


def test_a_line_too_long_for_the_terminal_is_cut_not_broken(terminal: io.BytesIO) -> None:
    curves = Curves("tune")
    curves.show({"tune/completions/mean_length": 123456.0})
    text = next(iter(progress._Rows(curves).__rich__().renderables))
    assert len(text.plain) == 59


def test_a_stage_without_curves_has_a_bar_alone(terminal: io.BytesIO) -> None:
    assert progress._Rows(None).__rich__().renderables == []
    assert progress._Rows(Curves("rank")).__rich__().renderables == []
