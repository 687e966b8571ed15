"""What a request wants, or why it is refused."""

from typing import Any

import pytest

from starling.api_requests import Chat, Completion, Refused, Room, Scores, read

TURN = {"role": "user", "content": "Hi"}


def chat(**fields: Any) -> Chat:
    return read(Chat, {"model": "m", "messages": [TURN]} | fields)


def test_a_conversation_with_parts_and_a_developer_is_read_as_the_template_knows_it() -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    asked = chat(messages=[{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}])
    assert asked.turns == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "one two"}]


def test_the_newer_name_of_the_token_cap_counts_first() -> None:
    assert (chat().limit, chat(max_tokens=3).limit, chat(max_tokens=3, max_completion_tokens=5).limit) == (None, 3, 5)


def test_an_answer_may_end_on_sixteen_texts_of_a_thousand_characters() -> None:
    longest = ["a" * 1000] * 16
    assert chat(stop=longest).stops == longest
    assert (chat(stop="a").stops, chat(stop=[]).stops, chat().stops) == (["a"], [], [])


def test_what_asks_for_nothing_may_be_there() -> None:
    neutral = {
        "frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "tools": None, "logprobs": False,
        "top_logprobs": None, "user": "someone", "response_format": {"type": "text"}, "stop": None, "n": None,
    }  # fmt: skip
    assert chat(**neutral) == chat()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 0}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"min_p": 0.1}, "min_p"),
        ({"temperature": 2.5}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"seed": "x"}, "seed"),
        ({"stream": "yes"}, "stream"),
        ({"stop": ""}, "stop"),
        ({"stop": ["a", ""]}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": "a" * 1001}, "stop"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [TURN | {"tool_calls": []}]}, "messages.0.tool_calls"),
    ],
    ids=str,
)
def test_what_cannot_be_honoured_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(Refused) as refusal:
        chat(**fields)
    assert (refusal.value.param, refusal.value.status) == (param, 400)
    assert param in str(refusal.value)


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        ({"role": "tool", "content": "x"}, "messages\\[1\\].role is 'tool'"),
        ({"role": "user", "content": [{"type": "image_url", "text": None}]}, "part of type 'image_url'"),
    ],
)
def test_turns_that_no_template_here_knows_are_refused(turn: dict[str, Any], said: str) -> None:
    with pytest.raises(Refused, match=said):
        _ = chat(messages=[TURN, turn]).turns


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]])],
    ids=str,
)
def test_a_plain_prompt_comes_in_four_forms(prompt: Any, expected: Any) -> None:
    assert read(Completion, {"model": "m", "prompt": prompt}).prompts == expected


@pytest.mark.parametrize("prompt", [[1, "a"], [[1], "a"], {"a": 1}, 3], ids=str)
def test_a_prompt_in_no_form_is_refused(prompt: Any) -> None:
    with pytest.raises(Refused):
        read(Completion, {"model": "m", "prompt": prompt})


@pytest.mark.parametrize("body", [[], "text", None, 3], ids=str)
def test_a_body_that_is_no_object_is_refused(body: Any) -> None:
    with pytest.raises(Refused, match="JSON object"):
        read(Chat, body)


def test_inputs_to_score_have_a_prompt_or_messages_and_not_both() -> None:
    asked = read(Scores, {"inputs": [{"prompt": "a", "answers": ["b"]}, {"messages": [TURN], "answers": ["c", "d"]}]})
    assert asked.prompts == ["a", [TURN]]
    for row in ({"answers": ["b"]}, {"prompt": "a", "messages": [TURN], "answers": ["b"]}):
        with pytest.raises(Refused, match=r"inputs\[0\]: give either prompt or messages"):
            _ = read(Scores, {"inputs": [row]}).prompts
    for wrong in ({"inputs": []}, {"inputs": [{"prompt": "a", "answers": []}]}, {}):
        with pytest.raises(Refused):
            read(Scores, wrong)


def test_an_answer_gets_the_room_that_the_prompt_leaves() -> None:
    room = Room(window=100, prompt_tokens=90)
    assert (room.limit(None), room.limit(10), room.limit(3)) == (10, 10, 3)
    with pytest.raises(
        Refused, match="window is 100 tokens; the prompt takes 90 and up to 11 of the answer"
    ) as refusal:
        room.limit(11)
    assert refusal.value.code == "context_length_exceeded"
    with pytest.raises(Refused, match=r"the prompt takes 100$"):
        Room(window=100, prompt_tokens=100).limit(None)
