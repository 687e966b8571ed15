"""What each algorithm is run with, so that all learn from equally many tokens; the runs themselves.

A variant's run is a folder of its own that takes all before `tune` over from the run it starts from.
"""

import itertools
import json
import math
import os
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from starling import data_files, metrics, models, rollout, tables
from starling.store import Run

SETTINGS = Path(__file__).with_suffix("").with_name("tune_algorithms.toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What a run has to learn from: its rankings, tokens of all answers of one in the mean, and of a rollout."""

    rankings: int
    ranking_tokens: float
    rollout_tokens: float


def material(run: Run) -> Material:
    """Counted in the run; a rollout's length is that of its own tuning, or of its ranked answers."""
    return _material(run.root)


@cache
def _material(root: Path) -> Material:
    run = Run.read(root)
    prompts = tables.prompts_of(run, "train")
    groups = rollout.ranked_groups(models.load_policy(run.config.run.model), prompts, tables.rankings_of(run, prompts))
    tokens = [len(answer.ids) for group in groups for answer in group.answers]
    lines = [line for line in metrics.read(run.metrics_path) if line.get("tune/online")]
    lengths = [line["tune/completions/mean_length"] for line in lines] or [sum(tokens) / len(tokens)]
    return Material(
        rankings=len(groups),
        ranking_tokens=sum(tokens) / len(groups),
        rollout_tokens=sum(lengths) / len(lengths),
    )


def variants(only: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The settings of each algorithm, with the label of its run; several where a value is still to be chosen."""
    data = tomllib.loads(SETTINGS.read_text())
    if unknown := sorted(set(only) - {"best_of", *data["variants"]}):
        raise SystemExit(
            f"{SETTINGS.name} has no variant {unknown[0]}; variants: {', '.join(data['variants'])}, best_of"
        )
    chosen = {name: own for name, own in data["variants"].items() if not only or name in only}
    return {name: _each(name, data["all"] | own) for name, own in chosen.items()}


def _each(name: str, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every combination of the values that stand in lists, each with a label that tells them apart."""
    open_keys = [key for key, value in settings.items() if isinstance(value, list)]
    found = []
    for values in itertools.product(*(settings[key] for key in open_keys)):
        chosen = dict(zip(open_keys, values, strict=True))
        label = " ".join([name, *(f"{key}={value:g}" for key, value in chosen.items())])
        found.append({**settings, **chosen, "label": label})
    return found


def budgeted(settings: Mapping[str, Any], tokens: int, found: Material) -> dict[str, Any]:
    """Settings of [tune] with which about `tokens` answer tokens are learnt from.

    Ranked answers count all tokens of each ranking once a pass, whether an algorithm looks at all of them or at the
    best: that many had to be sampled and ranked.
    """
    own = {key: value for key, value in settings.items() if key != "label"}
    ranked = own.pop("ranked_share") * tokens
    passes = max(1, math.ceil(ranked / (found.rankings * found.ranking_tokens)))
    prompts = min(found.rankings, round(ranked / passes / found.ranking_tokens))
    left = tokens - prompts * passes * found.ranking_tokens
    a_step = own["prompts_per_step"] * own["rollouts_per_prompt"] * found.rollout_tokens
    steps = max(1, round(left / a_step)) if settings["ranked_share"] < 1 else 0
    return own | {"ranked_prompts": prompts, "ranked_epochs": passes, "steps": steps}


def run(base: Run, folder: Path, settings: Mapping[str, Any], until: str) -> Run | None:
    """Tune and evaluate in `folder`, from where an earlier call stopped; None where it failed, which is said."""
    command = [sys.executable, "-m", "starling.cli", "run", str(base.root / "config.toml"), "--run", str(folder)]
    command += ["--from", str(base.root), "--until", until]
    for key, value in settings.items():
        command += ["--set", f"tune.{key}={json.dumps(value)}"]
    command += ["--set", "evaluate.token_budget=0", "--set", "evaluate.draws=1"]
    if until == "evaluate":  # the base's answers are the same whatever was tuned
        answers = folder / "evaluate" / "base.parquet"
        answers.parent.mkdir(parents=True, exist_ok=True)
        if not answers.exists():
            rows = data_files.read_rows(base.root / "evaluate" / "base.parquet")
            data_files.write_parquet(answers, [row for row in rows if not row["draw"]], tables.CANDIDATES)
    print("$", " ".join(command), file=sys.stderr)
    if subprocess.run(command).returncode:
        print(f"{folder}: did not finish; its line above says why", file=sys.stderr)
        return None
    _share_weights(base.root / "fit" / "model", folder / "fit" / "model")
    return Run.read(folder)


def _share_weights(own: Path, copies: Path) -> None:
    """Let a copy of the reward model's weights be the same file on disk: fifty copies of half a gigabyte are many."""
    for file in own.glob("*.safetensors"):
        if file.samefile(copies / file.name):
            continue
        link = copies / f"{file.name}.partial"
        link.unlink(missing_ok=True)
        with suppress(OSError):  # two file systems: then it stays a copy
            os.link(file, link)
            os.replace(link, copies / file.name)


def choose(base: Run, folder: Path, candidates: Sequence[dict[str, Any]], tokens: int) -> dict[str, Any]:
    """The candidate whose best look at the validation prompts won most; the first of equals, and of one that one."""
    if len(candidates) == 1:
        return candidates[0]
    found = []
    for settings in candidates:
        tuned = run(base, path_of(folder, settings), budgeted(settings, tokens, material(base)), "tune")
        looks = tuned.facts("tune")["looks"] if tuned else []
        found.append(max((look["win_rate"] for look in looks if look["admitted"]), default=-1.0))
        print(f"{settings['label']}: validation win rate {found[-1]:.3f}", file=sys.stderr)
    return candidates[found.index(max(found))]


def path_of(folder: Path, settings: Mapping[str, Any]) -> Path:
    """A variant's run beside the others."""
    return folder / settings["label"].replace(" ", "-")
