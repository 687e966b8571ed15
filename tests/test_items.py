"""What a benchmark's row asks, and the rules by which it is right."""

import pytest

from starling.benches import items
from starling.errors import DataError


def test_the_strict_rule_counts_equal_scores_as_wrong() -> None:
    assert items.above([2.0], [1.0]) == 1
    assert items.above([1.0], [1.0]) == 0
    assert items.above([1.0], [2.0]) == 0


def test_every_better_answer_must_be_above_every_worse_one() -> None:
    assert items.above([3.0, 2.0], [1.0, 0.0]) == 1
    assert items.above([3.0, 1.0], [2.0, 0.0]) == 0  # the lowest better one, 1, is below the highest worse one, 2


def test_the_lenient_rule_counts_equal_scores_as_right() -> None:
    assert [items.not_below([score], [1.0]) for score in (0.5, 1.0, 1.5)] == [0, 1, 1]


def test_two_decimals_forgive_what_rounds_away() -> None:
    assert items.not_below_at_two_decimals([-0.994], [-0.991]) == 1  # both -0.99
    assert items.not_below_at_two_decimals([-1.0], [-0.991]) == 0  # -1.00 against -0.99
    assert items.not_below_at_two_decimals([1.0], [0.0]) == 1


def test_winners_that_share_the_highest_score_share_the_point() -> None:
    assert items.share_of_best([2.0], [1.0, 0.0, -1.0]) == 1
    assert items.share_of_best([2.0], [2.0, 0.0, -1.0]) == pytest.approx(1 / 2)
    assert items.share_of_best([2.0], [2.0, 2.0, 2.0]) == pytest.approx(1 / 4)
    assert items.share_of_best([1.0], [2.0, 1.0, 1.0]) == 0


def test_a_text_prompt_is_one_message_to_the_letter() -> None:
    text = "\n\nHuman: is this a turn?\n\nAssistant: "
    question = items.question(text, ["a"], "x:1")
    assert list(question.messages) == [{"role": "user", "content": text}]


def test_a_prompt_may_be_messages_that_end_on_the_users() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    assert list(items.question(turns, ["d"], "x:1").messages) == turns
    with pytest.raises(DataError, match="x:1: the last message is the assistant's"):
        items.question(turns[:2], ["d"], "x:1")


def test_an_answer_that_is_no_text_is_refused() -> None:
    with pytest.raises(DataError, match="x:3: every answer"):
        items.question("a", ["b", 7], "x:3")


def test_missing_columns_are_named_with_what_is_there() -> None:
    with pytest.raises(DataError, match="x:2: needs prompt, chosen; missing: chosen; found: prompt"):
        items.need({"prompt": "a", "chosen": None}, ("prompt", "chosen"), "x:2")


@pytest.mark.parametrize(
    "scores", [[1.0], [1.0, None], [1.0, "2"], [1.0, float("nan")], [True, 1.0]],
    ids=["too few", "missing", "text", "not a number", "truth value"],
)  # fmt: skip
def test_stored_scores_are_one_number_for_each_answer(scores: list) -> None:
    with pytest.raises(DataError, match="x:1: 2 answers need 2 stored scores"):
        items.checked_scores(scores, 2, "x:1")


def test_a_row_without_scores_has_none_and_half_of_them_is_refused() -> None:
    assert items.stored_scores({}, ("a", "b"), "x:1") is None
    assert items.stored_scores({"a": [1.5], "b": 2}, ("a", "b"), "x:1") == (1.5, 2.0)
    with pytest.raises(DataError, match="x:1: 2 answers need 2"):
        items.stored_scores({"a": 1.0}, ("a", "b"), "x:1")
