"""Conversations as messages and as Nectar's text."""

import time

import pytest
from test_tables import NECTAR, QUESTION, TURNS

from starling import turns
from starling.errors import DataError
from starling.records import Message

QUOTED = "Summarise this talk:\n\nHuman: hello\n\nAssistant: hello\n\nHuman: what is rain?"


def test_nectars_text_and_messages_are_two_forms_of_one_thing() -> None:
    assert turns.text_from_messages(TURNS) == NECTAR
    assert turns.messages_from_text(NECTAR) == TURNS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("what is rain?", QUESTION),
        ("\n\nHuman: what is rain?\n\nAssistant:", QUESTION),
        ("\n\nHuman: what is rain?", QUESTION),
        ("Human: what is rain?", [Message(role="user", content="Human: what is rain?")]),
        ("be brief\n\nHuman: what is rain?\n\nAssistant:", [Message(role="system", content="be brief"), *QUESTION]),
        ("\n\nAssistant: hello\n\nHuman: what is rain?", TURNS[1:]),
        (QUOTED, [Message(role="user", content=QUOTED)]),
        ("Go on:\n\nAssistant: It", [Message(role="user", content="Go on:\n\nAssistant: It")]),
    ],
    ids=["plain", "no blank at the end", "no assistant", "no turn", "system", "assistant first", "quoted", "to end"],
)
def test_prompt_texts_become_messages(text: str, expected: list[Message]) -> None:
    assert turns.messages_from_text(text) == expected


def test_a_role_that_nectar_does_not_know_is_a_plain_error() -> None:
    with pytest.raises(DataError):
        turns.text_from_messages([Message(role="tool", content="5"), *QUESTION])


def test_a_system_prompt_survives_nectars_text() -> None:
    messages = [Message(role="system", content="be brief"), *QUESTION]
    assert turns.messages_from_text(turns.text_from_messages(messages)) == messages


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "a list of at least one turn"),
        ([{"role": "user"}], "a `role` and a text `content`"),
        ([Message(role="user", content=" ")], "the user's message is empty"),
        (TURNS[:2], "a prompt ends on the user's"),
    ],
    ids=["none", "no content", "blank", "ends on the assistant's"],
)
def test_what_is_no_conversation_that_waits_is_named(messages: list, said: str) -> None:
    with pytest.raises(DataError, match=f"^mine:1: .*{said}"):
        turns.check_messages(messages, "mine:1")


def test_a_message_has_a_role_and_a_text() -> None:
    assert turns.is_message({"role": "user", "content": ""})
    assert not turns.is_message({"role": "user", "content": None}) and not turns.is_message("user")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Human: a\n\n  ## Assistant : b", "a b"),
        ("a\n\n\n### Instruction:\nb", "a b"),
        ("[INST] a [/INST]<|im_start|>user\nb", "a b"),
        ("of humans: a", "of humans: a"),
    ],
)
def test_marks_of_whose_turn_it_is_are_left_out(text: str, left: str) -> None:
    assert " ".join(turns.without_marks(text).split()) == left


@pytest.mark.parametrize("piece", ["\n", " \n#"])
def test_marks_are_looked_for_in_time_that_grows_with_the_text_alone(piece: str) -> None:
    started = time.process_time()
    turns.without_marks("a" + piece * 50_000 + "b")
    assert time.process_time() - started < 5  # a hundredth of that; what grows with the square takes minutes
