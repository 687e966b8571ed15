"""Who asks for a page on loopback by another name than this machine's is refused before the page hears of it."""

import asyncio
from typing import Any

import pytest

from starling.host_check import OwnNames


def asked(kind: str, *hosts: str) -> tuple[bool, list[dict[str, Any]]]:
    """Whether the page heard of a request with these Host headers, and what was sent back for it."""
    heard, sent = [], []

    async def page(scope: Any, receive: Any, send: Any) -> None:
        heard.append(scope)

    async def receive() -> dict[str, Any]:
        return {}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": kind} if kind == "lifespan" else {
        "type": kind, "headers": [(b"accept", b"*/*"), *((b"host", host.encode("latin-1")) for host in hosts)]
    }  # fmt: skip
    asyncio.run(OwnNames(page)(scope, receive, send))
    return bool(heard), sent


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost", "localhost:1", "[::1]:7860", "[::1]", "127.8.0.1"])
def test_this_machines_own_names_are_let_in(kind: str, host: str) -> None:
    assert asked(kind, host) == (True, [])


OTHERS = [
    "evil.example", "evil.example:7860", "127.0.0.1.evil.example", "evil.example@127.0.0.1", "127.0.0.1#.evil.example",
    "[::1", "[::1].evil.example", "[::2]:7860", "::1", "0.0.0.0", "", " localhost", "localhost\n", "localh\u00f6st",
]  # fmt: skip


@pytest.mark.parametrize("host", OTHERS)
def test_any_other_name_gets_403(host: str) -> None:
    heard, (start, body) = asked("http", host)
    assert not heard
    assert (start["status"], body["body"]) == (403, b"only this machine's own names are served")
    assert asked("websocket", host) == (False, [{"type": "websocket.close", "code": 1008}])


def test_none_or_two_names_are_none_of_this_machines() -> None:
    assert not asked("http")[0] and not asked("http", "localhost", "evil.example")[0]


def test_the_servers_start_is_let_through() -> None:
    assert asked("lifespan") == (True, [])
