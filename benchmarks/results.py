"""Run the default recipe with several seeds on all test prompts and write what came out into docs/results.md.

    python benchmarks/results.py [--seeds 1 2 3] [--out runs/results]

Each seed is a whole road of its own: sampling, ranking, reward model, tuning, evaluation. A seed that is finished is
not run again. Intervals come from a bootstrap over prompt families; the pooled row takes all seeds' verdicts on a
family together.
"""

import argparse
import datetime
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from starling import data_files, stats
from starling.records import Score
from starling.store import Run

TEST_PROMPTS = 555
DRAWS = 2  # answers of each model to each test prompt: sampling noise is most of what hides a small effect
RESULTS = Path(__file__).parent.parent / "docs" / "results.md"
BEGIN, END = "<!-- default recipe: begin -->", "<!-- default recipe: end -->"
FIGURES = {
    "win_rate": "win rate, all that the judge sees",
    "win_rate_held_out_checks": "win rate, only the checks never trained on",
    "win_rate_within_length_band": "win rate, answers of like length",
    "win_rate_without_finish_and_repetition": "win rate, finish and repetition not counted",
}
BEFORE_AFTER = {
    "rubric_score": "rubric score",
    "held_out_checks": "held-out checks fulfilled",
    "checks": "ordinary checks fulfilled",
    "facts": "key facts stated",
    "topic": "on topic",
    "finished": "finished answers",
    "repetition": "free of repetition",
    "tokens": "tokens an answer",
    "reward": "reward model's score",
    "refused_ill_natured": "ill-natured requests refused",
    "refused_look_alike": "harmless look-alikes refused",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=Path("runs/results"))
    options = parser.parse_args()
    runs = [_run(seed, options.out / f"seed-{seed}") for seed in options.seeds]
    text = render(runs)
    print(text)
    insert(text, BEGIN, END)


def render(runs: list[Run]) -> str:
    """The section of docs/results.md."""
    names = [f"seed {run.config.run.seed}" for run in runs]
    families = len({row["family"] for row in cases(runs[0])})
    lines = [
        f"`make results`, {datetime.date.today().isoformat()}, {machine()}; judge: the rubric, a program; "
        f"{TEST_PROMPTS} test prompts of {families} families, {DRAWS} answers of each model to each; "
        "no family seen in ranking, fitting or selection; "
        "95 % intervals by bootstrap over families; ties count half.",
        "",
        "| tuned against base | " + " | ".join(names) + " | pooled |",
        "|---" * (len(runs) + 2) + "|",
    ]
    for name, label in FIGURES.items():
        cells = [win(_score(run, name)) for run in runs] + [win(_pooled(runs, name))]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    lines += ["", "| base -> tuned | " + " | ".join(names) + " |", "|---" * (len(runs) + 1) + "|"]
    for name, label in BEFORE_AFTER.items():
        cells = [f"{_score(run, f'base/{name}').value:.3g} -> {_score(run, f'tuned/{name}').value:.3g}" for run in runs]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    drifts = [run.facts("evaluate")["drift"] for run in runs]
    lines += [
        "| KL of the tuned policy to the base, nats an answer | " + " | ".join(f"{d['kl']:.1f}" for d in drifts) + " |",
        "| logprob a token of the reference answers | "
        + " | ".join(f"{d['reference_logprob_base']:.3f} -> {d['reference_logprob_tuned']:.3f}" for d in drifts)
        + " |",
        "| wins explained by finish and repetition alone | "
        + " | ".join(f"{d['explained_by_finish_and_repetition']:.0%}" for d in drifts)
        + " |",
        "| kept step | " + " | ".join(str(run.facts("tune")["kept_step"]) for run in runs) + " |",
        "| wall time, minutes | " + " | ".join(f"{_minutes(run):.1f}" for run in runs) + " |",
    ]
    return "\n".join(lines)


def _run(seed: int, folder: Path) -> Run:
    command = [sys.executable, "-m", "starling.cli", "run", "--run", str(folder)]
    command += ["--set", f"run.seed={seed}", "--set", f"prompts.test={TEST_PROMPTS}"]
    command += ["--set", f"evaluate.draws={DRAWS}"]
    command += ["--set", "evaluate.token_budget=0"]  # the default budget covers 100 test prompts
    command += ["--set", "rank.probe_prompts=0"]  # a figure of its own that no other depends on
    subprocess.run(command, check=True)
    return Run.read(folder)


def _score(run: Run, name: str) -> Score:
    return next(Score(**score) for score in run.facts("evaluate")["scores"] if score["name"] == name)


def _pooled(runs: list[Run], name: str) -> Score:
    values: dict[str, Callable[[dict], float | None]] = {
        "win_rate": lambda row: row["verdict"],
        "win_rate_held_out_checks": lambda row: row["held_out_verdict"],
        "win_rate_within_length_band": lambda row: row["verdict"] if row["alike_in_length"] else None,
        "win_rate_without_finish_and_repetition": lambda row: row["verdict_without_finish_and_repetition"],
    }
    rows = [(values[name](row), row["family"]) for run in runs for row in cases(run)]
    kept = [(value, family) for value, family in rows if value is not None]
    return stats.cluster_mean(name, [value for value, _ in kept], [family for _, family in kept])


def cases(run: Run) -> list[dict]:
    """The test prompts of a finished run with both answers."""
    return data_files.read_rows(run.folder("evaluate") / "cases.jsonl")


def win(score: Score) -> str:
    """A win rate with its interval."""
    return f"**{score.value:.1%}** ({score.low:.1%} to {score.high:.1%}), n = {score.n}"


def _minutes(run: Run) -> float:
    return sum(stage["seconds"] for stage in run.manifest["stages"].values()) / 60


def machine() -> str:
    """What this was measured on."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return f"{len(os.sched_getaffinity(0))} cores of {cpu}, no GPU"


def insert(text: str, begin: str, end: str, path: Path = RESULTS) -> None:
    """Put the text between its two markers in docs/results.md, or in another file."""
    head, rest = path.read_text().split(begin)
    tail = rest.split(end)[1]
    path.write_text(f"{head}{begin}\n{text}\n{end}{tail}")
    print(f"\nwritten to {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
