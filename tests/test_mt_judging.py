"""Marks and verdicts of MT-Bench: what is read, and what is never made into one."""

import pytest

from starling.benches.answers import Question
from starling.benches.mt_judging import LOSS, TIE, WIN, preference, read_mark, read_winner, tasks
from starling.judges.parse import Ranked, Scored, Tied, Unparsed

QUESTION = Question(id="7", turns=("q1", "q2"), category="math", references=("r1", "r2"))


@pytest.mark.parametrize(
    ("reply", "mark"),
    [
        ("Good.\nRating: [[7]]", 7), ("[[7.5]]", 7.5), ("[[10]]", 10), ("[[ 3 ]]", 3), ("[[8.]]", 8),
        ("[[6.125]]", 6.125),
        ("Rating: [5]", 5), ("[[rating]] means a mark: [[9]]", 9), ("[[4]] in short: [[4.0]]", 4),
    ],
)  # fmt: skip
def test_a_mark_is_read_as_fastchat_reads_it(reply: str, mark: float) -> None:
    assert read_mark(reply) == Scored(mark)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "an empty reply"), (" \n", "an empty reply"), ("It deserves a seven.", "no mark in double brackets"),
        ("[[11]]", "not 1 to 10"), ("[[0]]", "not 1 to 10"), ("[[11/10]]", "no number"), ("[[8/10]]", "no number"),
        ("[[-1]]", "no number"), ("[[7]] or [[8]]", "names 2 marks"), ("First: [[7]]\nSecond: [[3]]", "names 2 marks"),
        ("[[rating]]", "no mark"), ("[8/10]", "no mark"), ("Seven [[seven]]", "no mark"), ("[[7", "no mark"),
    ],
)  # fmt: skip
def test_what_is_no_mark_is_never_made_one(reply: str, reason: str) -> None:
    found = read_mark(reply)
    assert isinstance(found, Unparsed) and reason in found.reason


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("Winner: [[A]]", Ranked([0, 1])), ("[[B]]", Ranked([1, 0])), ("[[tie]]", Tied([[0, 1]])),
        ("[[A]] because.\nWinner: [[A]]", Ranked([0, 1])),
    ],
)  # fmt: skip
def test_a_winner_is_read(reply: str, verdict: object) -> None:
    assert read_winner(reply) == verdict


@pytest.mark.parametrize("reply", ["", "A is better", "[[A]]\n[[B]]", "[[A]] or [[tie]]", "[[C]]", "[[A and B]]"])
def test_what_names_no_winner_or_both_is_unparsed(reply: str) -> None:
    assert isinstance(read_winner(reply), Unparsed)


def test_a_preference_is_of_the_model_that_stands_first_whatever_the_order() -> None:
    first, second, tie = Ranked([0, 1]), Ranked([1, 0]), Tied([[0, 1]])
    assert [preference(one) for one in (first, second, tie, Unparsed(""))] == [WIN, LOSS, TIE, None]
    assert [preference(one, swapped=True) for one in (first, second, tie)] == [LOSS, WIN, TIE]


def test_a_mark_is_asked_for_each_turn_with_references_before_the_answers() -> None:
    one, two = tasks([QUESTION], {"7": ("a1", "a2")})
    assert one.showings[0].texts == [("user turn 1", "q1"), ("reference turn 1", "r1"), ("answer turn 1", "a1")]
    assert [text for _, text in two.showings[0].texts] == ["q1", "r1", "a1", "q2", "r2", "a2"]
    assert (two.question, two.turn, len(two.showings), two.showings[0].answers) == ("7", 2, 1, 1)


def test_a_pair_is_shown_in_both_orders_and_only_where_both_answered() -> None:
    found = tasks([QUESTION, Question(id="8", turns=("q",))], {"7": ("a1", "a2"), "8": ("x",)}, {"7": ("b1", "b2")})
    assert [(task.question, task.turn) for task in found] == [("7", 1), ("7", 2)]
    shown = [[text for name, text in showing.texts if name.startswith("answer")] for showing in found[1].showings]
    assert shown == [["a1", "b1", "a2", "b2"], ["b1", "a1", "b2", "a2"]]
    assert [name for name, _ in found[0].showings[1].texts][-2:] == ["answer A turn 1", "answer B turn 1"]
