"""Progress of long work; a test's output is no terminal, so it gets plain lines unless it makes one."""

import io
import re
import time
from collections.abc import Iterator

import pytest
from rich.console import Console

from starling import progress
from starling.curves import Curves
from starling.progress import Rate


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_a_plain_line_says_what_is_done_how_fast_and_what_is_left(capsys) -> None:
    with progress._lines("fit", 12_000, "tokens", seconds_between=0.0) as show:
        show(1500, "750/s, about 14 s left", "")
        show(6000, "750/s, about 8.0 s left", "nll 0.512")
    assert lines(capsys) == [
        "fit: 1,500/12,000 tokens, 750/s, about 14 s left",
        "fit: 6,000/12,000 tokens, 750/s, about 8.0 s left  nll 0.512",
    ]


def test_the_rate_is_that_of_the_last_two_minutes_and_of_slow_work_since_the_advance_before_them() -> None:
    rate = Rate(1000.0)
    assert rate.after(0, 1001.0) is None
    assert rate.after(100, 1001.5) == pytest.approx(100 / 1.5)  # as a ledger answers
    assert rate.after(1, 1041.5) == pytest.approx(101 / 41.5)
    assert rate.after(1, 1081.5) == pytest.approx(102 / 81.5)
    # the window begins with what was done by its start, at 1001: 3 in 120.5 s
    assert rate.after(1, 1121.5) == pytest.approx(3 / 120.5)
    assert rate.after(1, 1161.5) == pytest.approx(3 / 120)
    # nothing for ten minutes: 1 since 1161.5
    assert rate.after(1, 1761.5) == pytest.approx(1 / 600)


def test_a_note_after_a_long_time_does_not_make_work_begin_anew() -> None:
    rate = Rate(0.0)
    assert rate.after(100, 50.0) == pytest.approx(2)
    assert rate.after(0, 450.0) == pytest.approx(100 / 450)  # an update, in which nothing is counted
    assert rate.after(0, 900.0) == pytest.approx(100 / 900)
    assert rate.after(60, 960.0) == pytest.approx(60 / 510)  # since the last that was told before the window


def test_what_is_done_in_one_go_counts_from_when_it_was_begun() -> None:
    rate = Rate(0.0)
    for at in (100.0, 200.0, 300.0):
        for _ in range(32):  # answers that were written together in 100 s, told one by one
            last = rate.after(1, at)
        assert last == pytest.approx(0.32)


def test_lines_come_now_and_then_only(capsys) -> None:
    with progress.track("fit", 10, "tokens") as advance:
        for _ in range(10):
            advance(1)
    assert lines(capsys) == []


def test_brackets_in_a_note_are_no_markup(capsys) -> None:
    with progress._lines("rank", 2, "prompts", seconds_between=0.0) as show:
        show(1, "just begun", "[B, A]")
    assert lines(capsys)[0].endswith("[B, A]")


def test_foreign_words_are_said_to_the_letter_and_steer_no_terminal(terminal: io.BytesIO) -> None:
    progress.say("x\x1b]52;c;ZXZpbA==\x07 [red]b[/red] :smile: \u202e")
    progress.say("dim", "dim")
    with progress._lines("rank", 2, "prompts", seconds_between=0.0) as show:
        show(1, "just begun", "\x1b[2J")
    assert terminal.getvalue().decode().split("\n")[:3] == [
        r"x\x1b]52;c;ZXZpbA==\x07 [red]b[/red] :smile: \u202e",
        "\x1b[2mdim\x1b[0m",
        r"rank: 1/2 prompts, just begun  \x1b[2J",
    ]


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


def last_line(sent: io.BytesIO) -> str:
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", sent.getvalue().decode()).rstrip("\n").split("\n")[-1].rstrip()


def test_on_a_terminal_the_curves_stand_below_the_bar_as_wide_as_it(terminal: io.BytesIO) -> None:
    curves = Curves("fit")
    with progress.track("fit", 10, "tokens", curves) as advance:
        for step in range(1, 57):
            curves.show({"fit/nll": 2.0 - step / 56})
        advance(5, note="nll 1.000")
    last = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", terminal.getvalue().decode()).replace("\r", "").rstrip("\n").split("\n")
    assert last[-1] == " " * 10 + "████▇▇▇▆▆▆▆▅▅▅▄▄▄▃▃▃▃▂▂▂▁▁▁▁" + " nll 1.00, from 1.98"
    assert last[-2].rstrip() == " " * 10 + "nll 1.000"
    assert "fit" in last[-3] and "━" in last[-3]


def test_a_remark_stays_until_the_next_one_and_counts_add_up(terminal: io.BytesIO) -> None:
    progress.console.width = 100
    with progress.track("fit", 9, "tokens") as advance:
        advance(2, note="nll 0.9")
        advance(3)
    *_, bar, remark = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", terminal.getvalue().decode()).rstrip("\n").split("\n")
    assert " 5/9 tokens " in bar and bar.rstrip().endswith("s left")
    assert remark.strip() == "nll 0.9"


def test_the_rate_is_that_of_the_work_that_this_process_did(terminal: io.BytesIO) -> None:
    progress.console.width = 100
    with progress.track("tune", 1_000_010, "tokens") as advance:
        advance(1_000_000, found=True)
    assert last_line(terminal).endswith(" 1,000,000/1,000,010 tokens just begun")
    with progress.track("tune", 1_000_010, "tokens") as advance:
        advance(1_000_000, found=True)
        time.sleep(0.05)
        advance(1)
    # one in at least .05 s is at most 20 a second, so the other nine take at least .45 s
    said = re.search(r" 1,000,001/1,000,010 tokens ([\d.]+)/s, about ([\d.]+) s left$", last_line(terminal))
    assert said and 0 < float(said[1]) <= 20 and float(said[2]) >= 0.4


def test_a_bar_says_how_slow_slow_work_is(terminal: io.BytesIO, monkeypatch: pytest.MonkeyPatch) -> None:
    progress.console.width = 80
    with progress._bar("verdicts", 160, "verdicts", None) as show:
        show(20, "14/min, about 10 min 0 s left", "")
    assert last_line(terminal).endswith(" 20/160 verdicts 14/min, about 10 min 0 s left")


def test_a_line_too_long_for_the_terminal_is_cut_not_broken(terminal: io.BytesIO) -> None:
    curves = Curves("tune")
    curves.show({"tune/completions/mean_length": 123456.0})
    text = next(iter(progress._Rows(curves).__rich__().renderables))
    assert len(text.plain) == 59


def test_a_stage_without_curves_has_a_bar_alone(terminal: io.BytesIO) -> None:
    assert progress._Rows(None).__rich__().renderables == []
    assert progress._Rows(Curves("rank")).__rich__().renderables == []
