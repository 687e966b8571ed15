"""What benchmarks/fit_alpaca.py found, pooled over seeds and case by case against the K-wise loss, in docs/results.md.

    python benchmarks/fit_table.py DATA DIR [--name "all weights"]

DATA is the folder that the fits were made and tested with, DIR their `--out`. Fits that are not finished are left out,
and so are test sets that one of them has not answered yet. `--name` is the section of the page: fits of other settings
want one of their own.
"""

import argparse
import datetime
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import fit_alpaca
import results

from starling import accuracy, figures, models, sources, stats
from starling.benches import cases, starling_rm
from starling.benches.items import Item
from starling.config import Source
from starling.records import Ranking, Score

HELD_OUT = "held-out pairs"
MARGINS = (0.5, fit_alpaca.MARGIN, 2.0)  # in log-odds, below which answers are tied: does the figure depend on it?
COLUMNS = (HELD_OUT, starling_rm.HUMAN, starling_rm.SAFETY, starling_rm.TRUTH, starling_rm.VERBOSE)


class Case(NamedTuple):
    """One comparison: of which prompt, is it right by reward, and by length alone?"""

    prompt: str
    right: float
    longer: float


class Kind(NamedTuple):
    """What fits of several seeds have in common."""

    variant: str
    rankings: int


class Fit(NamedTuple):
    """The cases of each column, always in the same order, the tokens that the fit learnt from, and the held-out pairs
    by the margin below which answers are tied."""

    cases: Mapping[str, Sequence[Case]]
    tokens: int
    by_margin: Mapping[float, Sequence[Case]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path, metavar="DIR")
    parser.add_argument("--name", default="all weights", help="section of docs/results.md")
    options = parser.parse_args()
    fits = read(options.data, options.out)
    text = render(fits)
    print(text)
    results.insert(text, *(f"<!-- fit alpaca, {options.name}: {word} -->" for word in ("begin", "end")))


def read(data: Path, out: Path) -> dict[Kind, dict[int, Fit]]:
    """The finished fits of each kind by seed."""
    tokenizer = models.new_reward_model(fit_alpaca.MODEL).tokenizer
    rows = fit_alpaca.read(data / "alpaca_rankings.jsonl.gz", tokenizer)
    held_out = {margin: fit_alpaca.rankings(rows, 0, fit_alpaca.K, margin=margin)[1] for margin in MARGINS}
    items = list(_items(data / "rm_benchmarks"))
    fits: dict[Kind, dict[int, Fit]] = defaultdict(dict)
    made_with: set[str] = set()
    for path in sorted(out.glob("*/figures.json")):
        variant, rankings, seed = path.parent.name.replace("-seed-", "-").rsplit("-", 2)
        told = json.loads(path.read_text())
        tokens = told["fit"]["tokens"]
        made_with.add(_common(told.get("made_with")))
        if len(made_with) > 1:
            raise SystemExit(f"{path.parent}: was made with other settings or data than those before it")
        rewards = json.loads((path.parent / "held_out.json").read_text())
        by_margin = {margin: _held_out_cases(ranked, rewards) for margin, ranked in held_out.items()}
        found = {HELD_OUT: by_margin[fit_alpaca.MARGIN]}
        if told["starling_rm"]:
            found |= _test_cases(items, json.loads((path.parent / "starling_rm.json").read_text()))
        fits[Kind(variant, int(rankings))][int(seed)] = Fit(found, tokens, by_margin)
    return fits


def _common(made_with: Mapping[str, Any] | None) -> str:
    """What fits have to share to stand in one table: the data, and the settings but for the loss."""
    if made_with is None:
        return ""
    settings = {key: value for key, value in made_with["settings"].items() if key != "loss"}
    return json.dumps([made_with["data"], settings], sort_keys=True)


def _items(folder: Path) -> Iterator[Item]:
    for file in sources.files(folder):
        for number, row in enumerate(sources.rows(Source(path=str(file))), 1):
            yield starling_rm.read(row, f"{file}:{number}")


def _held_out_cases(held_out: Sequence[Ranking], rewards: Mapping[str, Sequence[float]]) -> list[Case]:
    return [
        Case(pair.prompt, pair.right, pair.longer)
        for ranking in held_out
        for pair in accuracy.pairs_of(ranking, rewards[ranking.prompt_id])
    ]


def _test_cases(items: Sequence[Item], tested: Mapping[str, Any]) -> dict[str, list[Case]]:
    scores = {entry["key"]: entry["scores"] for entry in tested["items"]}
    kept = [item for item in items if item.key in scores]
    judged = cases.judged(kept, [scores[item.key] for item in kept])
    judged[starling_rm.TRUTH] = [case for part in starling_rm.TRUTHS for case in judged[part]]
    return {name: [Case(case.prompt, case.right, case.longer) for case in judged[name]] for name in starling_rm.SETS}


def render(fits: Mapping[Kind, Mapping[int, Fit]]) -> str:
    """The section of docs/results.md."""
    kinds = sorted(fits, key=lambda kind: (list(fit_alpaca.VARIANTS).index(kind.variant), -kind.rankings))
    columns = [name for name in COLUMNS if all(name in fit.cases for of in fits.values() for fit in of.values())]
    sizes = [len({case.prompt for case in next(iter(fits[kinds[0]].values())).cases[name]}) for name in columns]
    counts = ", ".join(f"{name} {size:,}" for name, size in zip(columns, sizes, strict=True))
    lines = [
        f"`benchmarks/fit_alpaca.py` and `fit_table.py`, {datetime.date.today().isoformat()}, {results.machine()}. "
        f"Prompts of each set: {counts}. Accuracy pooled over seeds, 95 % intervals by bootstrap over prompts; "
        "under it that of each seed.",
        "",
        "| loss | rankings | seeds | tokens a fit | " + " | ".join(columns) + " |",
        "|---" * (len(columns) + 4) + "|",
    ]
    lines += [_line(kind, fits[kind], columns) for kind in kinds]
    lines.append(_length_only(next(iter(fits[kinds[0]].values())), columns))
    if differences := [line for one, other in _compared(kinds) if (line := _difference(one, other, fits, columns))]:
        lines += ["", "Differences in points, case by case, of the same seeds:", ""]
        lines += ["| | seeds | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|", *differences]
    lines += ["", "Held-out pairs by the log-odds below which answers are tied:", ""]
    lines += ["| | " + " | ".join(f"{margin:g}" for margin in MARGINS) + " |", "|---" * (len(MARGINS) + 1) + "|"]
    lines += [_by_margin(f"{kind.variant} of {kind.rankings}", list(fits[kind].values())) for kind in kinds]
    first = next(iter(fits[kinds[0]].values()))
    longer = {margin: [case._replace(right=case.longer) for case in of] for margin, of in first.by_margin.items()}
    lines.append(_by_margin("characters alone", [first._replace(by_margin=longer)]))
    return "\n".join(lines)


def _by_margin(name: str, fits: Sequence[Fit]) -> str:
    cells = []
    for margin in MARGINS:
        cases = [case for fit in fits for case in fit.by_margin[margin]]
        score = _mean(HELD_OUT, [case.right for case in cases], cases)
        cells.append(f"{_cell(score)}, {len(cases) // len(fits):,} pairs")
    return f"| {name} | " + " | ".join(cells) + " |"


def _compared(kinds: Sequence[Kind]) -> list[tuple[Kind, Kind]]:
    """The K-wise fits, of whatever number of rankings, against those with each other loss."""
    return [(one, other) for one in kinds if one.variant == "kwise" for other in kinds if other.variant != "kwise"]


def _line(kind: Kind, fits: Mapping[int, Fit], columns: Sequence[str]) -> str:
    cells = []
    for name in columns:
        own = [fit.cases[name] for _seed, fit in sorted(fits.items())]
        each = " ".join(f"{_mean(name, [case.right for case in one], one).value:.1%}" for one in own)
        every = [case for one in own for case in one]
        cells.append(f"{_cell(_mean(name, [case.right for case in every], every))}<br>{each}")
    tokens = figures.number(round(sum(fit.tokens for fit in fits.values()) / len(fits)))
    return f"| {kind.variant} | {kind.rankings} | {len(fits)} | {tokens} | " + " | ".join(cells) + " |"


def _length_only(fit: Fit, columns: Sequence[str]) -> str:
    cells = [_cell(_mean(name, [case.longer for case in fit.cases[name]], fit.cases[name])) for name in columns]
    return "| characters alone | | | | " + " | ".join(cells) + " |"


def _difference(one: Kind, other: Kind, fits: Mapping[Kind, Mapping[int, Fit]], columns: Sequence[str]) -> str:
    """A row of how much more often `one` is right than `other`; empty where no seed has both."""
    seeds = sorted(set(fits[one]) & set(fits[other]))
    if not seeds:
        return ""
    cells = []
    for name in columns:
        pairs = [
            pair
            for seed in seeds
            for pair in zip(fits[one][seed].cases[name], fits[other][seed].cases[name], strict=True)
        ]
        score = _mean(name, [mine.right - its.right for mine, its in pairs], [mine for mine, _its in pairs])
        cells.append(f"{100 * score.value:+.1f} ({100 * score.low:+.1f} to {100 * score.high:+.1f})")
    names = f"{one.variant} of {one.rankings} - {other.variant} of {other.rankings}"
    return f"| {names} | {len(seeds)} | " + " | ".join(cells) + " |"


def _mean(name: str, values: Sequence[float], of: Sequence[Case]) -> Score:
    return stats.cluster_mean(name, values, [case.prompt for case in of])


def _cell(score: Score) -> str:
    return f"**{score.value:.1%}** ({score.low:.1%} to {score.high:.1%})"


if __name__ == "__main__":
    main()
