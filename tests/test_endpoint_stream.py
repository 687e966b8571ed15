"""An endpoint's answer as it is being written."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from servers import Payload, Server, fails, half_json, hangs, says

from starling.endpoint_stream import Written, written
from starling.endpoints import Endpoint
from starling.errors import CallError

ASK: Any = [{"role": "user", "content": "Hi"}]


def endpoint(url: str, **more: Any) -> Endpoint:
    return Endpoint(name="scripted", urls=[url], model="m", **({"timeout_seconds": 5.0} | more))


def streams(*events: str, end: bytes = b"data: [DONE]\n\n") -> Callable:
    async def behave(request: web.Request, payload: Payload) -> web.StreamResponse:
        assert payload["stream"]
        assert "max_tokens" not in payload
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b": a comment\r\n\r\n")
        for event in events:
            raw = f"data: {event}\n\n".encode()
            await response.write(raw[:9])  # pieces of the network are no pieces of the text
            await response.write(raw[9:])
        await response.write(end)
        return response

    return behave


def delta(text: str | None, finish: str | None = None) -> str:
    return json.dumps({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]})


def heard(behaviour: Callable, **more: Any) -> list[Written]:
    with Server(behaviour) as server:
        found = [piece for piece in written(endpoint(server.url, **more), ASK) if piece != Written()]
    return found


def test_pieces_come_in_order_with_the_endpoint_s_own_count_last() -> None:
    usage = json.dumps({"choices": [], "usage": {"completion_tokens": 7}})
    assert heard(streams(delta(None), delta("Hel"), delta("lo \u4f60"), delta(None, "length"), usage)) == [
        Written("Hel"), Written("lo \u4f60"), Written("", None, True), Written("", 7),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("finish", "cut"), [("length", True), ("max_tokens", True), ("model_length", True), ("stop", False)]
)
def test_an_answer_that_the_cap_cut_is_known_whatever_the_endpoint_calls_it(finish: str, cut: bool) -> None:
    assert heard(streams(delta("a", finish))) == [Written("a", None, cut)]


def test_a_piece_may_come_in_parts() -> None:
    parts = {"choices": [{"delta": {"content": [{"type": "text", "text": "Hel"}, {"text": "lo"}, {"type": "image"}]}}]}
    assert heard(streams(json.dumps(parts))) == [Written("Hello")]


def test_an_endpoint_that_does_not_stream_answers_in_one_piece() -> None:
    assert heard(says("all at once")) == [Written("all at once", 3)]


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        (fails(401), "the endpoint refuses calls without a key"),
        (fails(404), "no model 'm'"),
        (fails(429), "too many requests"),
        (half_json, "the reply is no chat completion"),
        (streams(delta("a"), json.dumps({"error": {"message": "out of memory"}})), "out of memory"),
        (streams("{half"), "a piece of the stream is no chat completion"),
        (streams("[1, 2]"), "a piece of the stream is no chat completion"),
        (streams(json.dumps({"choices": ["x"]})), "a piece of the stream is no chat completion"),
    ],
    ids=["401", "404", "429", "half a reply", "error in the stream", "half an event", "a list", "no choice"],
)
def test_what_goes_wrong_is_one_line_with_the_endpoint_s_name(behaviour: Callable, said: str) -> None:
    with pytest.raises(CallError, match=f"scripted: .*{said}"):
        heard(behaviour)


def test_nobody_there_and_nothing_said_end_in_a_line() -> None:
    with pytest.raises(CallError, match=r"the connection to http://127.0.0.1:1/v1/chat/completions failed"):
        list(written(endpoint("http://127.0.0.1:1"), ASK))
    with pytest.raises(CallError, match=r"nothing came for 0.3 s"):
        heard(hangs, timeout_seconds=0.3)


def test_closing_while_nothing_comes_breaks_the_call_off_at_once() -> None:
    with Server(hangs) as server:
        begun = time.monotonic()
        pieces = written(endpoint(server.url), ASK)
        assert next(pieces) == Written()
        pieces.close()
        assert time.monotonic() - begun < 4
