"""A server of ours at work in a thread of its own, for as long as a test asks it."""

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib import request
from urllib.error import HTTPError

from starling import serve
from starling.engine import Engine
from starling.listening import bound
from starling.offer import Offer


@dataclass
class Served:
    """Where it stands, and the engine inside, to look at."""

    url: str
    engine: Engine

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        """Status and content of a plain call; a text is sent as it is."""
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        named = {"Content-Type": "application/json"} | {key.replace("_", "-"): value for key, value in headers.items()}
        return self._send(request.Request(self.url + path, data=data, headers=named))

    def get(self, path: str, **headers: str) -> tuple[int, Any]:
        return self._send(request.Request(self.url + path, headers=headers))

    def _send(self, call: request.Request) -> tuple[int, Any]:
        try:
            with request.urlopen(call, timeout=60) as reply:
                return reply.status, json.load(reply)
        except HTTPError as error:
            return error.code, json.load(error)


@contextmanager
def serving(offer: Offer, key: str = "") -> Iterator[Served]:
    """Serve on a free port of this machine."""
    listening = bound("serve", "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    begun = threading.Event()
    found: dict[str, Any] = {}

    async def work() -> None:
        found["loop"], found["stop"] = asyncio.get_running_loop(), asyncio.Event()
        async with serve.running(offer, listening, key) as engine:
            found["engine"] = engine
            begun.set()
            await found["stop"].wait()

    thread = threading.Thread(target=asyncio.run, args=(work(),))
    thread.start()
    try:
        assert begun.wait(60)
        yield Served(url, found["engine"])
    finally:
        found["loop"].call_soon_threadsafe(found["stop"].set)
        thread.join(30)
        assert not thread.is_alive(), "the server does not end"
        listening.close()
