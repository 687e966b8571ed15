"""A stand-in for the Hugging Face Hub on this machine, and `starling export` in a process that knows no other."""

import asyncio
import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

SECRET = "hf_not_a_real_token"


class Hub:
    """Takes what the Hub's own client sends: makes data sets and models, tells of them, keeps committed files."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, str]] = []
        self.private: dict[str, bool] = {}
        self.kinds: dict[str, str] = {}
        self.files: dict[str, bytes] = {}
        self.refuses = False
        self._loop = asyncio.new_event_loop()

    def start(self) -> None:
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.url = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _start(self) -> str:
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}"

    async def _handle(self, request: web.Request) -> web.Response:
        path = request.path
        self.requests.append((request.method, path, request.headers.get("Authorization", "")))
        if self.refuses:
            return web.json_response({"error": f"no right with {SECRET}"}, status=403)
        body = await request.read()
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path.endswith("/validate-yaml"):
            return web.json_response({"errors": [], "warnings": []})
        if "/preupload/" in path:
            asked = json.loads(body)["files"]
            return web.json_response(
                {"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in asked]}
            )
        if "/commit/" in path:
            return self._commit(path, body)
        kind, _, name = path.removeprefix("/api/").partition("/")
        if self.kinds.get(name) != kind or name not in self.private:
            return web.json_response({"error": "not found"}, status=404)
        return web.json_response({"id": name, "private": self.private[name], "sha": "0" * 40, "tags": []})

    def _create(self, asked: dict[str, Any]) -> web.Response:
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        status = 409 if name in self.private else 200
        kind = asked.get("type") or "model"
        self.kinds.setdefault(name, f"{kind}s")
        self.private.setdefault(name, asked.get("private", asked.get("visibility") == "private"))
        return web.json_response(
            {"url": f"{self.url}/{'datasets/' * (kind == 'dataset')}{name}", "name": name}, status=status
        )

    def _commit(self, path: str, body: bytes) -> web.Response:
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        address = f"{self.url}/{path.removeprefix('/api/').partition('/commit/')[0]}/commit/{'0' * 40}"
        return web.json_response({"commitUrl": address, "commitOid": "0" * 40, "success": True, "hookOutput": ""})


@contextmanager
def running() -> Iterator[Hub]:
    server = Hub()
    server.start()
    yield server
    server.stop()


def exporting(source: Path, hub: Hub, *more: str, token: str = SECRET) -> subprocess.CompletedProcess[str]:
    """`starling export` in a process of its own, whose Hub is the stand-in."""
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": token}
    return subprocess.run(
        [sys.executable, "-m", "starling.cli", "export", str(source), *more],
        capture_output=True, text=True, env=environment, check=False, timeout=120,
    )  # fmt: skip
