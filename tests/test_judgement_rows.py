"""Rows of a ranking log: the calls behind them."""

from pathlib import Path
from typing import Any

import pytest
from test_judgements import ASKED, write

from starling import audit, judgements
from starling.errors import DataError


def ranking_of_calls(**more: Any) -> dict[str, Any]:
    answers = [{"answer": text, "model": f"m{at}", "rank": at + 1.0} for at, text in enumerate(("one", "two", "six"))]
    return {"prompt": ASKED, "answers": answers} | more


def test_repeats_within_a_row_are_calls_of_their_own(tmp_path: Path) -> None:
    row = ranking_of_calls(orders=[[2, 0, 1], [0, 1, 2]], rankings=[[3, 1, 2], [2, 1, 3]])
    read = judgements.read(write(tmp_path / "log.jsonl", row))
    assert [(call.answers, call.models, call.ranks, call.order) for call in read.calls] == [
        (["six", "one", "two"], ["m2", "m0", "m1"], [3, 1, 2], range(3)),
        (["one", "two", "six"], ["m0", "m1", "m2"], [2, 1, 3], range(3)),
    ]
    found = audit.audit(read)
    # one two six against two one six: two of three pairs agree
    assert (found["repeats"]["value"], found["repeats"]["n"]) == (pytest.approx(1 / 3), 1)
    assert found["positions"][0]["n"] == 2


def test_pairs_within_a_row_are_calls_about_two_answers(tmp_path: Path) -> None:
    row = ranking_of_calls(orders=[[0, 1], [1, 0], [1, 2]], rankings=[[1, 2], [1, 2], [1, 1]])
    found = audit.audit(judgements.read(write(tmp_path / "log.jsonl", row)))
    assert found["answers_per_call"] == {2: 3}
    assert found["repeats"]["value"] == -1  # whoever was shown first won
    assert [place["count"] for place in found["positions"][0]["places"]] == [2, 0]


def test_a_call_that_was_made_again_counts_once_and_one_that_stayed_unread_counts_as_that(tmp_path: Path) -> None:
    row = ranking_of_calls(
        orders=[[0, 1, 2], [0, 1, 2], [2, 1, 0], [2, 1, 0]], rankings=[[], [1, 2, 3], [], []]
    )  # fmt: skip
    calls = judgements.read(write(tmp_path / "log.jsonl", row)).calls
    assert [call.ranks for call in calls] == [[1, 2, 3], None]
    assert "could not be read" in calls[1].reason
    row = ranking_of_calls(
        orders=[[0, 1, 2], [2, 1, 0], [0, 1, 2], [2, 1, 0]], rankings=[[1, 2, 3], [], [1, 2, 3], [3, 2, 1]]
    )  # fmt: skip
    calls = judgements.read(write(tmp_path / "two.jsonl", row | {"repeats": [0, 0, 1, 1]})).calls
    assert [call.ranks for call in calls] == [[1, 2, 3], None, [1, 2, 3], [3, 2, 1]]


def test_marks_of_single_answers_are_one_ranking_without_an_order(tmp_path: Path) -> None:
    row = ranking_of_calls(orders=[[1], [0], [2]], rankings=[[1], [1], [1]], marks=[5, 9, 2])
    (call,) = judgements.read(write(tmp_path / "log.jsonl", row)).calls
    assert (call.ranks, call.order) == ([1, 2, 3], None)


def test_a_table_without_the_rankings_of_calls_is_read_as_before(tmp_path: Path) -> None:
    (call,) = judgements.read(write(tmp_path / "log.jsonl", ranking_of_calls(orders=[[2, 0, 1], [2, 0, 1]]))).calls
    assert (call.ranks, call.order) == ([1, 2, 3], (2, 0, 1))
    (call,) = judgements.read(write(tmp_path / "two.jsonl", ranking_of_calls(orders=[[2, 0, 1], [0, 1, 2]]))).calls
    assert call.order is None


@pytest.mark.parametrize("rankings", [[[1, 2]], [[1, 2, 3], [1, 2, 3]], "none", [1]])
def test_rankings_that_do_not_fit_their_orders_are_refused(tmp_path: Path, rankings: Any) -> None:
    with pytest.raises(DataError, match="a rank for each answer"):
        judgements.read(write(tmp_path / "log.jsonl", ranking_of_calls(orders=[[2, 0, 1]], rankings=rankings)))
