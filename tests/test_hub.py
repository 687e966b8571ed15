"""The push to the Hub: only when asked for, private unless told, against a stand-in on this machine."""

import asyncio
import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from starling import cli

SECRET = "hf_not_a_real_token"
ROW = {
    "prompt": "\n\nHuman: hi\n\nAssistant: ",
    "answers": [{"answer": "a", "rank": 1}, {"answer": "b", "rank": 2}],
}


class Hub:
    """Takes what the Hub's own client sends: makes data sets, tells of them, keeps committed files."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, str]] = []
        self.private: dict[str, bool] = {}
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
        name = path.removeprefix("/api/datasets/")
        if name not in self.private:
            return web.json_response({"error": "not found"}, status=404)
        return web.json_response({"id": name, "private": self.private[name], "sha": "0" * 40, "tags": []})

    def _create(self, asked: dict[str, Any]) -> web.Response:
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        status = 409 if name in self.private else 200
        self.private.setdefault(name, asked.get("private", asked.get("visibility") == "private"))
        return web.json_response({"url": f"{self.url}/datasets/{name}", "name": name}, status=status)

    def _commit(self, path: str, body: bytes) -> web.Response:
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        address = f"{self.url}/{path.removeprefix('/api/').partition('/commit/')[0]}/commit/{'0' * 40}"
        return web.json_response({"commitUrl": address, "commitOid": "0" * 40, "success": True, "hookOutput": ""})


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "rankings.jsonl"
    path.write_text(json.dumps(ROW) + "\n")
    return path


def exporting(table: Path, hub: Hub, *more: str, token: str = SECRET) -> subprocess.CompletedProcess[str]:
    """`starling export` in a process of its own, whose Hub is the stand-in."""
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": token}
    command = [sys.executable, "-m", "starling.cli", "export", str(table), "--to", "trl"]
    return subprocess.run(
        [*command, "--out", str(table.parent / "out"), *more],
        capture_output=True, text=True, env=environment, check=False, timeout=120,
    )  # fmt: skip


def test_without_the_flag_nothing_is_called(table: Path, hub: Hub) -> None:
    assert exporting(table, hub).returncode == 0
    assert hub.requests == []


def test_a_push_is_private_with_the_token_and_every_file(table: Path, hub: Hub) -> None:
    done = exporting(table, hub, "--push", "me/rankings")
    assert done.returncode == 0, done.stderr
    assert f"pushed to {hub.url}/datasets/me/rankings" in done.stdout
    assert hub.private == {"me/rankings": True}
    about_us = [authorised for _, path, authorised in hub.requests if "me/rankings" in path]
    assert about_us == [f"Bearer {SECRET}"] * 3
    out = table.parent / "out"
    assert hub.files == {path.name: path.read_bytes() for path in out.iterdir()}
    assert SECRET not in done.stdout + done.stderr + "".join(path.name for path in out.iterdir())


def test_a_public_data_set_is_made_only_when_told_and_never_by_surprise(table: Path, hub: Hub) -> None:
    assert exporting(table, hub, "--push", "me/open", "--public").returncode == 0
    assert hub.private == {"me/open": False}
    hub.files.clear()
    again = exporting(table, hub, "--push", "me/open")
    assert again.returncode == 2 and "me/open is public on the Hub; add --public" in again.stderr
    assert hub.files == {}
    hub.private["me/closed"] = True
    closed = exporting(table, hub, "--push", "me/closed", "--public")
    assert closed.returncode == 2 and "me/closed is private on the Hub" in closed.stderr
    assert hub.files == {}


def test_a_refusal_is_one_line_without_the_token_and_the_export_stands(table: Path, hub: Hub) -> None:
    hub.refuses = True
    done = exporting(table, hub, "--push", "me/rankings")
    assert done.returncode == 1
    assert done.stderr.startswith("error: export: pushing to me/rankings failed; the export stands in ")
    assert done.stderr.count("\n") == 1 and SECRET not in done.stderr
    assert (table.parent / "out" / "train.parquet").exists()


@pytest.mark.parametrize(
    ("arguments", "token", "message"),
    [
        (["--push", "me/rankings"], "", "needs a token of yours in the environment variable HF_TOKEN; it is not set"),
        (["--push", "rankings"], SECRET, "'rankings' is no name on the Hub; write OWNER/NAME"),
        (["--push", "me/a/b"], SECRET, "write OWNER/NAME"),
        (["--public"], SECRET, "--public goes with --push"),
    ],
)
def test_what_is_missing_is_one_line_before_anything_is_written(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments, token, message
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    assert cli.main(["export", str(table), "--to", "trl", "--out", str(table.parent / "out"), *arguments]) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1
    assert [path.name for path in table.parent.iterdir()] == ["rankings.jsonl"]
