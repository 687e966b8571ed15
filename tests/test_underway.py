"""How far a stage is, in a file of the run."""

import threading
import time
from pathlib import Path

import pytest

from starling import progress, underway
from starling.underway import Keeper


def test_a_note_says_what_is_done_of_what(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    before = time.time()
    Keeper(path, "evaluate").note("evaluate base", 30, 120, "tokens", "")
    note = underway.read(path)
    assert note is not None
    assert (note.stage, note.what, note.done, note.total, note.unit) == ("evaluate", "evaluate base", 30, 120, "tokens")
    assert before <= note.at <= time.time()
    assert note.rate is None


def test_a_note_has_the_rate_that_the_bar_shows(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    with progress.noted_in(path, "fit"), progress.track("fit", 2_000_000, "tokens") as advance:
        begun = time.monotonic()
        time.sleep(0.05)
        advance(100, note="nll 0.5")
        took = time.monotonic() - begun
        note = underway.read(path)
    assert note is not None and note.rate is not None and note.remark == "nll 0.5"
    assert 100 / (took + 0.05) <= note.rate <= 100 / 0.05


def test_notes_come_now_and_then_but_a_new_bar_at_once(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    keeper = Keeper(path, "evaluate", seconds_between=60.0)
    for done in (1, 2, 3):
        keeper.note("evaluate base", done, 9, "tokens", "")
    assert (note := underway.read(path)) and note.done == 1
    keeper.note("evaluate tuned", 4, 9, "tokens", "")
    assert (note := underway.read(path)) and (note.what, note.done) == ("evaluate tuned", 4)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"stage": "fit"}', "null"])
def test_what_is_no_note_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "progress.json"
    assert underway.read(path) is None
    path.write_text(text)
    assert underway.read(path) is None


def test_bars_keep_notes_while_a_stage_is_at_work_and_none_stay_of_a_finished_one(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    path.write_text("of an earlier attempt")
    with progress.noted_in(path, "sample"):
        assert not path.exists()
        with progress.track("sample", 10, "tokens") as advance:
            advance(4, note="[B, A]")
            note = underway.read(path)
            assert note is not None and (note.stage, note.done, note.total, note.remark) == ("sample", 4, 10, "[B, A]")
    assert list(tmp_path.iterdir()) == []
    with progress.track("score", 10, "answers") as advance:
        advance(1)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_stage_leaves_its_last_note(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    with (
        pytest.raises(KeyboardInterrupt),
        progress.noted_in(path, "sample"),
        progress.track("sample", 10, "tokens") as advance,
    ):
        advance(4)
        raise KeyboardInterrupt
    assert (note := underway.read(path)) and note.done == 4
    with progress.track("score", 10, "answers") as advance:  # of nobody's stage
        advance(9)
    assert (note := underway.read(path)) and note.done == 4


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    with progress.noted_in(tmp_path / "gone" / "progress.json", "fit"), progress.track("fit", 2, "tokens") as advance:
        advance(1)
        advance(1)


def test_two_threads_may_advance_one_bar(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "progress.json", "tune", seconds_between=0.0)

    def work() -> None:
        for done in range(200):
            keeper.note("tune", done, 200, "tokens", "")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (note := underway.read(tmp_path / "progress.json")) and note.done == 199
    assert [path.name for path in tmp_path.iterdir()] == ["progress.json"]
