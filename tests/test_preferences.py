"""Rows of chosen and rejected: which conversation both answer."""

from typing import Any

import pytest
from test_tables import QUESTION

from starling import tables
from starling.errors import DataError
from starling.records import Message


def turns(*texts: str, first: str = "user") -> list[Message]:
    """Messages by turns, the first by this role."""
    roles = ("user", "assistant") if first == "user" else ("assistant", "user")
    return [Message(role=roles[at % 2], content=text) for at, text in enumerate(texts)]


SYSTEM = Message(role="system", content="be brief")
WET, DRY = turns("wet", first="assistant"), turns("dry", first="assistant")
ASKED = turns("hi", "hello", "what is rain?")
LATER = turns("hello", "what is rain?", first="assistant")  # what follows "hi"


def row(before: list[Message], prompt: Any = None) -> dict[str, Any]:
    found = {"chosen": [*before, *WET], "rejected": [*before, *DRY]}
    return found if prompt is None else found | {"prompt": prompt}


@pytest.mark.parametrize(
    ("given", "conversation"),
    [
        (row([], ASKED), ASKED),
        (row(ASKED), ASKED),
        (row(ASKED, ASKED), ASKED),
        (row(ASKED, turns("hi")), ASKED),
        (row(LATER, turns("hi")), ASKED),
        (row(LATER, [SYSTEM, *turns("hi")]), [SYSTEM, *ASKED]),
        (row(ASKED, [SYSTEM, *turns("hi")]), [SYSTEM, *ASKED]),
        (row(ASKED, [SYSTEM]), [SYSTEM, *ASKED]),
        (row(turns("what is rain?"), turns("hi", "hello")), ASKED),
        (row(LATER, "hi"), ASKED),
        (row([], "hi"), turns("hi")),
        (row([SYSTEM, *ASKED], "what is rain?"), [SYSTEM, *ASKED]),
        (row(LATER), LATER),
        (row(ASKED, []), ASKED),
    ],
    ids=[
        "answers alone",
        "no prompt",
        "the prompt again",
        "the prompt again and more",
        "going on",
        "going on after a system's message",
        "the prompt again without its system's message",
        "going on after a system's message alone",
        "going on after an answer",
        "going on from a text",
        "a text",
        "a text told otherwise",
        "the assistant begins",
        "an empty prompt",
    ],
)
def test_both_answer_all_that_stands_before_them(given: dict[str, Any], conversation: list[Message]) -> None:
    found = tables.ranking_from_row(given, "here")
    assert found.messages == conversation
    assert [(answer.answer, rank) for answer, rank in zip(found.answers, found.ranks, strict=True)] == [
        ("wet", 1),
        ("dry", 2),
    ]


def test_blanks_around_a_turn_make_no_other_conversation() -> None:
    given = {"chosen": [*ASKED, *WET], "rejected": [*turns("hi", "hello ", "what is rain?\n"), *DRY]}
    assert tables.ranking_from_row(given, "here").messages == ASKED


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"chosen": [*ASKED, *WET], "rejected": [*turns("what is rain?"), *DRY]}, "differ before the last message"),
        (
            {"chosen": [*ASKED, *WET], "rejected": [*turns("hi", "bye", "what is rain?"), *DRY]},
            "differ before the last",
        ),
        ({"chosen": [*ASKED, *WET], "rejected": DRY}, "differ before the last message"),
        ({"chosen": ASKED, "rejected": [*ASKED, *DRY]}, "`chosen` ends on the user's message; its last is the answer"),
        ({"chosen": [*ASKED, *WET], "rejected": [SYSTEM]}, "`rejected` ends on the system's message"),
        (row([*turns("hi"), {"role": "assistant"}]), "every message of .* needs a `role` and a text `content`"),
        (row(turns("and now?"), turns("hi")), "neither begin with `prompt` nor go on from it"),
        (row([SYSTEM, *ASKED], ASKED), "neither begin with `prompt` nor go on from it"),
        (row(LATER, turns("hi", "hello")), "neither begin with `prompt` nor go on from it"),
        (row([*ASKED, *WET]), "the last message is the assistant's"),
        (row([]), "at least one turn"),
        (row(LATER, ["hi"]), "every message needs a `role`"),
        (row(LATER, 5), "must be a list of at least one turn"),
    ],
    ids=[
        "one is shorter",
        "another turn",
        "one has none",
        "chosen ends on the user",
        "rejected is no answer",
        "no content",
        "another question",
        "another system",
        "two assistants in a row",
        "two answers in a row",
        "nothing asked",
        "prompt of texts",
        "prompt of a number",
    ],
)
def test_what_is_no_answer_to_one_conversation_is_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"^mine:3: .*{message}"):
        tables.ranking_from_row(given, "mine:3")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "what is rain?", "chosen": "wet", "rejected": "dry"},
        {
            "chosen": [*QUESTION, {"role": "assistant", "content": "wet"}],
            "rejected": [*QUESTION, {"role": "assistant", "content": "dry"}],
        },
        {
            "prompt": QUESTION,
            "chosen": [{"role": "assistant", "content": "wet"}],
            "rejected": [{"role": "assistant", "content": "dry"}],
        },
        {
            "prompt": "what is rain?",
            "chosen": [{"role": "assistant", "content": "wet"}],
            "rejected": [{"role": "assistant", "content": "dry"}],
        },
    ],
    ids=["texts", "whole conversations", "messages", "mixed"],
)
def test_a_chosen_and_a_rejected_answer_are_a_ranking(row: dict) -> None:
    found = tables.ranking_from_row(row, "here")
    assert found.messages == QUESTION
    assert [(answer.answer, rank) for answer, rank in zip(found.answers, found.ranks, strict=True)] == [
        ("wet", 1),
        ("dry", 2),
    ]


def test_ranked_answers_count_where_a_row_names_a_pair_of_them_too() -> None:
    row = {"prompt": "hi", "answers": ["a", "b", "c"], "chosen": "a", "rejected": "c"}
    assert len(tables.ranking_from_row(row | {"ranks": [1, 2, 3]}, "here").answers) == 3
    assert len(tables.ranking_from_row(row, "here").answers) == 2
    unranked = row | {"answers": [{"answer": text, "rank": None} for text in "abc"]}
    assert len(tables.ranking_from_row(unranked, "here").answers) == 2
