"""What `starling report RUN RUN` writes: one page that compares runs, and its numbers beside it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from starling import before_after, comparison, differing, page, plots
from starling.comparison import Compared
from starling.errors import UsageError
from starling.plots import Plot

DEFAULT = Path("compare.html")


def write(path: Path, found: Compared) -> dict[str, Any]:
    """Write the page, and the JSON file of the same name."""
    names = [run["name"] for run in found.numbers["runs"]]
    drawn = _plots(found.numbers)
    numbers = found.numbers | {"plots": {name: plot.summary for name, plot in drawn.items()}}
    cases = [_shown(case, own) for case, own in zip(found.cases, numbers["cases"], strict=True)]
    text = page.render(
        "comparison.html.jinja",
        numbers,
        ["report.js"],
        plots=drawn,
        cases=cases,
        kinds=sorted({case["kind"] for case in cases}),
        shown=[
            ("apart", "verdicts that differ between runs"),
            *((f"{tone}-{at}", f"{name} is {tone}") for at, name in enumerate(names) for tone in ("better", "worse")),
        ],
        json_name=path.with_suffix(".json").name,
    )
    page.write(path, text, numbers)
    return {"path": str(path), "bytes": len(text.encode()), "numbers": str(path.with_suffix(".json"))}


def refuse_others(path: Path) -> None:
    """Stop before a file is overwritten that is no comparison of ours: the page, or the numbers beside it."""
    if path.suffix != ".html":
        raise UsageError(f"report: --out {path} must end in .html; its numbers go into the .json file beside it")
    numbers = path.with_suffix(".json")
    if (path.exists() or numbers.exists()) and not _is_ours(numbers):
        taken = path if path.exists() else numbers
        raise UsageError(f"report: {taken} is there and no comparison of runs; choose another --out FILE")


def _is_ours(numbers: Path) -> bool:
    try:
        found = json.loads(numbers.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("kind") == comparison.KIND


def _plots(numbers: Mapping[str, Any]) -> dict[str, Plot]:
    rows = [
        {"group": label, "label": run["name"], **{end: rate[end] for end in ("value", "low", "high", "n")}}
        for key, label in before_after.WIN_RATES.items()
        for run in numbers["runs"]
        for rate in run["win_rates"]
        if rate["key"] == key
    ]
    return {"win-rates": plots.forest("win-rates", "Win rates over the base", rows)} if rows else {}


def _shown(case: Mapping[int, Mapping[str, Any]], numbers: Mapping[str, Any]) -> dict[str, Any]:
    """A test prompt with the answers of all runs; a base answer that runs share stands once."""
    some = next(iter(case.values()))
    bases: dict[tuple[str, bool], list[int]] = {}
    for at, own in case.items():
        bases.setdefault((own["base"]["answer"], own["base"]["finished"]), []).append(at)
    outcomes = {at: numbers["runs"][str(at)]["outcome"] for at in case}
    held_out = [("held-out checks", "held_out")] if some["base"]["held_out"] is not None else []
    return {
        **{key: some[key] for key in ("prompt_id", "family", "kind", "messages", "reference")},
        "checks": before_after.checks_of(some),
        "tags": _tags(outcomes),
        "bases": [{"answer": answer, "finished": finished, "runs": at} for (answer, finished), at in bases.items()],
        "answers": [
            {
                "run": at,
                "finished": own["tuned"]["finished"],
                "pieces": differing.marked(own["base"]["answer"], own["tuned"]["answer"])[0]["tuned"],
            }
            for at, own in case.items()
        ],
        "figures": [("rubric score", "score"), *held_out, ("reward", "reward"), ("tokens", "tokens")],
    }


def _tags(outcomes: Mapping[int, str]) -> Sequence[str]:
    """What the filters of the page ask for."""
    apart = ["apart"] if len(set(outcomes.values())) > 1 else []
    return [*apart, *(f"{outcome}-{at}" for at, outcome in outcomes.items())]
