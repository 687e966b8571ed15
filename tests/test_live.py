"""`starling report --live`: the page of a run that is being written to."""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import runs
import small_road
from page_reader import Page, at

from starling import cli, digest, figures, live
from starling.at_work import alone
from starling.live import View
from starling.metrics import Recorder
from starling.stages import report
from starling.standing import said, standing
from starling.store import Run, is_run


@pytest.fixture
def fitting(tmp_path: Path) -> Iterator[Run]:
    """A run in which a process is at work on `fit`, two steps in."""
    with runs.fitting(tmp_path / "run") as run:
        yield run


def view(root: Path, gather: Callable[[Run], Any] = report.gather) -> View[Any]:
    return View(root, gather, report.live)


def files(root: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in root.rglob("*") if path.is_file()}


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
    with alone(run.root):
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
    view(fitting.root).look()
    assert files(fitting.root) == before


def test_the_road_shows_the_time_of_the_stage_under_way_as_it_passes(fitting: Run) -> None:
    seen = view(fitting.root)
    first = seen.look()[0]
    os.utime(fitting.root / "manifest.json", times=(time.time() - 90, time.time() - 90))  # as if begun 90 s ago
    numbers, text = seen.look()
    entry = numbers["road"][3]
    assert entry["state"] == "under way" and entry["seconds"] == pytest.approx(90, abs=20)
    assert numbers["seconds"] - first["seconds"] == pytest.approx(entry["seconds"] - first["road"][3]["seconds"])
    page = Page(text)
    assert "fit under way" in page.text and "so far" in page.text
    assert [kind for kind, place, said in page.numbers if figures.FORMATS[kind](at(numbers, place)) != said] == []


def test_a_run_whose_process_is_gone_is_told_from_a_slow_one_at_the_next_look(tmp_path: Path) -> None:
    with runs.fitting(tmp_path / "run") as run:
        seen = view(run.root)
        assert "just begun" in seen.look()[0]["live"]["lines"][0]
    numbers, text = seen.look()
    assert "; stopped, last heard of at " in numbers["live"]["lines"][0]
    assert numbers["road"][3]["state"] == "stopped"
    assert "fit stopped" in Page(text).text


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
        seen = View(root, digest.digest, lambda numbers, _, said: ({**numbers, "live": said}, ""))
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
    done_with = Run.read(root)
    assert said(done_with, standing(done_with, 0.0), 0.0) == "No stage is under way; the next is tune."
    assert not list(root.glob("progress.json*"))
