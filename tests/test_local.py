"""A model in this process as a chat model."""

from pathlib import Path
from threading import Event

import pytest
import torch

from starling import chat, models
from starling.errors import GivenUp
from starling.local import LocalChat
from starling.models import Model
from starling.records import Call, Message, Reply


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Model:
    return models.load_policy(str(tiny_model), torch.float32)


def call(word: str, max_tokens: int = 6, **more) -> Call:
    question = [Message(role="user", content=f"what is {word}?")]
    return Call(messages=question, max_tokens=max_tokens, **({"temperature": 1.0} | more))


CALLS = [call("rain"), call("spain"), call("the plain"), call("rain", draw=1)]


def ask(model: Model, calls: list[Call], **more) -> list:
    return LocalChat(model, "tiny", **({"seed": 1} | more)).chat(calls)


def test_each_call_gets_its_reply_in_order_whatever_the_slots(model: Model) -> None:
    replies = ask(model, CALLS)
    assert all(isinstance(reply, Reply) for reply in replies)
    assert [ask(model, [one])[0] for one in CALLS] == replies
    assert ask(model, CALLS, slots=2) == replies
    assert ask(model, CALLS[::-1])[::-1] == replies


def test_draw_and_seed_change_the_reply(model: Model) -> None:
    first, *_, again = ask(model, CALLS)
    assert first.text != again.text
    assert ask(model, CALLS[:1], seed=2)[0].text != first.text


def test_tokens_are_counted(model: Model) -> None:
    heard: list[int] = []
    replies = ask(model, CALLS, on_tokens=heard.append)
    for one, reply in zip(CALLS, replies, strict=True):
        assert reply.prompt_tokens == len(chat.prompt_ids(model.tokenizer, one.messages))
        assert 1 <= reply.completion_tokens <= 6
        assert reply.finished or reply.completion_tokens == 6
    assert sum(heard) == sum(reply.completion_tokens for reply in replies)


def test_an_answer_that_is_given_up_ends_at_the_next_token(model: Model) -> None:
    given_up, heard = Event(), []

    def on_tokens(count: int) -> None:
        heard.append(count)
        if len(heard) == 3:
            given_up.set()

    chat_model = LocalChat(model, "tiny", seed=1, on_tokens=on_tokens)
    endless = call("rain", max_tokens=400, temperature=5.0)
    with pytest.raises(GivenUp):
        chat_model.chat([endless], given_up)
    assert heard == [1, 1, 1]
    (whole,) = chat_model.chat([endless])  # nothing of it stays behind
    assert (whole,) == tuple(ask(model, [endless]))


def test_every_call_keeps_its_own_token_cap(model: Model) -> None:
    short, long = call("rain", max_tokens=2), call("spain", max_tokens=12)
    alone = ask(model, [short])[0]
    together, _ = ask(model, [short, long])
    assert together == alone
    assert (together.completion_tokens, together.finished) == (2, False)


def test_temperature_zero_is_the_same_for_every_draw(model: Model) -> None:
    one, other = ask(model, [call("rain", temperature=0.0), call("rain", temperature=0.0, draw=1)])
    assert one == other


def test_no_calls_get_no_replies(model: Model) -> None:
    assert ask(model, []) == []
