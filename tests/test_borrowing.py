"""Stages of another run, taken over with their files."""

from pathlib import Path

import pytest
from stored import finish, settings

from starling import metrics
from starling.borrowing import borrow
from starling.errors import DataError
from starling.ledger import Ledger, call_key
from starling.metrics import Recorder
from starling.records import Reply
from starling.store import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.open(tmp_path / "run", settings())


def test_finished_stages_are_borrowed_with_their_files(run: Run, tmp_path: Path) -> None:
    finish(run, "prompts", count=3)
    run.started("sample")
    other = Run.open(tmp_path / "other", settings("tune.lam=0.25"))
    borrow(other, run, ["prompts", "sample"])
    again = Run.read(other.root)
    assert again.is_done("prompts")
    assert not again.is_done("sample")
    assert (again.folder("prompts") / "table.txt").read_text() == "prompts"


def test_the_calls_of_a_run_are_borrowed_whether_its_stages_agree_or_not(run: Run, tmp_path: Path) -> None:
    key = call_key("judge", "m", "{}", 0)
    with Ledger(run.ledger_path) as ledger:
        ledger.replied(
            ledger.sent(key, name="judge", model="m", request="{}", draw=0), Reply(text="yes", finished=True)
        )
    other = Run.open(tmp_path / "other", run.config)
    borrow(other, run, [])
    with Ledger(other.ledger_path) as ledger:
        assert ledger.get(key) == Reply(text="yes", finished=True)


def test_a_stage_that_is_done_is_not_borrowed_over(run: Run, tmp_path: Path) -> None:
    finish(run, "prompts", count=3)
    other = Run.open(tmp_path / "other", settings("tune.lam=0.25"))
    finish(other, "prompts", count=5)
    borrow(other, run, ["prompts"])
    assert other.facts("prompts") == {"count": 5}


def test_cards_tell_the_day_and_make_no_difference(run: Run, tmp_path: Path) -> None:
    other = Run.open(tmp_path / "other", settings("tune.lam=0.25"))
    for day, one in enumerate((run, other)):
        (one.folder("fit") / "README.md").write_text(f"day {day}")
        finish(one, "fit")
    finish(run, "tune")
    borrow(other, run, ["fit", "tune"])
    assert other.is_done("tune")


def test_nothing_behind_a_stage_that_came_out_otherwise_is_borrowed(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Run.open(tmp_path / "other", settings("tune.lam=0.25"))
    for one in (run, other):
        finish(one, "prompts")
    finish(run, "sample")
    again = Run.open(tmp_path / "again", settings("tune.lam=0.25"))
    (again.folder("prompts") / "table.txt").write_text("other rows")
    again.started("prompts")
    again.finished("prompts", {})
    for one in (other, again):
        borrow(one, run, ["prompts", "sample"])
    assert other.is_done("sample")
    assert not again.is_done("sample")
    assert f"{run.root}: its prompts came out otherwise than here" in capsys.readouterr().out


def test_prompts_that_could_not_be_ranked_are_borrowed_with_the_rankings(run: Run, tmp_path: Path) -> None:
    run.folder("unranked").joinpath("00000.jsonl").write_text("{}")
    finish(run, "rank")
    other = Run.open(tmp_path / "other", settings("tune.lam=0.25"))
    borrow(other, run, ["rank"])
    assert (other.root / "unranked" / "00000.jsonl").read_text() == "{}"
    begun = Run.open(tmp_path / "begun", settings("tune.lam=0.25"))
    begun.folder("unranked").joinpath("00000.jsonl").write_text("of an attempt that was broken off")
    ranked = Run.open(tmp_path / "ranked", settings())
    finish(ranked, "rank")
    borrow(begun, ranked, ["rank"])
    assert not (begun.root / "unranked").exists()
    (other.root / "unranked" / "00000.jsonl").unlink()
    with pytest.raises(DataError, match=r"first unranked/00000\.jsonl"):
        other.refuse_damage(["rank"])


def test_a_damaged_stage_is_not_borrowed(run: Run, tmp_path: Path) -> None:
    finish(run, "prompts")
    (run.root / "prompts" / "table.txt").unlink()
    other = Run.open(tmp_path / "other", settings("tune.lam=0.25"))
    with pytest.raises(DataError, match="missing or changed"):
        borrow(other, run, ["prompts"])
    assert not (other.root / "prompts").exists()


def test_borrowing_keeps_the_metrics_of_ones_own_stages(run: Run, tmp_path: Path) -> None:
    for stage in ("fit", "tune"):
        finish(run, stage)
        Recorder(run.metrics_path, stage).log(1, {"of": 1.0})
    other = Run.open(tmp_path / "other", settings("evaluate.resamples=200"))
    finish(other, "fit")
    Recorder(other.metrics_path, "fit").log(1, {"of": 2.0})
    borrow(other, run, ["fit", "tune"])
    assert [line[f"{line['stage']}/of"] for line in metrics.read(other.metrics_path)] == [2.0, 1.0]


def test_metrics_with_a_last_line_that_was_cut_can_be_borrowed(run: Run, tmp_path: Path) -> None:
    finish(run, "fit")
    Recorder(run.metrics_path, "fit").log(1, {"nll": 1.0})
    with run.metrics_path.open("a") as file:
        file.write('{"stage": "tu')
    other = Run.open(tmp_path / "other", settings("tune.lam=0.25"))
    borrow(other, run, ["fit"])
    assert len(metrics.read(other.metrics_path)) == 1
