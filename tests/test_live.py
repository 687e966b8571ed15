"""`starling report --live`: the page of a run that is being written to."""

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import runs
import small_road
from aiohttp import ClientSession
from aiohttp.test_utils import TestClient, TestServer
from page_reader import Page, at

from starling import cli, digest, figures, live
from starling.at_work import alone
from starling.listening import bound
from starling.live import Server, View, state
from starling.metrics import Recorder
from starling.stages import report
from starling.store import Run, is_run
from starling.underway import Keeper, Note

BEFORE_FIT = ("prompts", "sample", "rank")


@pytest.fixture
def fitting(tmp_path: Path) -> Run:
    """A run in which `fit` is under way, two steps in."""
    run = runs.make(tmp_path / "run", BEFORE_FIT)
    run.started("fit")
    recorder = Recorder(run.metrics_path, "fit")
    recorder.log(1, {"nll": 1.5, "pair_accuracy": 0.5})
    recorder.log(2, {"nll": 1.25, "pair_accuracy": 0.6})
    Keeper(run.progress_path, "fit").note("fit", 1200, 4800, "tokens", "nll 1.250")
    return run


def view(root: Path, gather: Callable[[Run], Any] = report.gather) -> View[Any]:
    return View(root, gather, report.live)


def asked(root: Path, ask: Callable[[TestClient[Any, Any]], Awaitable[Any]]) -> Any:
    """What `ask` finds out from a server of this run."""

    async def work() -> Any:
        async with TestClient(TestServer(Server(view(root)).app())) as client:
            return await ask(client)

    return asyncio.run(work())


def files(root: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in root.rglob("*") if path.is_file()}


def note_of(run: Run, **changes: Any) -> None:
    note = Note(
        stage="fit", what="fit", done=1200, total=4800, unit="tokens", remark="", rate=10.0, at=run.saved_at + 5
    )
    run.progress_path.write_text(json.dumps(asdict(note) | changes))


# what it says of the run


def test_a_stage_says_how_far_it_is_and_how_long_to_go(fitting: Run) -> None:
    note_of(fitting, remark="nll 1.250")
    # 3600 tokens at 10 a second are 360 s; last heard of 3 s before
    assert state(fitting, fitting.saved_at + 8) == [
        "fit: 1,200 of 4,800 tokens (25.0 %), about 6 min 0 s left, nll 1.250. Last heard of 3.0 s ago."
    ]


def test_a_stage_that_has_just_begun_says_so(fitting: Run) -> None:
    note_of(fitting, rate=None)
    assert state(fitting, fitting.saved_at + 6) == [
        "fit: 1,200 of 4,800 tokens (25.0 %), just begun. Last heard of 1.0 s ago."
    ]


def test_a_bound_that_is_passed_leaves_no_time(fitting: Run) -> None:
    note_of(fitting, done=5000)
    assert "(100 %), about 0.0 s left" in state(fitting, fitting.saved_at + 6)[0]


def test_an_interrupted_stage_is_told_from_one_at_work(fitting: Run) -> None:
    note_of(fitting, at=fitting.saved_at - 1)
    assert re.fullmatch(
        r"fit: 1,200 of 4,800 tokens \(25\.0 %\); interrupted at \d\d:\d\d:\d\d\. `starling run --run \S+` goes on\.",
        state(fitting, time.time())[0],
    )


def test_a_note_of_another_stage_is_not_taken_for_this_one(fitting: Run) -> None:
    note_of(fitting, stage="rank")
    assert re.fullmatch(r"fit: under way since \d\d:\d\d:\d\d\.", state(fitting, time.time())[0])
    fitting.progress_path.unlink()
    assert re.fullmatch(r"fit: under way since \d\d:\d\d:\d\d\.", state(fitting, time.time())[0])


def test_between_stages_and_after_the_last_it_says_so(tmp_path: Path) -> None:
    assert state(runs.make(tmp_path / "some", BEFORE_FIT), 0.0) == ["No stage is under way; the next is fit."]
    done = runs.make(tmp_path / "all")
    done.started("report")
    done.finished("report", {})
    assert state(done, 0.0) == ["All stages are done; nothing more will change."]


# the page


def test_the_page_of_a_running_stage_has_its_curves_state_and_renewing(fitting: Run) -> None:
    numbers, text = view(fitting.root).look()
    page = Page(text)
    shown = {place: said for _, place, said in page.numbers}
    assert shown["/live/lines/0"].startswith(
        "fit: 1,200 of 4,800 tokens (25.0 %), just begun, nll 1.250. Last heard of "
    )
    assert re.fullmatch(r"Figures as of \d\d:\d\d:\d\d; looked at again every 5 s\.", shown["/live/lines/1"])
    assert "nll from 1.50 at step 1 to 1.25 at step 2" in text
    assert "under way" in page.text
    assert next(a["data-seconds"] for _, a in page.elements if a.get("id") == "live") == "5"
    assert [kind for kind, place, said in page.numbers if figures.FORMATS[kind](at(numbers, place)) != said] == []
    assert page.unbalanced == [] and page.open == [] and len(page.ids()) == len(set(page.ids()))


@pytest.mark.parametrize(
    "done", range(len(runs.ALL) + 1), ids=lambda done: "nothing" if not done else runs.ALL[done - 1]
)
def test_a_run_can_be_watched_from_its_first_stage_to_its_last(tmp_path: Path, done: int) -> None:
    run = runs.make(tmp_path / "run", runs.ALL[:done])
    current = (*runs.ALL, "report")[done]
    run.started(current)
    if current == "tune":
        recorder = Recorder(run.metrics_path, "tune")
        recorder.log(0, {"validation/win_rate": 0.5, "validation/mean_length": 40.0})
        recorder.log(1, {"reward": float("nan")})
    page = Page(view(run.root).look()[1])
    assert f"{current}: under way since" in page.text
    assert page.unbalanced == [] and page.open == []


def test_only_the_live_page_may_ask_its_server_and_only_with_the_one_script(fitting: Run) -> None:
    policies = {}
    report.run(fitting)
    for name, text in (("file", fitting.report_path.read_text()), ("live", view(fitting.root).look()[1])):
        page = Page(text)
        policies[name] = next(str(a["content"]) for tag, a in page.elements if a.get("http-equiv"))
        assert text.count("<script") == 1
    assert "connect-src" not in policies["file"]
    assert "connect-src 'self';" in policies["live"]
    assert all(policy.startswith("default-src 'none'; ") for policy in policies.values())
    script = (Path(report.__file__).parent.parent / "pages" / "live.js").read_text()
    assert re.findall(r"fetch\(([^,)]*)", script) == ["location.pathname"]
    assert not re.search(r"https?:|XMLHttpRequest|import\(|innerHTML\s*=[^=]|eval\(", script)


def test_looking_changes_nothing_in_the_run_and_needs_no_lock(fitting: Run) -> None:
    before = files(fitting.root)
    with alone(fitting.root):
        view(fitting.root).look()
    assert files(fitting.root) == before


def test_a_look_sees_new_steps_and_draws_only_when_something_changed(fitting: Run) -> None:
    drawn = []

    def gather(run: Run) -> report.Gathered:
        drawn.append(run)
        return report.gather(run)

    seen = view(fitting.root, gather)
    seen.look()
    seen.look()
    assert len(drawn) == 1
    seen._rest_until = 0.0
    Recorder(fitting.metrics_path, "fit").log(3, {"nll": 1.0})
    assert "to 1.00 at step 3" in seen.look()[1]
    assert len(drawn) == 2


def test_drawing_leaves_the_processor_to_the_run_and_says_how_old_the_figures_are(fitting: Run) -> None:
    seen = view(fitting.root)
    begun = time.thread_time()
    first = seen.look()[0]["live"]["lines"][-1]
    took = time.thread_time() - begun
    assert 0 < seen._rest_until - time.monotonic() <= live.REST * took
    Recorder(fitting.metrics_path, "fit").log(3, {"nll": 1.0})
    seen._read_at -= 3600  # as if it had been read an hour ago
    numbers, text = seen.look()
    assert "at step 3" not in text
    assert numbers["live"]["lines"][-1] != first
    fitting.spent("fit", 0.1)
    assert "at step 3" in seen.look()[1], "the end of a stage is not waited for"


def test_a_line_that_is_being_written_is_passed_over(fitting: Run) -> None:
    with fitting.metrics_path.open("a") as file:
        file.write('{"stage": "fit", "st')
    assert "to 1.25 at step 2" in view(fitting.root).look()[1]


def test_a_real_run_can_be_watched_while_its_stages_are_at_work(tiny_model: Path, tmp_path: Path) -> None:
    root, found, done = tmp_path / "run", [], threading.Event()
    settings = small_road.recipe(tmp_path / "small", tiny_model, fit__epochs=8)

    def watch() -> None:
        seen = View(root, digest.digest, lambda numbers, said: ({**numbers, "live": said}, ""))
        while not done.is_set():
            if is_run(root):
                seen._rest_until = 0.0
                numbers = seen.look()[0]
                found.append((numbers["live"]["lines"][0], len(numbers["fit"]["curve"])))
            time.sleep(0.1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        assert cli.main(["run", str(settings), "--run", str(root), "--until", "fit"]) == 0
    finally:
        done.set()
        watcher.join()
    steps = [steps for line, steps in found if re.match(r"fit: [\d,]+ of [\d,]+ tokens \(\d", line)]
    assert len(set(steps)) > 2 and steps == sorted(steps)
    assert state(Run.read(root), 0.0) == ["No stage is under way; the next is tune."]
    assert not list(root.glob("progress.json*"))


# the server


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
