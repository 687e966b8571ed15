"""Every algorithm of `tune`, supervised tuning and best-of-n side by side at equal tokens, into docs/results.md.

    python benchmarks/tune_algorithms.py RUN... [--tokens 60000] [--only apa ppo best_of] [--out DIR] [--name default]

RUN is a finished run; several, with seeds of their own, are several whole roads (`make results` leaves three). Prompts,
answers, rankings and reward model of a RUN serve all algorithms; each learns from about `--tokens` answer tokens, with
the settings of tune_algorithms.toml. All that is finished stays: the same command goes on after an interruption, and
with more RUNs it adds to what stands. `--name` is the section of the page: a RUN with another reward model wants one of
its own, and an `--out` of its own.
"""

import argparse
import datetime
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import frontier
import measured
import results
import tune_variants
from frontier import Point
from measured import Case, pooled

from starling import figures
from starling.store import Run

COLUMNS = {
    "win_rate": "win rate",
    "win_rate_held_out_checks": "held-out checks only",
    "win_rate_within_length_band": "answers of like length",
    "win_rate_without_finish_and_repetition": "finish and repetition not counted",
}


class Row(NamedTuple):
    """One algorithm over all runs: its cases, its path of reward against KL, tokens it looked at and sampled, those of
    its critic's warm-up, seconds, and of how many runs."""

    cases: Sequence[Case]
    points: Sequence[Point]
    learnt: float
    sampled: float
    warm_up: float
    seconds: float
    runs: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--tokens", type=int, default=60_000, help="answer tokens that each algorithm learns from")
    parser.add_argument("--only", nargs="+", default=[], help="names of variants; without it all and best_of")
    parser.add_argument("--out", type=Path, default=Path("runs/algorithms"))
    parser.add_argument("--name", default="default", help="section of docs/results.md")
    options = parser.parse_args()
    bases = [Run.read(path) for path in options.runs]
    spreads = [_spread(base) for base in bases]
    folders = [options.out / f"{base.root.resolve().name}" for base in bases]
    if len(set(folders)) < len(folders):
        parser.error("two RUNs have the same folder name, by which their results are kept apart")
    best = [frontier.of_best(*found) for found in zip(bases, folders, spreads, strict=True)]
    origins = [origin for _points, origin in best]
    rows: dict[str, Row] = {}
    settings = []
    for name, candidates in tune_variants.variants(options.only).items():
        chosen = tune_variants.choose(bases[0], folders[0], candidates, options.tokens)
        settings.append(chosen["label"])
        done = [
            (base, run, origin, spread)
            for base, folder, origin, spread in zip(bases, folders, origins, spreads, strict=True)
            if (run := _tuned(base, folder, chosen, options.tokens)) is not None
        ]
        if done:
            rows[name] = _row(done)
    if not options.only or "best_of" in options.only:
        rows |= _best_rows(bases, folders, spreads, [points for points, _origin in best])
    text = render(rows, bases, options.tokens, settings, options.name)
    lines = {name: row.points for name, row in rows.items() if not name.startswith("best of")}
    lines["best of n"] = frontier.mean_points([points for points, _origin in best])
    results.RESULTS.with_name(picture_name(options.name)).write_text(frontier.draw(lines))
    print(text)
    write(text, options.name)


def _spread(base: Run) -> float:
    base.facts("evaluate")  # refuses a run that is not finished, in one line
    return float(base.facts("tune")["reward_scale"]["spread"])


def _tuned(base: Run, folder: Path, settings: Mapping[str, object], tokens: int) -> Run | None:
    own = tune_variants.budgeted(settings, tokens, tune_variants.material(base))
    path = tune_variants.path_of(folder, settings)
    if tune_variants.run(base, path, own, "tune") is None:
        return None
    return tune_variants.run(base, path, own, "evaluate")


def _row(done: Sequence[tuple[Run, Run, Point, float]]) -> Row:
    facts = [run.facts("tune") for _base, run, _origin, _spread in done]
    count = len(done)
    return Row(
        cases=[case for _base, run, _origin, spread in done for case in measured.of_run(run, spread)],
        points=frontier.mean_points([frontier.of_run(*one) for one in done]),
        learnt=sum(fact["ranked_tokens"] + fact["rollout_tokens"] for fact in facts) / count,
        sampled=sum(fact["rollout_tokens"] for fact in facts) / count,
        warm_up=sum(fact["critic_warm_up_tokens"] for fact in facts) / count,
        seconds=sum(run.manifest["stages"]["tune"]["seconds"] for _base, run, _origin, _spread in done) / count,
        runs=count,
    )


def _best_rows(
    bases: Sequence[Run], folders: Sequence[Path], spreads: Sequence[float], points: Sequence[Sequence[Point]]
) -> dict[str, Row]:
    """Best-of-n learns from nothing; what it samples is n answers where the others give one."""
    found: dict[int, list[Case]] = defaultdict(list)
    for base, folder, spread in zip(bases, folders, spreads, strict=True):
        for n, cases in measured.best_of_n(base, folder, spread).items():
            found[n] += cases
    means = frontier.mean_points(points)
    return {
        f"best of {n}": Row(cases=cases, points=[point], learnt=0, sampled=0, warm_up=0, seconds=0, runs=len(bases))
        for (n, cases), point in zip(found.items(), means, strict=True)
    }


def picture_name(section: str) -> str:
    """The picture's file, with underscores for what a Markdown link does not take."""
    return f"tune_algorithms_{re.sub(r'[^0-9A-Za-z_.-]+', '_', section)}.svg"


def render(rows: Mapping[str, Row], bases: Sequence[Run], tokens: int, settings: Sequence[str], name: str) -> str:
    """The section of docs/results.md."""
    config = bases[0].config
    families = len({case.family for row in rows.values() for case in row.cases})
    names = ", ".join(f"{base.root.name} (seed {base.config.run.seed})" for base in bases)
    lines = [
        f"`benchmarks/tune_algorithms.py`, {datetime.date.today().isoformat()}, {results.machine()}; judge: "
        f"{bases[0].facts('evaluate')['judge']}; {config.prompts.test} test prompts of {families} families, "
        f"one answer of each algorithm to each; runs: {names}. "
        f"Each algorithm learns from about {tokens:,} answer tokens: rollouts of its own, ranked answers once a pass, "
        "or both; what a critic learns from before is told apart. Chosen on the first run's validation prompts: "
        f"{', '.join(settings) or 'none'}. Win rates are against the base, ties half, pooled over runs, 95 % intervals "
        "by bootstrap over families; best-of-n is the unbiased estimate from 16 answers to each of "
        f"{min(measured.PROMPTS, config.prompts.test)} of the prompts, against the base's first. KL is at temperature "
        "1, nats an answer, of best-of-n by formula; reward is the gain over the base's, in spreads.",
        "",
        "| algorithm | runs | "
        + " | ".join(COLUMNS.values())
        + " | tokens an answer | reward | KL | tokens learnt from | "
        "of them sampled | critic's warm-up | minutes |",
        "|---" * (len(COLUMNS) + 9) + "|",
    ]
    lines += [_line(label, row) for label, row in rows.items()]
    lines += ["", f"![Gain in reward, and the rubric's score, against KL]({picture_name(name)})"]
    return "\n".join(lines)


def _line(label: str, row: Row) -> str:
    cells = [results.win(pooled(name, row.cases)) for name in COLUMNS]
    cells += [f"{pooled('tokens', row.cases).value:.1f}", f"{pooled('reward', row.cases).value:+.2f}"]
    cells += [f"{row.points[-1].kl:.2f}"]
    if label.startswith("best of"):
        cells += ["none", f"{label.removeprefix('best of ')} answers for one", "", ""]
    else:
        cells += [figures.number(round(tokens)) for tokens in (row.learnt, row.sampled, row.warm_up)]
        cells += [f"{row.seconds / 60:.1f}"]
    return f"| {label} | {row.runs} | " + " | ".join(cells) + " |"


def write(text: str, name: str) -> None:
    """Into the section of this name, which is added at the end where there is none."""
    begin, end = (f"<!-- tune algorithms, {name}: {word} -->" for word in ("begin", "end"))
    page = results.RESULTS.read_text()
    if begin not in page:
        title = f"## Every algorithm of `tune` at equal tokens ({name})"
        results.RESULTS.write_text(f"{page.rstrip()}\n\n{title}\n\n{begin}\n{end}\n")
    results.insert(text, begin, end)


if __name__ == "__main__":
    sys.exit(main())
