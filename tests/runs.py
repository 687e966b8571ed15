"""A small finished run made by hand, whose texts try to break out of the page."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starling import data_files, tables
from starling.at_work import alone
from starling.config import Config
from starling.metrics import Recorder
from starling.records import Candidate, Prompt, Ranking
from starling.store import Run
from starling.underway import Keeper

HOSTILE = (
    '<script>alert("answer")</script> [bold]not bold[/bold] ${1} {{ 7 * 7 }} <img src="http://evil.example/x.png">'
)
HOSTILE_PROMPT = "</summary><script>alert('prompt')</script> Say [red]hello[/red] & stop."
HOSTILE_NAME = "plain$_{x}$<b>"
SETTINGS = Config.model_validate({
    "prompts": {"train": 300, "validation": 30, "test": 100},
    "sample": {
        "train_prompts": 120, "validation_prompts": 24, "max_new_tokens": 80, "token_budget": 60_000,
        "generators": [{"name": HOSTILE_NAME}, {"name": "plain"}, {"name": "hot", "weakened": True}],
    },
    "rank": {"probe_prompts": 20},
    "fit": {"prompts_per_step": 4, "epochs": 1, "token_budget": 70_000},
    "tune": {
        "steps": 16, "prompts_per_step": 16, "rollouts_per_prompt": 4, "updates_per_step": 1, "max_new_tokens": 80,
        "warm_up_prompts": 16, "validate_every": 4, "token_budget": 50_000,
    },
    "evaluate": {"answer_tokens": 80, "resamples": 200},
})  # fmt: skip
BEFORE_FIT = ("prompts", "sample", "rank")
ALL = ("prompts", "sample", "rank", "fit", "tune", "evaluate")


def make(
    root: Path,
    stages: tuple[str, ...] = ALL,
    judge: str = "rubric",
    benchmarks: tuple[dict[str, Any], ...] = (),
    **score: dict[str, float],
) -> Run:
    """A run folder with the given stages done; `score` replaces single scores of the evaluation."""
    run = Run.open(root, SETTINGS)
    facts = {
        "prompts": _prompts, "sample": _sample, "rank": _rank, "fit": _fit, "tune": _tune,
        "evaluate": lambda run: _evaluate(run, judge, score) | ({"benchmarks": [*benchmarks]} if benchmarks else {}),
    }  # fmt: skip
    for stage in stages:
        run.started(stage)
        found = facts[stage](run)
        run.spent(stage, 61.0, 3584)
        run.finished(stage, found)
    return run


@contextmanager
def fitting(root: Path) -> Iterator[Run]:
    """A run in which a process is at work on `fit`, two steps in."""
    run = make(root, BEFORE_FIT)
    with alone(root):
        run.started("fit")
        recorder = Recorder(run.metrics_path, "fit")
        recorder.log(1, {"nll": 1.5, "pair_accuracy": 0.5})
        recorder.log(2, {"nll": 1.25, "pair_accuracy": 0.6})
        Keeper(run.progress_path, "fit").note("fit", 1200, 4800, "tokens", "nll 1.250")
        yield run


def prompt(name: str, split: str, text: str = HOSTILE_PROMPT, kind: str = "writing") -> Prompt:
    checks = [{"check": "max_words", "n": 12}, {"check": "no_commas"}]
    return Prompt(
        id=name, messages=[{"role": "user", "content": text}], family=f"family of {name}", kind=kind, split=split,
        source="hand", reference="Hello.", checks=checks, good_natured=kind != "ill_natured",
    )  # fmt: skip


def candidate(name: str, model: str, draw: int, answer: str = "hello there") -> Candidate:
    return Candidate(
        prompt_id=name, model=model, draw=draw, answer=answer, finished=draw != 1, weakened=draw == 1, num_tokens=9
    )


def _prompts(run: Run) -> dict[str, Any]:
    rows = [prompt(f"{split}-{number}", split) for split in ("train", "validation", "test") for number in range(3)]
    data_files.write_parquet(
        run.folder("prompts") / "00000.parquet", [tables.prompt_row(row) for row in rows], tables.PROMPTS
    )
    return {
        "found": 9,
        "used": {"train": 3, "validation": 3, "test": 3},
        "families": {},
        "kinds": {},
        "with_held_out_check": 9,
    }


def _pairs() -> list[list[Candidate]]:
    return [
        [candidate(f"train-{number}", HOSTILE_NAME, 0, HOSTILE), candidate(f"train-{number}", "hot", 1)]
        for number in range(2)
    ]


def _sample(run: Run) -> dict[str, Any]:
    rows = [{name: getattr(one, name) for name in tables.CANDIDATES.names} for pair in _pairs() for one in pair]
    data_files.write_parquet(run.folder("sample") / "m-00000.parquet", rows, tables.CANDIDATES)
    generators = [{"name": HOSTILE_NAME, "weakened": False}, {"name": "hot", "weakened": True}]
    return {
        "prompts": 2, "prompts_left_out_for_budget": 0, "answers": 4, "tokens": 48_674, "finished": 0.5,
        "generators": generators,
    }  # fmt: skip


def _rank(run: Run) -> dict[str, Any]:
    rows = [
        tables.ranking_row(
            Ranking(
                prompt_id=pair[0].prompt_id,
                messages=prompt("x", "train").messages,
                answers=pair,
                ranks=(1, 2),
                judge="rubric",
            )
        )
        for pair in _pairs()[:1]
    ]
    data_files.write_parquet(run.folder("rank") / "00000.parquet", rows, tables.RANKINGS)
    return {
        "judge": "rubric", "template_hash": "", "ranked": 1, "unranked": 1,
        "mean_rank": {HOSTILE_NAME: 1.25, "hot": 1.75}, "tied_pairs": 0.195,
        "longer_ranked_above": {"share": 0.288, "n": 2423},
        "probe": {
            "judge": "kwise:smollm2", "template_hash": "d1e8", "prompts": 20, "unparsed": 13,
            "reasons": {"cut <b>off</b>": 13},
            "position": {"n": 7, "first": [5, 2], "chi_square": 1.29, "p_value": 0.257},
        },
    }  # fmt: skip


def _score(name: str, value: float, low: float, high: float, n: int = 100) -> dict[str, Any]:
    return {"name": name, "value": value, "low": low, "high": high, "n": n}


def _fit(run: Run) -> dict[str, Any]:
    run.folder("fit")
    for step in range(1, 4):
        line = {"stage": "fit", "step": step, "fit/nll": 1.5 - step / 10, "fit/pair_accuracy": 0.5 + step / 10}
        _log(run, line | ({"fit/held_out_pair_accuracy": 0.71} if step == 3 else {}))
    names = ("pair_accuracy", "pair_accuracy_length_only", "top1_agreement")
    return {
        "rankings": 120, "unusable": {"all answers are tied": 9}, "steps": 3, "tokens": 47_915,
        "held_out": {
            "scores": [_score(name, 0.8, 0.7, 0.9, 370) for name in names], "calibration_error": 0.123,
            "reliability": [[0.3, 0.2, 40], [0.7, 0.8, 60]],
        },
    }  # fmt: skip


def _tune(run: Run) -> dict[str, Any]:
    rows = [{"prompt_id": "train-0", "warm_up": True, "learnt": True}]
    data_files.write_jsonl(run.folder("tune") / "ranked.jsonl", rows)
    for step in range(4):
        line: dict[str, Any] = {"stage": "tune", "step": step}
        if step:
            line |= {
                "tune/reward": 0.1 * step, "tune/objective/kl": 0.9 * step, "tune/completions/mean_length": 50 - step,
                "tune/completions/clipped_ratio": 0.4 - step / 10,
            }  # fmt: skip
        _log(run, line | {"tune/validation/win_rate": 0.5 + step / 50, "tune/validation/mean_length": 47 - step})
    return {
        "steps": 3, "rollout_tokens": 45_123, "stopped_by": "steps", "reward_scale": {"mean": 0.1, "spread": 1.0},
        "kept_step": 2, "looks": [], "validation_tokens": 6_000,
    }  # fmt: skip


def _evaluate(run: Run, judge: str, replaced: dict[str, dict[str, float]]) -> dict[str, Any]:
    cases = [case(number) for number in range(3)]
    data_files.write_jsonl(run.folder("evaluate") / "cases.jsonl", cases)
    scores = [
        _score("win_rate", 0.573, 0.521, 0.624), _score("win_rate_held_out_checks", 0.55, 0.46, 0.64, 60),
        _score("win_rate_within_length_band", 0.54, 0.45, 0.63, 40),
        _score("win_rate_without_finish_and_repetition", 0.56, 0.51, 0.61),
        _score("win_rate/writing", 0.6, 0.5, 0.7), _score("win_rate/ill_natured", 0.2, 0.1, 0.3, 7),
    ]  # fmt: skip
    for side, value in (("base", 0.562), ("tuned", 0.731)):
        for name in (
            "rubric_score",
            "held_out_checks",
            "facts",
            "checks",
            "topic",
            "refusal",
            "finished",
            "repetition",
        ):
            scores.append(_score(f"{side}/{name}", value, value - 0.05, value + 0.05))
        scores += [
            _score(f"{side}/reward", value - 1, value - 1.2, value - 0.8),
            _score(f"{side}/tokens", 46.8, 44.2, 49.1),
        ]
        scores += [
            _score(f"{side}/refused_{kind}", math.nan, math.nan, math.nan, 0) for kind in ("ill_natured", "look_alike")
        ]
    return {
        "judge": judge, "unparsed": 1, "scores": [score | replaced.get(score["name"], {}) for score in scores],
        "drift": {
            "kl": 3.21, "explained_by_finish_and_repetition": 0.102, "reference_logprob_base": -2.13,
            "reference_logprob_tuned": -2.21,
        },
        "tokens": 11_000, "settings": {"temperature": 0.2, "top_p": 0.9, "answer_tokens": 80},
    }  # fmt: skip


def _benchmark(title: str, kind: str, rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {
        "title": title, "bench": title, "kind": kind, "judge": HOSTILE_NAME, "template_hash": "",
        "data": "own <b>7</b>", "cases": 98, "date": "2027-01-01", "rows": rows, "says": [], "left_out": 0,
        "contamination": None,
    } | more  # fmt: skip


def benchmarks() -> tuple[dict[str, Any], ...]:
    """One of each kind, as `evaluate` tells them."""
    base, tuned, change = ({"value": v, "low": v - 0.1, "high": v + 0.1, "n": 98} for v in (0.5, 0.25, -0.25))
    row = {"level": 0, "kind": "share", "base": None, "tuned": tuned, "change": None, "length_only": None, "says": ""}
    held = {"questions": 98, "questions_held": 3, "prompts": 360}
    return (
        _benchmark(
            "ifeval", "change",
            [row | {"label": "prompts, strict", "base": base, "change": change, "says": "worse"},
             row | {"label": HOSTILE, "level": 1, "kind": "number"}],
            says=["prompts, strict: worse, -25.0 pt (12 down)."], left_out=2, contamination=held,
        ),
        _benchmark("mt_bench", "win_rate", [row | {"label": "tuned", "says": "unclear"}], template_hash="a7"),
        _benchmark("reward_bench_2", "reward_model", [row | {"label": "overall", "length_only": base}], judge=""),
    )  # fmt: skip


def case(number: int) -> dict[str, Any]:
    asked = prompt(f"test-{number}", "test")
    verdict = (1.0, 0.0, None)[number]
    return {
        "prompt_id": asked.id, "family": asked.family, "kind": asked.kind, "messages": list(asked.messages),
        "reference": asked.reference, "checks": [dict(check) for check in asked.checks], "verdict": verdict,
        "held_out_verdict": 0.0, "alike_in_length": True, "verdict_without_finish_and_repetition": 0.5,
        **{
            side: {
                "answer": f"{HOSTILE} {side} {number}", "finished": side == "tuned", "tokens": 20 + number,
                "score": score, "aspects": {"finish": 1.0, "repetition": 0.875, "checks": score},
                "held_out": 0.5, "reward": score - 1,
            }
            for side, score in (("base", 0.5), ("tuned", 0.625))
        },
    }  # fmt: skip


def _log(run: Run, line: dict[str, Any]) -> None:
    with run.metrics_path.open("a") as file:
        file.write(json.dumps(line) + "\n")
