"""Answers to prompts, from a model or a file."""

from pathlib import Path

import pytest
from small_road import write_lines

from starling.benches import prompted
from starling.benches.asked import Asked
from starling.errors import DataError
from starling.records import Message, Prompt

TURNS = [
    Message(role="user", content="Hi"),
    Message(role="assistant", content="Yes?"),
    Message(role="user", content="Go"),
]
PROMPTS = [Prompt(id="one", messages=TURNS[:1]), Prompt(id="two", messages=TURNS)]


def test_a_prompt_of_one_turn_is_its_text_and_a_conversation_nectars() -> None:
    assert [prompted.text_of(one) for one in PROMPTS] == [
        "Hi",
        "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Go\n\nAssistant: ",
    ]


def test_answers_are_asked_once_kept_and_read_again(tiny_model, tmp_path: Path) -> None:
    asked = Asked(model=str(tiny_model), against=str(tiny_model))
    tested, other = prompted.sides(asked, PROMPTS, tmp_path, 6)
    assert tested.answers.first == other.answers.first and set(tested.answers.first) == {"one", "two"}
    again = prompted.sides(Asked(answers=tmp_path / "answers.jsonl"), PROMPTS, tmp_path, 6)[0]
    assert (again.answers.first, again.answers.left_out) == (tested.answers.first, [])
    estimated = prompted.estimate(asked, PROMPTS, tmp_path, 6)["estimate"]
    assert [(part["purpose"], part["on_file"]) for part in estimated] == [("answers", 2), ("against", 0)]


def test_what_the_window_has_no_room_for_is_left_out(tiny_model, tmp_path: Path) -> None:
    long = Prompt(id="long", messages=[Message(role="user", content="rain " * 3000)])
    found = prompted.sides(Asked(model=str(tiny_model)), [PROMPTS[0], long], tmp_path, 4)[0]
    assert set(found.answers.first) == {"one"}
    assert [(one.item, one.reason) for one in found.answers.left_out] == [("long", "no answer")]


def test_a_file_without_answers_is_refused(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "no.jsonl", [{"prompt": "Hi", "output": "x"}])
    with pytest.raises(DataError, match="no row with the texts `prompt` and `response`"):
        prompted.sides(Asked(answers=file), PROMPTS, tmp_path, 4)


def test_the_hash_tells_what_is_verified(tmp_path: Path) -> None:
    assert prompted.digest(PROMPTS, {"one": ["a"]}) != prompted.digest(PROMPTS, {"one": ["b"]})
