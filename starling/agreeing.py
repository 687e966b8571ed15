"""Which settings of a run another one shares, and what settings ask for beside what a run has."""

from typing import Any

from starling.config import Config, PanelTable
from starling.endpoints import judges_of, judging

_CHOSEN_BY = ("answer_tokens", "draws", "token_budget")  # of `evaluate`: which looks `tune` has, and at what answers
STAGES = ("prompts", "sample", "rank", "fit", "tune", "evaluate")  # those with settings, in road order


def settled(config: Config) -> dict[str, Any]:
    """What rows of a run depend on; an endpoint only where a stage, not just a benchmark, names it."""
    named = [table for stage in STAGES for table in _endpoints(config, stage)]
    return config.settled() | {"endpoints": [table for table in config.settled()["endpoints"] if table in named]}


def stages_that_agree(mine: Config, other: Config) -> list[str]:
    """The leading stages whose settings, and those of all stages before them, are the same in both."""
    agreeing: list[str] = []
    new, old = mine.settled(), other.settled()
    if new["run"] != old["run"]:
        return agreeing
    for stage in STAGES:
        if new[stage] != old[stage] or _endpoints(mine, stage) != _endpoints(other, stage):
            break
        if stage == "tune" and _choosing(mine) != _choosing(other):
            break
        agreeing.append(stage)
    return agreeing


def asked_anew(old: Config, new: Config) -> list[str]:
    """The stages of which `new` asks for more, or less, than `old` in what may grow."""
    return [
        stage
        for stage in STAGES
        if any(
            getattr(getattr(old, stage), key) != getattr(getattr(new, stage), key)
            for key in getattr(new, stage).may_grow
        )
    ]


def first_difference(mine: Config, other: Config) -> str:
    """The settings that differ in the first table, in road order, that is not the same in both; empty if all are."""
    for table in ("run", *STAGES, "endpoints"):
        old, new = other.settled()[table], mine.settled()[table]
        if old != new:
            return ", ".join(differences({table: old}, {table: new}))
    return ""


def _choosing(config: Config) -> dict[str, Any]:
    """How `tune` chose its step: who judged, at which looks, and how long the answers were."""
    judge = {key: value for key, value in config.chooser.settled().items() if key in PanelTable.model_fields}
    return judge | {key: getattr(config.evaluate, key) for key in _CHOSEN_BY}


def _endpoints(config: Config, stage: str) -> list[dict[str, Any]]:
    """What the rows of a stage depend on in the endpoints that it names."""
    named = {generator.model for generator in config.sample.generators} if stage == "sample" else set()
    asked = judging(config).get(stage)
    named |= {one.judge for one in judges_of(asked)} if asked else set()
    return [table.settled() for table in config.endpoints if table.name in named]


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The settings, and what became of them, whose values are not the same."""
    return [
        f"{table}.{key}: {old[table].get(key)!r} -> {value!r}"[:120]
        for table in new
        if table != "endpoints"
        for key, value in new[table].items()
        if old[table].get(key) != value
    ] + ["endpoints: others, or of other models"] * (old.get("endpoints") != new.get("endpoints"))
