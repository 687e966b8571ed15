"""Questions of one or more turns: asked in conversation, or matched with rows that are there."""

from collections.abc import Sequence

from starling.benches.answers import Given, Question, ask, match
from starling.records import Call, Failure, Reply


class Parrot:
    """Answers with the last message and its place; fails on a message that says so, is cut on another."""

    name = "parrot"

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def chat(self, calls: Sequence[Call]) -> list[Reply | Failure]:
        self.calls += calls
        return [
            Failure(reason="it hurts")
            if call.messages[-1]["content"] == "fail"
            else Reply(text=f"{len(call.messages)}: {call.messages[-1]['content']}", finished="long" not in str(call))
            for call in calls
        ]


def question(name: str, *turns: str, **changes) -> Question:
    return Question(id=name, turns=turns, **changes)


def test_each_turn_is_asked_with_all_that_was_said_before_at_the_questions_temperature() -> None:
    chat = Parrot()
    found = ask([question("a", "one", "two", temperature=0.7), question("b", "alone")], chat, max_tokens=9)
    assert found.by_question == {"a": ("1: one", "3: two"), "b": ("1: alone",)}
    assert [message["content"] for message in chat.calls[2].messages] == ["one", "1: one", "two"]
    assert [message["role"] for message in chat.calls[2].messages] == ["user", "assistant", "user"]
    assert [(call.temperature, call.max_tokens) for call in chat.calls] == [(0.7, 9), (0.0, 9), (0.7, 9)]


def test_a_question_whose_turn_fails_is_left_out_and_not_asked_on() -> None:
    chat = Parrot()
    found = ask([question("a", "fail", "two"), question("b", "one", "fail"), question("c", "long")], chat, max_tokens=9)
    assert found.by_question == {"c": ("1: long",)} and found.cut == 1
    assert [(left.item, left.reason, left.detail) for left in found.left_out] == [
        ("a", "no answer to turn 1", "it hurts"), ("b", "no answer to turn 2", "it hurts"),
    ]  # fmt: skip
    assert len(chat.calls) == 4


def test_rows_are_matched_and_every_row_or_question_left_over_is_told() -> None:
    questions = [question(name, "one", "two") for name in "abcd"]
    rows = [
        Given("a", ("1", "2"), "f:1"), Given("a", ("1", "2"), "f:2"),  # the same again does no harm
        Given("b", ("1", "2"), "f:3"), Given("b", ("1", "x"), "f:4"), Given("b", ("1", "y"), "f:5"),
        Given("c", ("1",), "f:6"), Given("z", ("1", "2"), "f:7"),
    ]  # fmt: skip
    found = match(questions, rows)
    assert found.by_question == {"a": ("1", "2")}
    assert sorted((left.item, left.reason, left.detail) for left in found.left_out) == [
        ("b", "answered twice", "f:3 and f:4"),
        ("c", "another number of turns", "f:6: 1 answers to 2 turns"),
        ("d", "without an answer", ""),
        ("z", "answers no question of this set", "f:7"),
    ]
