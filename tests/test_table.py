"""A benchmark's result on a terminal."""

import re
from typing import Any

import pytest

from starling.benches import cases, table
from starling.benches.cases import ALIKE, LONGER, Case

CASES = [
    Case(item=str(n), prompt=str(n), right=float(n < 6), longer=float(n < 3), tied=n == 9, length=kind)
    for n, kind in enumerate([LONGER] * 4 + [ALIKE] * 6)
]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is folded."""
    monkeypatch.setenv("COLUMNS", "160")


def lines_of(
    capsys: pytest.CaptureFixture[str], rows: list[dict[str, Any]], left_out: list[dict[str, str]] | None = None
) -> list[str]:
    listed = left_out or []
    reasons = {left["reason"]: sum(left["reason"] == other["reason"] for other in listed) for left in listed}
    result = {
        "bench": "b", "model": {"name": "m\x1b[31m", "commit": "abc"}, "rows": rows,
        "data": {"name": "d", "rows": 12, "sha256": "0" * 64},
        "left_out": {"count": len(listed), "reasons": reasons, "items": listed},
    }  # fmt: skip
    table.print_result(result, "about it")
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines() if line.strip()]


def test_every_figure_has_its_interval_n_and_length_alone(capsys: pytest.CaptureFixture[str]) -> None:
    lines = lines_of(capsys, [cases.row("all", CASES)])
    # 6 of 10 right; by length alone 3 of 10; one of ten has equal scores
    assert any(line.startswith("all 60.0 % (31.3 to 83.2) 10 30.0 % 10.0 %") for line in lines)
    # longer: all 4 right; like: 2 of 6; shorter: none
    (at,) = (at for at, line in enumerate(lines) if re.fullmatch(r"all no cases 33.3 % .*\) 100 % .*\)", line))
    assert lines[at + 1] == "n = 6 n = 4"


def test_a_figure_without_cases_is_shown_with_the_reason_and_has_no_lengths(capsys: pytest.CaptureFixture[str]) -> None:
    lines = lines_of(capsys, [cases.row("all", CASES), cases.empty("none", "no rows")])
    assert [line for line in lines if line.startswith("none")] == ["none no cases 0 n/a n/a no rows"]


def test_what_was_left_out_is_counted_by_reason(capsys: pytest.CaptureFixture[str]) -> None:
    left_out = [{"item": f"i{n}", "reason": "[blank]" if n else "too long", "detail": ""} for n in range(3)]
    lines = lines_of(capsys, [cases.row("all", CASES)], left_out)
    assert lines[-3:] == ["Left out: 3 of 12 rows", "1 x too long, first i0", "2 x [blank], first i1"]


def test_names_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    lines = lines_of(capsys, [cases.row("[bold]\x1b[2J", CASES)])
    assert "model: m\\x1b[31m abc" in lines
    assert any(line.startswith("[bold]\\x1b[2J") for line in lines)
