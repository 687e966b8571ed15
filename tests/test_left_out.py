"""What a benchmark could not count: counted by reason, listed, shown."""

import pytest

from starling.benches import left_out
from starling.benches.left_out import LeftOut

FOUND = [LeftOut("a", "blank", "f:1"), LeftOut("b", "too long"), LeftOut("c", "too long")]


def test_reasons_are_counted_the_commonest_first_and_every_case_is_listed() -> None:
    told = left_out.told(FOUND)
    assert list(told["reasons"].items()) == [("too long", 2), ("blank", 1)]
    assert (told["count"], told["items"][0]) == (3, {"item": "a", "reason": "blank", "detail": "f:1"})


def test_each_reason_is_shown_with_its_first_case_and_nothing_where_nothing_is_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    left_out.show(left_out.told(FOUND), " of 9 rows")
    assert capsys.readouterr().out.splitlines() == [
        "Left out: 3 of 9 rows", "  2 x too long, first b", "  1 x blank, first a",
    ]  # fmt: skip
    left_out.show(left_out.told([]))
    assert capsys.readouterr().out == ""
