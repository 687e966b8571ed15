"""Bodies POSTed to a server of our own: replies in order, asked again where the connection breaks."""

import pytest
from servers import Server, echoes, fails, resets

from starling import posting
from starling.errors import CallError


def body(text: str) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text}]}


def read(number: int, status: int, text: str) -> tuple[int, int, bool]:
    return number, status, f"echo {number}" in text


def test_each_body_has_its_reply_in_its_place_and_the_key_goes_along() -> None:
    with Server(always=echoes) as server:
        url = f"{server.url}/chat/completions"
        assert posting.post_all(url, [body("0"), body("1"), body("2")], read, key="k") == [
            (0, 200, True), (1, 200, True), (2, 200, True)
        ]  # fmt: skip
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer k"}


def test_a_broken_connection_is_tried_again_and_a_status_is_the_readers() -> None:
    with Server(resets, fails(404), always=echoes) as server:
        assert posting.post_all(f"{server.url}/chat/completions", [body("0")], read) == [(0, 404, False)]
    assert len(server.requests) == 2


def test_a_connection_that_stays_broken_is_told_with_how_often_it_was_tried() -> None:
    with Server(always=resets) as server, pytest.raises(CallError, match=r"asked 3 times: .*; is the server running\?"):
        posting.post_all(f"{server.url}/chat/completions", [body("0")], read)
    assert len(server.requests) == posting.ATTEMPTS
