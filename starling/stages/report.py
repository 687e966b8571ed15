"""report: everything a person wants to know of the run on one page, `report.html`, and its numbers in `report.json`."""

import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from starling import before_after, config, device, differing, digest, page, plots, policy_card
from starling.before_after import SIDES
from starling.plots import Plot, Series
from starling.standing import Standing
from starling.store import Run

_LOOK = {"kl": "kl", "win_rate": "win_rate", "low": "win_rate_low", "high": "win_rate_high"}
_PARTED = "tune/validation/parted"


class Gathered(NamedTuple):
    """What a page is made of: its numbers, its plots, and the test prompts with their texts."""

    numbers: Mapping[str, Any]
    plots: Mapping[str, Plot]
    cases: Sequence[Mapping[str, Any]]


def run(run: Run) -> dict[str, Any]:
    """Write the page and its numbers, and the policy's card by them; stages that are not done are said to be so."""
    gathered = gather(run)
    text = _render(gathered.numbers, gathered, ["report.js"])
    page.write(run.report_path, text, gathered.numbers)
    policy_card.write(run, gathered.numbers)
    return {"path": run.report_path.name, "bytes": len(text.encode()), "numbers": "report.json"}


def gather(run: Run) -> Gathered:
    """Read and draw all that the page shows."""
    found = digest.digest(run)
    drawn = _plots(found)
    numbers = found | {"made": _made(run), "plots": {name: plot.summary for name, plot in drawn.items()}}
    return Gathered(numbers, drawn, [_shown(case) for case in digest.read_cases(run)] if found["cases"] else [])


def live(gathered: Gathered, now: Standing | None, said: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """The numbers and the page as the run stands `now`: with what is `said` of it, and a script that renews it."""
    numbers = digest.at_moment(gathered.numbers, now) | {"live": said}
    return numbers, _render(numbers, gathered, ["live.js", "report.js"])


def _render(numbers: Mapping[str, Any], gathered: Gathered, scripts: Sequence[str]) -> str:
    kinds = sorted({case["kind"] for case in gathered.cases})
    return page.render("report.html.jinja", numbers, scripts, plots=gathered.plots, cases=gathered.cases, kinds=kinds)


def _shown(case: Mapping[str, Any]) -> dict[str, Any]:
    """A test prompt with what the page needs beside its numbers."""
    aspects = sorted({aspect for side in SIDES for aspect in case[side]["aspects"]})
    pieces, alike = differing.marked(case["base"]["answer"], case["tuned"]["answer"])
    rows = [("rubric score", ("score",)), *((aspect, ("aspects", aspect)) for aspect in aspects)]
    if case["base"]["held_out"] is not None:
        rows.append(("held-out checks", ("held_out",)))
    return {
        **case,
        "checks": before_after.checks_of(case),
        "pieces": pieces,
        "alike": alike,
        "aspects": [*rows, ("reward", ("reward",)), ("tokens", ("tokens",))],
    }


def _plots(found: Mapping[str, Any]) -> dict[str, Plot]:
    """The plots for which there is something to draw, in the order of the page."""
    drawn: list[Plot] = []
    result, judge = found["result"], found["judge"]
    if result:
        drawn.append(plots.forest("win-rates", "Win rate, and without other explanations", result["win_rates"]))
        drawn.append(plots.forest("win-rates-by-kind", "Win rate by kind of prompt", result["by_kind"]))
    if found["fit"]["curve"]:
        drawn += _fit_plots(found["fit"])
    if found["tune"]["curve"]:
        drawn += _tune_plots(found["tune"])
    if judge:
        drawn.append(plots.mean_ranks("judge-mean-rank", "Mean rank of each generator", judge["mean_rank"]))
    return {plot.name: plot for plot in drawn}


def _fit_plots(fit: Mapping[str, Any]) -> list[Plot]:
    lines = fit["curve"]
    accuracy = [
        _series(lines, "fit/pair_accuracy", "training rankings", plots.MUTED),
        _series(lines, "fit/held_out_pair_accuracy", "held-out rankings", plots.TUNED, points=True),
    ]
    return [
        plots.curve("fit-nll", "Loss: nll of the ranking a place", [_series(lines, "fit/nll", "nll")]),
        plots.curve("fit-accuracy", "Pairs ordered as the judge does", accuracy, unit="%", level=0.5),
        plots.forest("fit-held-out", "Agreement with the judge", fit["held_out"]),
        plots.reliability(
            "fit-reliability", "Is it as sure as it should be?", fit["reliability"], fit["calibration_error"]
        ),
    ]


def _tune_plots(tune: Mapping[str, Any]) -> list[Plot]:
    lines, kept = tune["curve"], tune["kept_step"]
    known = [line for line in lines if line.get("tune/reward") is not None]  # null where tuning went astray
    moves = [line for line in known if line.get("tune/objective/kl") is not None]  # only fresh rollouts have a KL
    path = plots.reward_against_kl(
        "tune-reward-kl",
        "Reward against KL",
        kl=[line["tune/objective/kl"] for line in moves],
        reward=[line["tune/reward"] for line in moves],
        steps=[line["step"] for line in moves],
        kept=kept,
        looks=[_look(line) for line in lines if line.get("tune/validation/kl") is not None],
    )
    reward = [_series(lines, "tune/reward", "reward")]
    kl = [_series(lines, "tune/objective/kl", "KL")]
    length = [
        _series(lines, "tune/completions/mean_length", "rollouts", plots.MUTED),
        _series(lines, "tune/validation/mean_length", "validation answers", points=True),
    ]
    cut = [_series(lines, "tune/completions/clipped_ratio", "cut")]
    win_rate = [_series(lines, "tune/validation/win_rate", "win rate", points=True)]
    return [
        path,
        plots.curve("tune-reward", "Reward of the rollouts", reward, kept=kept),
        plots.curve("tune-kl", "KL to the base, nats an answer", kl, kept=kept),
        plots.curve("tune-length", "Tokens an answer", length, kept=kept),
        plots.curve("tune-clipped", "Rollouts cut by the cap", cut, kept=kept, unit="%"),
        plots.curve("tune-validation", "Win rate on validation prompts", win_rate, kept=kept, unit="%", level=0.5),
    ]


def _look(line: Mapping[str, Any]) -> dict[str, Any]:
    """What the judge said at a look, by the names of the plot."""
    found = {name: line[f"tune/validation/{key}"] for name, key in _LOOK.items()}
    return found | {"step": line["step"], "value": found["win_rate"], "parted": bool(line.get(_PARTED))}


def _series(
    lines: Sequence[Mapping[str, Any]], name: str, label: str, colour: str = plots.TUNED, *, points: bool = False
) -> Series:
    known = [line for line in lines if line.get(name) is not None]
    return Series(
        label=label, x=[line["step"] for line in known], y=[line[name] for line in known], colour=colour, points=points
    )


def _made(run: Run) -> dict[str, Any]:
    name = run.root.resolve().name
    return {
        "command": f"starling run {name}/config.toml --run {name}-again",
        "config": config.dump(run.config),
        "versions": run.versions,
        "seed": run.config.run.seed,
        "threads": max((entry.get("threads", 0) for entry in run.manifest["stages"].values()), default=0),
        "products": _products(run),
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "cores": device.cores(),
        },
    }


def _products(run: Run) -> str:
    """What matrix products were computed in, in the stages that are made of them."""
    entries = [run.manifest["stages"].get(stage, {}) for stage in ("sample", "fit", "tune", "evaluate")]
    return " and ".join(sorted({dtype for entry in entries for dtype in entry.get("products", ())}))


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or "unknown"
