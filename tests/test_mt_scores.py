"""MT-Bench's figures from judgments: means and win rates as FastChat has them, by turn, category, model and pair."""

from typing import Any

import pytest

from starling.benches import mt_scores
from starling.benches.answers import Question
from starling.errors import DataError

QUESTIONS = [
    Question(id="1", turns=("a", "b"), category="writing"),
    Question(id="2", turns=("a", "b"), category="math"),
    Question(id="3", turns=("a", "b"), category="math"),
]


def marks(*given: tuple[Any, Any, Any], model: str = "m") -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"f:{at}", {"question_id": question, "turn": turn, "score": score, "model": model})
        for at, (question, turn, score) in enumerate(given, 1)
    ]


def games(*given: tuple[Any, Any, str, str], sides: tuple[str, str] = ("x", "y")) -> list[tuple[str, dict[str, Any]]]:
    keys = ("question_id", "turn", "g1_winner", "g2_winner")
    return [
        (f"f:{at}", {**dict(zip(keys, one, strict=True)), "model_1": sides[0], "model_2": sides[1]})
        for at, one in enumerate(given, 1)
    ]


def values(found: mt_scores.Figures) -> dict[str, tuple[float, int]]:
    return {row["name"]: (pytest.approx(row["value"]), row["n"]) for row in found.rows}


def test_the_mean_is_over_all_marks_and_turns_and_categories_have_their_own() -> None:
    found = mt_scores.of_marks(marks((1, 1, 8), (1, 2, 6), (2, 1, 4.5), (2, 2, 1), (3, 1, 10)), QUESTIONS)
    # all: 29.5 / 5; turn 1: 22.5 / 3; turn 2: 7 / 2; math: (4.5 + 1 + 10) / 3
    assert values(found) == {
        "m": (5.9, 5), "turn 1": (7.5, 3), "turn 2": (3.5, 2), "writing": (7.0, 2), "math": (15.5 / 3, 3),
    }  # fmt: skip
    assert found.by_category == {"m": {"writing": 7.0, "math": pytest.approx(15.5 / 3)}}
    assert [(left.item, left.reason) for left in found.left_out] == [("m, question 3, turn 2", "no judgment")]


def test_the_interval_resamples_questions_not_marks() -> None:
    alike = mt_scores.of_marks(marks((1, 1, 2), (1, 2, 2), (2, 1, 8), (2, 2, 8), (3, 1, 5), (3, 2, 5)), QUESTIONS)
    single = mt_scores.of_marks(marks((1, 1, 2), (2, 1, 8), (3, 1, 5)), QUESTIONS)
    assert [alike.rows[0][key] for key in ("value", "low", "high")] == [
        single.rows[0][key] for key in ("value", "low", "high")
    ]
    assert alike.rows[0]["low"] < 5 < alike.rows[0]["high"]


def test_what_is_no_mark_is_left_out_and_a_later_judgment_of_a_turn_replaces_an_earlier() -> None:
    given = marks(
        (1, 1, -1), (1, 2, 11), (2, 1, None), (2, 2, "9"), (3, 1, 4), (3, 1, 6), (9, 1, 5), (3, 3, 5), (3, True, 5)
    )
    found = mt_scores.of_marks(given, QUESTIONS)
    assert values(found)["m"] == (6, 1)
    reasons = [left.reason for left in found.left_out]
    assert {reason: reasons.count(reason) for reason in reasons} == {
        "judged again later": 1, "judges no question of this set": 3, "unreadable verdict": 4, "no judgment": 1,
    }  # fmt: skip


def test_models_of_one_file_stand_best_first_and_one_can_be_chosen() -> None:
    both = marks((1, 1, 3), model="weak") + marks((1, 1, 9), model="strong")
    found = mt_scores.of_marks(both, QUESTIONS)
    assert [row["name"] for row in found.rows if row["level"] == 0] == ["strong", "weak"]
    assert values(mt_scores.of_marks(both, QUESTIONS, "weak"))["writing"] == (3, 1)
    with pytest.raises(DataError, match="none of the 2 judgments can be counted"):
        mt_scores.of_marks(both, QUESTIONS, "gone")


def test_a_judge_that_gives_one_mark_to_all_is_told() -> None:
    assert mt_scores.of_marks(marks((1, 1, 3), (2, 1, 3)), QUESTIONS).notes == [
        "all 2 marks are 3: this judge tells no answer from another"
    ]
    assert mt_scores.of_marks(marks((1, 1, 3), (2, 1, 4)), QUESTIONS).notes == []
    assert mt_scores.of_marks(marks((1, 1, 3)), QUESTIONS).notes == []


def test_a_win_needs_both_orders_and_an_error_is_neither_win_nor_tie() -> None:
    given = games(
        (1, 1, "model_1", "model_1"), (1, 2, "model_1", "tie"), (2, 1, "model_1", "model_2"), (2, 2, "tie", "tie"),
        (3, 1, "model_2", "model_2"), (3, 2, "model_1", "error"),
    )  # fmt: skip
    found = mt_scores.of_games(given, QUESTIONS)
    # one win, three ties, one loss: (1 + 3/2) / 5
    assert values(found) | {"wins": (0.2, 5), "ties": (0.6, 5), "losses": (0.2, 5)} == values(found)
    assert values(found)["x against y"] == (0.5, 5) and values(found)["turn 1"] == (0.5, 3)
    assert [left.reason for left in found.left_out] == ["unreadable verdict"]
    assert found.notes == ["x against y: these judgments do not tell which is better; the interval holds 50 %"]


def test_what_the_order_does_to_a_judge_that_is_shown_both_is_told() -> None:
    said = [
        (1, 1, "model_1", "model_2"), (1, 2, "model_1", "model_1"), (2, 1, "model_2", "model_1"),
        (2, 2, "tie", "tie"), (3, 1, "model_1", "tie"),
    ]  # fmt: skip
    shown = [(where, row | {"g1_user_prompt": "which?"}) for where, row in games(*said)]
    found = values(mt_scores.of_games(shown, QUESTIONS))
    # the first shown gets 2, 1, 0, 1 and 1.5 of the 2 points of a turn: 5.5 / 10; two of five turns agree
    assert found["points of the one shown first"] == (0.55, 5) and found["both orders agree"] == (0.4, 5)
    turned = values(mt_scores.of_games(shown, QUESTIONS, model="y"))
    assert turned["points of the one shown first"] == (0.55, 5)  # whichever model is asked about
    assert "both orders agree" not in values(mt_scores.of_games(games(*said), QUESTIONS))  # rewards see no order


def test_a_pair_named_the_other_way_round_is_the_same_pair() -> None:
    given = games((1, 1, "model_1", "model_1")) + games((2, 1, "model_2", "model_2"), sides=("y", "x"))
    found = mt_scores.of_games(given, QUESTIONS)
    assert values(found)["x against y"] == (1.0, 2)
    assert found.notes == ["x against y: these judgments do not tell which is better; the interval holds 50 %"]
    for options in ({"model": "y"}, {"against": "x"}, {"model": "y", "against": "x"}):
        turned = mt_scores.of_games(given, QUESTIONS, **options)
        assert values(turned)["y against x"] == (0.0, 2)
        assert turned.notes == ["y against x: these judgments do not tell which is better; the interval holds 50 %"]
    row = {"name": "x against y", "low": 0.6, "high": 0.9}
    assert mt_scores._sentence(row) == "x against y: better, by these judgments"
    assert mt_scores._sentence(row | {"low": 0.1, "high": 0.4}) == "x against y: worse, by these judgments"


def test_a_pair_of_models_can_be_chosen_among_others_and_a_plain_winner_counts() -> None:
    given = games((1, 1, "model_1", "model_1")) + games((1, 1, "tie", "tie"), sides=("x", "z"))
    given.append(("f:9", {"question_id": 2, "turn": 1, "winner": "model_2", "model_1": "x", "model_2": "z"}))
    assert values(mt_scores.of_games(given, QUESTIONS, "x", "z"))["x against z"] == (0.25, 2)
    assert "x against y" in values(mt_scores.of_games(given, QUESTIONS, "x"))
