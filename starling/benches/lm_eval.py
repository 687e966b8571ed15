"""`starling bench lm_eval`: MMLU, GSM8K, TruthfulQA and others by lm-evaluation-harness, losses as plain as gains."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import norm

from starling import figures, models, offer
from starling.benches import filing, harness, results
from starling.benches.asked import Asked, Benchmark
from starling.benches.cost import Part
from starling.benches.harness import Figure, Results
from starling.benches.left_out import LeftOut
from starling.errors import UsageError
from starling.records import Score
from starling.stats import NORMAL
from starling.store import is_run

ABOUT = "public benchmarks by lm-evaluation-harness"
OPTIONS = frozenset(("model", "scores", "tasks", "tasks_from", "against", "out"))
_SEEN = NORMAL + float(norm.ppf(0.8))  # standard errors that are seen in 80 of 100 comparisons


class Moved(NamedTuple):
    """A figure on both sides; `says` is better, worse or unclear."""

    name: str
    before: float
    after: float
    low: float
    high: float
    smallest: float
    is_share: bool
    level: int
    says: str


def run(asked: Asked) -> dict[str, Any]:
    """Let the harness test the model, or read its results, compare, print the table and write it to `--out`."""
    plan(asked)
    out = asked.out or filing.folder_of("lm_eval", asked.model or asked.scores)
    identity, path = _tested(asked.model or asked.scores, asked, out / "model")
    found = harness.read(path)
    more, lost, notes = _compared(asked, found, out)
    result = results.result(
        "lm_eval",
        model=identity,
        judge={"name": "lm-evaluation-harness", "version": found.version},
        data={
            "name": asked.tasks or path.name,
            "cases": sum(one.n for one in found.figures if not one.level),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        },
        rows=[row(one) for one in found.figures],
        without=[*found.left_out, *lost],
        more=more | {"shots": {one.key.task: one.shots for one in found.figures}},
    )
    results.show(result, ABOUT, unit="figures' questions", notes=notes)
    results.write(out, result)
    return result


def plan(asked: Asked) -> list[Part]:
    """Nothing is asked through a ledger; what cannot work is refused."""
    if bool(asked.model) == bool(asked.scores):
        raise UsageError(
            "bench: give either --model MODEL with --tasks, or --scores FILE, a results file of the harness"
        )
    if asked.scores and asked.tasks:
        raise UsageError("bench: --tasks are what a MODEL is tested on; --scores FILE has its own, leave them out")
    if asked.model and not asked.tasks:
        raise UsageError("bench: lm_eval needs --tasks, the harness's names with commas between: mmlu,gsm8k,truthfulqa")
    if asked.tasks_from and not list(asked.tasks_from.rglob("*.yaml")):
        raise UsageError(f"bench: --tasks-from {asked.tasks_from}: there is no task in it, no YAML file of the harness")
    for name in filter(None, (asked.model, asked.against)):
        if name.startswith("openai:"):
            raise UsageError(
                f"bench: lm_eval needs the weights, which {name} does not give; give a folder or a Hub name"
            )
    if asked.model and _results(asked.model) is None:
        harness.refuse_missing()
    return []


def row(figure: Figure) -> dict[str, Any]:
    """A row of the table; the interval is the normal one by the harness's standard error, a share's ends in [0, 1]."""
    half = NORMAL * figure.error
    low, high = figure.value - half, figure.value + half
    if figure.is_share:
        low, high = float(np.clip(low, 0, 1)), float(np.clip(high, 0, 1))
    score = Score(name=figure.key.name, value=figure.value, low=low, high=high, n=figure.n)
    return results.row(score, unit="share" if figure.is_share else "points", level=figure.level)


def compare(before: Results, after: Results) -> tuple[list[Moved], list[LeftOut]]:
    """Figures of both sides, the worse first; those that only one has, or with other shots or versions, are left out.

    The file does not say which questions were answered, so the sides count as independent: the standard error of a
    difference is the root of the sum of squares, which is too large where both are right on the same questions. What is
    called better or worse is so; what is unclear might be told apart question by question.
    """
    known = {one.key: one for one in before.figures}
    moved, lost = [], []
    for one in after.figures:
        old = known.pop(one.key, None)
        if old is None:
            lost.append(LeftOut(one.key.name, "only the tested model has this figure"))
        elif (old.shots, old.version) != (one.shots, one.version):
            what = f"{old.shots} shots, version {old.version} against {one.shots} shots, version {one.version}"
            lost.append(LeftOut(one.key.name, "other shots or another version of the task", what))
        else:
            moved.append(_moved(old, one))
    lost += [LeftOut(key.name, "only the other model has this figure") for key in known]
    order = {"worse": 0, "better": 1, "unclear": 2}
    return sorted(moved, key=lambda one: order[one.says]), lost


def sentence(moved: Moved) -> str:
    """What the figures allow one to say of one of them."""
    shown, change, unit = (figures.share, figures.share_change, " pt") if moved.is_share else (
        figures.number, figures.number_change, "")  # fmt: skip
    scale = 100 if moved.is_share else 1
    how = change({"value": moved.after - moved.before, "low": moved.low, "high": moved.high})
    figure = f"{shown(moved.before)} to {shown(moved.after)}, {how}"
    if moved.says != "unclear":
        return f"{moved.name}: {moved.says}, {figure}."
    if np.isnan(moved.smallest):
        return f"{moved.name}: {figure}; the file tells no standard error, so how sure this is cannot be said."
    seen = figures.number(scale * moved.smallest) + unit
    return f"{moved.name}: no difference is shown, {figure}; one below {seen} would probably not be seen."


def _moved(old: Figure, new: Figure) -> Moved:
    error = float(np.hypot(old.error, new.error))
    difference, half = new.value - old.value, NORMAL * error
    low, high = difference - half, difference + half
    is_share = old.is_share and new.is_share
    if is_share:
        low, high = float(np.clip(low, -1, 1)), float(np.clip(high, -1, 1))
    sign = new.good * (1 if low > 0 else -1 if high < 0 else 0)
    return Moved(
        name=new.key.name,
        before=old.value,
        after=new.value,
        low=low,
        high=high,
        smallest=_SEEN * error,
        is_share=is_share,
        level=new.level,
        says={1: "better", -1: "worse", 0: "unclear"}[sign],
    )


def _compared(asked: Asked, found: Results, out: Path) -> tuple[dict[str, Any], list[LeftOut], list[str]]:
    if not asked.against:
        return {}, [], []
    identity, path = _tested(asked.against, asked, out / "against")
    before = harness.read(path)
    moved, lost = compare(before, found)
    counts = {word: sum(one.says == word for one in moved) for word in ("worse", "better", "unclear")}
    said = [sentence(one) for one in moved]
    heading = (
        f"Against {identity['name']}: {counts['worse']} worse, {counts['better']} better, {counts['unclear']} unclear"
    )
    against = {
        "model": identity,
        "rows": [row(one) for one in before.figures],
        "changes": [one._asdict() | {"row": one.name, "value": one.after - one.before} for one in moved],
        "says": said,
        **counts,
    }
    return {"against": against}, [*before.left_out, *lost], [heading, *said]


def _tested(name: str, asked: Asked, out: Path) -> tuple[dict[str, Any], Path]:
    """Who is tested, and the harness's results: those in a file or folder of its own, else it runs now."""
    if (results := _results(name)) is not None:
        return {"name": harness.read(results).model, "results": results.name}, results
    if not asked.tasks:
        raise UsageError(f"bench: {name} is no results file; for a MODEL give --tasks as well")
    folder = models.resolve(offer.policy_of(name))
    identity = models.identity(folder) | {"name": name}
    return identity, harness.run(folder, asked.tasks, out, identity, asked.tasks_from)


def _results(name: str) -> Path | None:
    """The results file that this is or holds; None of a MODEL. A run may hold some, but is one itself."""
    given = Path(name)
    if given.is_file():
        return given
    is_model = is_run(given) or (given / "config.json").exists()
    return harness.newest(given) if given.is_dir() and not is_model else None


BENCH = Benchmark(ABOUT, OPTIONS, run, plan)
