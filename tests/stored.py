"""Runs in the making, for tests of what a run's folder holds."""

from starling import config
from starling.config import Config
from starling.store import Run


def settings(*overrides: str) -> Config:
    return config.load(config.find_recipe("smollm2"), list(overrides))


def finish(run: Run, stage: str, **facts) -> None:
    """Do a stage, which writes a table that holds its name."""
    run.started(stage)
    (run.folder(stage) / "table.txt").write_text(stage)
    run.finished(stage, facts)
