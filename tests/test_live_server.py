"""The server of `starling report --live`: over HTTP, and as a command."""

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import runs
from aiohttp import ClientSession
from aiohttp.test_utils import TestClient, TestServer
from page_reader import Page

from starling import cli, live
from starling.listening import bound
from starling.live import Server, View
from starling.metrics import Recorder
from starling.stages import report
from starling.store import Run
from starling.underway import Keeper


@pytest.fixture
def fitting(tmp_path: Path) -> Iterator[Run]:
    """A run in which a process is at work on `fit`, two steps in."""
    with runs.fitting(tmp_path / "run") as run:
        yield run


def view(root: Path) -> View[Any]:
    return View(root, report.gather, report.live)


def asked(root: Path, ask: Callable[[TestClient[Any, Any]], Awaitable[Any]]) -> Any:
    """What `ask` finds out from a server of this run."""

    async def work() -> Any:
        async with TestClient(TestServer(Server(view(root)).app())) as client:
            return await ask(client)

    return asyncio.run(work())


def test_page_and_numbers_come_over_http_and_are_not_kept(fitting: Run) -> None:
    async def ask(client: TestClient[Any, Any]) -> tuple[Any, Any, Any]:
        page, numbers = await client.get("/"), await client.get("/report.json")
        return page.headers, await page.text(), await numbers.json()

    headers, text, numbers = asked(fitting.root, ask)
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    assert Page(text).unbalanced == []
    assert [line["fit/nll"] for line in numbers["fit"]["curve"]] == [1.5, 1.25]


def test_other_names_of_this_machine_are_refused(fitting: Run) -> None:
    async def ask(client: TestClient[Any, Any]) -> list[int]:
        names = ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost")
        return [(await client.get("/", headers={"Host": name})).status for name in names]

    assert asked(fitting.root, ask) == [403, 403, 403, 200]


def test_what_is_not_there_and_what_cannot_be_read_is_a_line(fitting: Run) -> None:
    async def ask(client: TestClient[Any, Any]) -> list[tuple[int, str]]:
        found = []
        for path in ("/config.toml", "/../config.toml", "/"):
            answer = await client.get(path)
            found.append((answer.status, await answer.text()))
            if path.startswith("/.."):
                fitting.metrics_path.write_text('{"torn\n{"stage": "fit", "step": 1}\n')
        fitting.metrics_path.unlink()
        found.append(((await client.get("/")).status, ""))
        (fitting.root / "manifest.json").unlink()
        gone = await client.get("/")
        return [*found, (gone.status, await gone.text())]

    missing, _, torn, mended, gone = asked(fitting.root, ask)
    assert missing == (404, "GET /config.toml: Not Found")
    assert torn[0] == 503 and "metrics.jsonl:1: not a line of metrics" in torn[1]
    assert mended[0] == 200
    assert gone[0] == 503 and gone[1].startswith("run: there is no run in ") and gone[1].count("\n") == 0


def test_clients_that_go_away_in_the_middle_do_no_harm(fitting: Run) -> None:
    async def work() -> int:
        with bound("report", "127.0.0.1", 0) as listening:
            place = listening.getsockname()
            async with live.running(view(fitting.root), listening):
                for _ in range(5):
                    with socket.create_connection(place) as gone:
                        gone.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
                with socket.create_connection(place) as half:
                    half.sendall(b"GET / HT")
                    async with ClientSession() as client, client.get(f"http://127.0.0.1:{place[1]}/") as answer:
                        return answer.status

    assert asyncio.run(work()) == 200


def test_a_page_can_be_asked_for_while_the_run_writes(fitting: Run) -> None:
    """Every look on the way finds a whole state: manifest and metrics are replaced and appended to all the time."""
    stop = threading.Event()

    def write() -> None:
        recorder, keeper = Recorder(fitting.metrics_path, "fit"), Keeper(fitting.progress_path, "fit", 0.0)
        step = 2
        while not stop.is_set():
            step += 1
            recorder.log(step, {"nll": 1.0, "pair_accuracy": 0.5})
            keeper.note("fit", step, 1_000_000, "tokens", "")
            fitting.spent("fit", 0.0)
            if step % 10 == 0:
                recorder.rewind(5)
                step = 5
            time.sleep(0.002)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = view(fitting.root)
        for _ in range(3):
            seen._rest_until = 0.0
            assert seen.look()[0]["fit"]["curve"][1]["fit/nll"] == 1.25
    finally:
        stop.set()
        writer.join()


# the command


def started(root: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "starling.cli", "report", "--live", str(root), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_commands_serve_one_run_until_ctrl_c(fitting: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with started(fitting.root) as one, started(fitting.root, "--json") as other:
        assert one.stdout is not None and other.stderr is not None
        addresses = []
        for line in (one.stdout.readline(), other.stderr.readline()):
            found = re.fullmatch(r"report: (\S+) live on (http://127\.0\.0\.1:\d+/); Ctrl-C ends it\n", line)
            assert found and found[1] == str(fitting.root)
            addresses.append(found[2])
        assert len(set(addresses)) == 2
        for address in addresses:
            with urlopen(address, timeout=60) as reply:
                assert b"under way" in reply.read()
        port = addresses[0].rpartition(":")[2].rstrip("/")
        assert cli.main(["report", "--live", str(fitting.root), "--port", port]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: report: port {port} on 127.0.0.1 is in use") and said.count("\n") == 1
        for server in (one, other):
            server.send_signal(signal.SIGINT)
        assert one.communicate(timeout=60) == ("report: closed\n", "")
        out, err = other.communicate(timeout=60)
        assert (one.returncode, other.returncode, err) == (0, 0, "report: closed\n")
        assert json.loads(out) == {"address": addresses[1], "run": str(fitting.root)}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--live", "{run}", "{run}"],
            "report: --live serves one RUN and takes no --out; start it once for each",
        ),
        (["--port", "8000", "{run}"], "report: --port goes with --live"),
        (["--live", "{run}/none"], "run: there is no run in {run}/none (no manifest.json)"),
    ],
    ids=["two runs", "port alone", "no run"],
)
def test_a_call_that_cannot_be_is_told_in_a_line(
    fitting: Run, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["report", *(option.format(run=fitting.root) for option in options)]) == 2
    assert capsys.readouterr().err == f"error: {said.format(run=fitting.root)}\n"
