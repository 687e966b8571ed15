"""Finished stages of another run, with their files, metrics and paid calls."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from starling import metrics, progress
from starling.agreeing import asked_anew
from starling.errors import explained
from starling.ledger import Ledger
from starling.store import Run
from starling.writing import replace_folder, write_atomically


def borrow(run: Run, other: Run, stages: Sequence[str]) -> None:
    """Take finished stages over from another run whose settings agree that far, with their metrics.

    Its paid calls come along whatever the settings: the ledger knows which of them are asked for again.
    """
    taken = _lacking(run, other, stages)
    other.refuse_damage(taken)
    for folder in [folder for stage in taken for folder in run.folders(stage)]:
        shutil.rmtree(folder)  # of an attempt that was broken off
    for folder in [folder for stage in taken for folder in other.folders(stage)]:
        own, partial = run.root / folder.name, run.root / f"{folder.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        with explained(f"copying {folder} to {own}"):
            _copy_folder(folder, partial)
            replace_folder(partial, own)
    lines = [line for line in metrics.read(run.metrics_path) if line["stage"] not in taken]
    lines += [line for line in metrics.read(other.metrics_path) if line["stage"] in taken]
    if lines:
        write_atomically(run.metrics_path, "".join(json.dumps(line) + "\n" for line in lines))
    if other.ledger_path.exists():
        with Ledger(run.ledger_path) as ledger:
            ledger.take_over(other.ledger_path)
    entries = {stage: other.manifest["stages"][stage] for stage in taken}
    run.adopt(entries, [stage for stage in asked_anew(other.config, run.config) if stage in taken])


def shares(run: Run, other: Run, stage: str) -> bool:
    """Whether both have finished the stage, and with the same files but for cards, which tell the day."""
    both = run.is_done(stage) and other.is_done(stage)
    return both and _without_cards(run, stage) == _without_cards(other, stage)


def _lacking(run: Run, other: Run, stages: Sequence[str]) -> list[str]:
    """The stages that only the other run has finished, up to the first that came out otherwise here."""
    found = []
    for stage in filter(other.is_done, stages):
        if not run.is_done(stage):
            found.append(stage)
        elif not shares(run, other, stage):
            progress.say(f"{other.root}: its {stage} came out otherwise than here, so nothing behind it is taken over")
            break
    return found


def _without_cards(run: Run, stage: str) -> dict[str, str]:
    return {name: digest for name, digest in run.outputs(stage).items() if not name.endswith("README.md")}


def _copy_folder(source: Path, target: Path) -> None:
    """Copy a whole folder; its first failure is raised as the system gave it."""
    try:
        shutil.copytree(source, target)
    except shutil.Error as error:
        raise OSError(error.args[0][0][2]) from error
