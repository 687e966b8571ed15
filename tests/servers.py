"""A real chat server on 127.0.0.1 that answers, or fails, as a test scripts it; and a judge that lives behind it."""

import asyncio
import json
import re
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Self

from aiohttp import web
from app_server import serving

Payload = dict[str, Any]
Behaviour = Callable[[web.Request, Payload], Awaitable[web.StreamResponse]]


def completion(
    text: str | None, *, finish: str = "stop", prompt_tokens: int = 7, completion_tokens: int = 3
) -> Payload:
    return {
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens},
    }


def says(text: str | None, *, seconds: float = 0.0, **fields: Any) -> Behaviour:
    async def behave(request: web.Request, payload: Payload) -> web.StreamResponse:
        await asyncio.sleep(seconds)
        return web.json_response(completion(text, **fields))

    return behave


async def echoes(request: web.Request, payload: Payload) -> web.StreamResponse:
    return web.json_response(completion("echo " + payload["messages"][-1]["content"]))


def replies_with(write: Callable[[str], str]) -> Behaviour:
    """Answer with a function of the last message."""

    async def behave(request: web.Request, payload: Payload) -> web.StreamResponse:
        return web.json_response(completion(write(payload["messages"][-1]["content"])))

    return behave


def fails(status: int, message: str = "scripted", **headers: str) -> Behaviour:
    async def behave(request: web.Request, payload: Payload) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.json_response({"error": {"message": message}}, status=status, headers=named)

    return behave


async def hangs(request: web.Request, payload: Payload) -> web.StreamResponse:
    await asyncio.sleep(30)
    return web.Response()


async def half_json(request: web.Request, payload: Payload) -> web.StreamResponse:
    text = json.dumps(completion("half"))
    return web.Response(text=text[: len(text) // 2], content_type="application/json")


async def counts_endless_tokens(request: web.Request, payload: Payload) -> web.StreamResponse:
    text = json.dumps(completion("much") | {"usage": {"prompt_tokens": 1e999, "completion_tokens": 1}})
    return web.Response(text=text, content_type="application/json")


async def wrong_content(request: web.Request, payload: Payload) -> web.StreamResponse:
    return web.Response(text="<html>Welcome to the hotel</html>", content_type="text/html")


async def resets(request: web.Request, payload: Payload) -> web.StreamResponse:
    assert request.transport is not None
    raw = request.transport.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing sends RST, not FIN
    request.transport.abort()
    return web.Response()


async def breaks_off(request: web.Request, payload: Payload) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"choices": [')
    assert request.transport is not None
    request.transport.abort()
    return response


async def drips(request: web.Request, payload: Payload) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    for byte in json.dumps(completion("drip")).encode():
        await response.write(bytes([byte]))
        await asyncio.sleep(0.05)
    return response


class Server:
    """Serves in a thread of its own: first the scripted behaviours, one per request, then `always`."""

    def __init__(self, *script: Behaviour, always: Behaviour = echoes) -> None:
        self.requests: list[Payload] = []
        self.headers: list[dict[str, str]] = []
        self.busiest = 0
        self._busy = 0
        self._script = list(script)
        self._always = always

    def __enter__(self) -> Self:
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/v1/chat/completions", self._handle)
        self._serving = serving(app)
        self.url = self._serving.__enter__() + "/v1"
        return self

    def __exit__(self, *_: object) -> None:
        self._serving.__exit__(None, None, None)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        payload = await request.json()
        self.requests.append(payload)
        self.headers.append(dict(request.headers))
        behaviour = self._script.pop(0) if self._script else self._always
        self._busy += 1
        self.busiest = max(self.busiest, self._busy)
        try:
            return await behaviour(request, payload)
        finally:
            self._busy -= 1

    def asked(self) -> list[str]:
        """The last message of each request, in the order they came."""
        return [payload["messages"][-1]["content"] for payload in self.requests]


def shown_answers(prompt: str) -> dict[str, str]:
    """The answers that a judge is shown, by letter; the frame is known by the tag that the instructions name."""
    tag = re.search(r"<<answer A (\w+)>>", prompt)
    assert tag is not None
    found = re.findall(
        rf"^<<answer (\w) {tag[1]}>>\n(.*?)\n<<end of answer \1 {tag[1]}>>$", prompt, re.DOTALL | re.MULTILINE
    )
    return dict(found)


def ranking_judge(quality: Callable[[str], float], *, good_natured: bool = True) -> Callable[[str], str]:
    """A judge that ranks by `quality`, in the form it is asked for: pairs in the given order, then the list."""

    def write(prompt: str) -> str:
        answers = shown_answers(prompt)
        best_first: Sequence[str] = sorted(answers, key=lambda letter: -quality(answers[letter]))
        pairs = re.findall(r"^(\w) vs (\w):$", prompt, re.MULTILINE)
        lines = [f"{one} vs {other}: {min(one, other, key=best_first.index)}" for one, other in pairs]
        said = "yes" if good_natured else "no"
        return "\n".join([f"Good-natured: {said}", *lines, f"Ranking: [[{', '.join(best_first)}]]"])

    return write
