"""The test prompts that runs have in common, and what each run's answers to them were worth."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from starling import before_after, paired

Case = Mapping[str, Any]
Prompts = dict[str, list[Case]]
_RATES = {"verdict": "Win rate over the base", "held_out_verdict": "Win rate over the base, held-out checks"}
_FIGURES = ("rubric_score", "held_out_checks", "refused_ill_natured", "refused_look_alike", "finished")


def by_prompt(cases: Sequence[Case]) -> Prompts:
    """The cases of each test prompt, one for each draw; prompts are one where id, messages and checks are the same."""
    found: Prompts = {}
    for case in cases:
        found.setdefault(json.dumps([case["prompt_id"], case["messages"], case["checks"]]), []).append(case)
    return found


def common(runs: Sequence[Prompts]) -> list[str]:
    """The prompts that all runs have, in the order of the first."""
    return [key for key in runs[0] if all(key in run for run in runs)] if runs else []


def against(first: Prompts, other: Prompts, *, rates: Mapping[str, str]) -> list[dict[str, Any]]:
    """The paired test of two tuned models for each figure, on the prompts that both have; `other` minus `first`.

    An answer's figures are averaged over the draws of a prompt, so that a prompt counts once; prompts of a family go
    together. `rates` says why a win rate cannot be compared (the base models or judges are not the same), if so.
    """
    keys = common([first, other])
    found = []
    for key, label in _RATES.items():
        if key in rates:
            found.append({"key": key, "change": None, "sentence": f"{label}: not compared, {rates[key]}."})
        else:
            found.append(_change(key, label, 1, [(first[prompt], other[prompt]) for prompt in keys]))
    rows = {row.key: row for row in before_after.ROWS}
    for key in _FIGURES:
        found.append(_change(key, rows[key].label, rows[key].good, [(first[prompt], other[prompt]) for prompt in keys]))
    return found


def _change(key: str, label: str, good: int, pairs: Sequence[tuple[list[Case], list[Case]]]) -> dict[str, Any]:
    """The paired change of one figure; prompts to which it does not apply, or without a verdict, are not in its n."""
    before, after, clusters = [], [], []
    for one, other in pairs:
        values = _mean(one, key), _mean(other, key)
        if values[0] is not None and values[1] is not None:
            before.append(values[0])
            after.append(values[1])
            clusters.append(one[0]["family"] or one[0]["prompt_id"])
    change = paired.compare(label, before, after, clusters)
    return {"key": key, "change": asdict(change), "sentence": paired.sentence(change, good=good)}


def _mean(cases: Sequence[Case], key: str) -> float | None:
    known = [found for case in cases if (found := _value(case, key)) is not None]
    return fmean(known) if known else None  # whatever the order of the draws, the same to the last bit


def _value(case: Case, key: str) -> float | None:
    if key in _RATES:
        return None if case[key] is None else float(case[key])
    return before_after.value(case, "tuned", key)
