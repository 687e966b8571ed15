"""Progress of long work; a test's output is no terminal, so it gets plain lines."""

import re

import pytest

from starling import progress


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_a_plain_line_says_what_is_done_how_fast_and_what_is_left(capsys) -> None:
    with progress._lines("fit", 12_000, "tokens", seconds_between=0.0) as advance:
        advance(1500)
        advance(0, note="nll 0.512")
        advance(4500)
    found = lines(capsys)
    assert len(found) == 3
    assert re.fullmatch(r"fit: 1,500/12,000 tokens, [\d,]+/s, \d+ s left", found[0])
    assert re.fullmatch(r"fit: 1,500/12,000 tokens, [\d,]+/s, \d+ s left  nll 0\.512", found[1])
    assert re.fullmatch(r"fit: 6,000/12,000 tokens, [\d,]+/s, \d+ s left  nll 0\.512", found[2])


def test_a_bound_that_is_passed_leaves_no_time(capsys) -> None:
    with progress._lines("tune", 10, "tokens", seconds_between=0.0) as advance:
        advance(15)
    assert re.fullmatch(r"tune: 15/10 tokens, [\d,]+/s, 0 s left", lines(capsys)[0])


def test_nothing_done_is_no_division_by_zero(capsys) -> None:
    with progress._lines("tune", 10, "tokens", seconds_between=0.0) as advance:
        advance(0)
    assert lines(capsys) == ["tune: 0/10 tokens, 0/s, 0 s left"]


def test_lines_come_now_and_then_only(capsys) -> None:
    with progress.track("fit", 10, "tokens") as advance:
        for _ in range(10):
            advance(1)
    assert lines(capsys) == []


def test_brackets_in_a_note_are_no_markup(capsys) -> None:
    with progress._lines("rank", 2, "prompts", seconds_between=0.0) as advance:
        advance(1, note="[B, A]")
    assert lines(capsys)[0].endswith("[B, A]")


def test_an_error_passes_through(capsys) -> None:
    with pytest.raises(KeyError), progress.track("fit", 10, "tokens"):
        raise KeyError


def test_calls_that_an_earlier_attempt_left_in_flight_are_told(capsys) -> None:
    progress.note_interrupted(0)
    progress.note_interrupted(3)
    assert lines(capsys) == ["3 calls were in flight when an earlier attempt died; each may be asked once more"]
