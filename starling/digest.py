"""What a run has to show: every number of the report, of the closing summary and of `starling show`.

A stage that is not done yet is there with its state and without figures.
"""

import time
from collections.abc import Mapping
from typing import Any

from starling import before_after, data_files, glance, metrics
from starling.config import Config
from starling.judges import rubric
from starling.judges.checks import HELD_OUT
from starling.standing import Standing, standing
from starling.store import ROAD, Run
from starling.writing import without_nan

STAGES = ROAD[:-1]
NOUNS = {
    "prompts": "Prompts",
    "sample": "Answers",
    "rank": "Rankings",
    "fit": "Reward model",
    "tune": "Policy",
    "evaluate": "Test",
}
KEPT_BASE = (
    "The tuned model is the base model itself: the judge liked none of what tuning came to better, or it lost too much."
)
NEITHER = "In no comparison is either better."
FIT_LABELS = {
    "pair_accuracy": "Model, all pairs",
    "pair_accuracy_length_only": "Longer wins, all pairs",
    "pair_accuracy_not_weakened": "Model, not weakened",
    "pair_accuracy_not_weakened_length_only": "Longer wins, not weakened",
    "top1_agreement": "Top answer agrees",
}


def digest(run: Run) -> dict[str, Any]:
    """Everything but the texts of the test answers, as JSON holds it."""
    facts = {stage: run.facts(stage) if run.is_done(stage) else {} for stage in STAGES}
    lines = metrics.read(run.metrics_path)
    cases = read_cases(run) if facts["evaluate"] else []
    result = result_of(facts["evaluate"], cases, run.config, kept_base=_keeps_base(facts["tune"]))
    found = {
        "name": run.root.resolve().name,
        "headline": result["headline"] if result else [not_measured(run)],
        "tone": result["tone"] if result else "none",
        "result": result,
        "road": road(run, facts),
        "budgets": budgets(run.config, facts),
        "peak_memory_mib": max(
            (entry.get("peak_memory_mib", 0) for entry in run.manifest["stages"].values()), default=0
        ),
        "fit": _fit(facts["fit"], lines),
        "tune": _tune(facts["tune"], lines),
        "judge": _judge(facts["rank"], facts["sample"]),
        "cases": [case_numbers(case) for case in cases],
    }
    return without_nan(at_moment(found, standing(run, time.time())))


def _keeps_base(tune: Mapping[str, Any]) -> bool:
    """Whether there were steps, and none of them was kept."""
    return bool(tune.get("steps")) and tune["kept_step"] == 0


def at_moment(found: Mapping[str, Any], now: Standing | None) -> dict[str, Any]:
    """The same with state and time of the stage that is not done as it stands `now`, and what follows from them."""
    road = [
        {**entry, "state": now.state, "seconds": now.seconds} if now and entry["stage"] == now.stage else entry
        for entry in found["road"]
    ]
    told = {**found, "road": road, "seconds": sum(entry["seconds"] for entry in road)}
    return told | {"glance": glance.cards(told)}


def read_cases(run: Run) -> list[dict[str, Any]]:
    """The test prompts with both answers, as `evaluate` wrote them."""
    return data_files.read_rows(run.root / "evaluate" / "cases.jsonl")


def not_measured(run: Run) -> str:
    """Why there is no result yet, and how to get one."""
    missing = next(stage for stage in STAGES if not run.is_done(stage))
    return (
        f"Not measured yet: the stage {missing} is not done. `starling run` with the same settings goes on from there."
    )


def result_of(
    facts: Mapping[str, Any], cases: list[dict[str, Any]], config: Config, *, kept_base: bool
) -> dict[str, Any] | None:
    """What evaluation found, None before it is done."""
    if not facts:
        return None
    scores, drift = before_after.by_name(facts["scores"]), facts["drift"]
    explained = drift.get("explained_by_finish_and_repetition")
    outcomes = [before_after.outcome(case["verdict"]) for case in cases]
    held_out = [
        before_after.outcome(case["held_out_verdict"]) for case in cases if case["held_out_verdict"] is not None
    ]
    judge, all_same = before_after.judge_named(facts["judge"]), kept_base and set(outcomes) == {"same"}
    return {
        "judge": facts["judge"],
        "judge_named": judge,
        "headline": [
            *([KEPT_BASE] if kept_base else []),
            *([f"{NEITHER} Judge: {judge}."] if all_same else before_after.headline(scores, facts["judge"], explained)),
            *([facts["caution"]] if "caution" in facts else []),
        ],
        "tone": before_after.tone(scores["win_rate"]),
        "win_rates": before_after.win_rates(scores),
        "by_kind": before_after.win_rates_by_kind(scores),
        "table": before_after.table(scores, drift, cases, config),
        "explained_by_finish_and_repetition": explained,
        "kl": drift.get("kl"),
        "test_prompts": len({case["prompt_id"] for case in cases}),
        "comparisons": len(cases),
        "unparsed": facts["unparsed"],
        "settings": facts["settings"],
        "outcomes": {name: outcomes.count(name) for name in ("better", "same", "worse", "unread")},
        "held_out_outcomes": {name: held_out.count(name) for name in ("better", "same", "worse")},
        "benchmarks": facts.get("benchmarks", []),
        **_panel(facts),
    }


def road(run: Run, facts: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The stages in order: state, time, and what each counted."""
    counts = _counts(facts)
    entries = [run.manifest["stages"].get(stage, {}) for stage in STAGES]
    return [
        {
            "stage": stage,
            "noun": NOUNS[stage],
            "state": entry.get("state", "not begun"),
            "seconds": float(entry.get("seconds", 0.0)),
            "counts": counts[stage] if facts[stage] else [],
        }
        for stage, entry in zip(STAGES, entries, strict=True)
    ]


def budgets(config: Config, facts: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Tokens used and allowed by each part; `used` is None before the part is done, `allowed` is 0 without a limit."""
    tested = facts["evaluate"].get("tokens")
    parts = (
        ("sample", "sampled for ranking", facts["sample"].get("tokens"), config.sample.token_budget),
        ("fit", "packed for fit", facts["fit"].get("tokens"), config.fit.token_budget),
        ("tune", "rolled out", facts["tune"].get("rollout_tokens"), config.tune.token_budget),
        (
            "evaluate",
            "in validation and test",
            None if tested is None else tested + facts["tune"].get("validation_tokens", 0),
            config.evaluate.token_budget,
        ),
    )
    return [{"stage": stage, "label": label, "used": used, "allowed": allowed} for stage, label, used, allowed in parts]


def case_numbers(case: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of one test prompt; its texts stay in `evaluate/cases.jsonl`."""
    sides = {
        side: {key: case[side][key] for key in ("score", "held_out", "reward", "tokens", "finished", "aspects")}
        for side in before_after.SIDES
    }
    return {
        "prompt_id": case["prompt_id"],
        "outcome": before_after.outcome(case["verdict"]),
        "held_out_outcome": None
        if case["held_out_verdict"] is None
        else before_after.outcome(case["held_out_verdict"]),
        "held_out_checks": sum(check["check"] in HELD_OUT for check in case["checks"]),
        "gain": case["tuned"]["score"] - case["base"]["score"],
        **sides,
    }


def _counts(facts: Mapping[str, Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    prompts, sample, rank = facts["prompts"], facts["sample"], facts["rank"]
    fit, tune, evaluate = facts["fit"], facts["tune"], facts["evaluate"]
    used = prompts.get("used", {})
    judged = before_after.by_name(evaluate.get("scores", ())).get("win_rate", {}).get("n")
    named = {
        "prompts": {f"for {split}": used.get(split, 0) for split in ("train", "validation", "test")},
        "sample": {
            "answers": sample.get("answers"),
            "prompts": sample.get("prompts"),
            "generators": len(sample.get("generators", [])),
        },
        "rank": {"rankings": rank.get("ranked"), "not readable": rank.get("unranked")},
        "fit": {"rankings learnt": fit.get("rankings"), "steps": fit.get("steps")},
        "tune": {"steps": tune.get("steps"), "kept: step": tune.get("kept_step")},
        "evaluate": {"verdicts": judged, "models": 2},
    }
    return {
        stage: [{"label": label, "value": value} for label, value in counts.items() if value is not None]
        for stage, counts in named.items()
    }


def _fit(facts: Mapping[str, Any], lines: list[dict[str, Any]]) -> dict[str, Any]:
    held_out = facts.get("held_out") or {}
    scores = before_after.by_name(held_out.get("scores", []))
    return {
        "curve": [line for line in lines if line["stage"] == "fit"],
        "held_out": [
            {"key": key, "label": FIT_LABELS.get(key, key), "baseline": key.endswith("length_only"), **score}
            for key, score in scores.items()
        ],
        "calibration_error": held_out.get("calibration_error"),
        "reliability": [{"stated": p, "observed": y, "n": n} for p, y, n in held_out.get("reliability", [])],
        "unusable": [{"reason": why, "count": count} for why, count in facts.get("unusable", {}).items()],
    }


def _tune(facts: Mapping[str, Any], lines: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "curve": [line for line in lines if line["stage"] == "tune"],
        "kept_step": facts.get("kept_step"),
        "stopped_by": facts.get("stopped_by"),
    }


def _judge(rank: Mapping[str, Any], sample: Mapping[str, Any]) -> dict[str, Any] | None:
    if not rank:
        return None
    weakened = {generator["name"] for generator in sample.get("generators", []) if generator["weakened"]}
    probe = rank.get("probe")
    return {
        "judge": rank["judge"],
        "judge_named": before_after.judge_named(rank["judge"]),
        "template_hash": rank["template_hash"],
        "is_program": rank["judge"] == rubric.NAME,
        "mean_rank": [{"model": m, "rank": r, "weakened": m in weakened} for m, r in rank["mean_rank"].items()],
        "longer_ranked_above": rank["longer_ranked_above"],
        "tied_pairs": rank["tied_pairs"],
        "probe": probe and probe | {
            "unparsed_share": probe["unparsed"] / probe["prompts"] if probe["prompts"] else None,
            "reasons": [{"reason": reason, "count": count} for reason, count in probe["reasons"].items()],
        },
        **_panel(rank),
    }  # fmt: skip


def _panel(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a stage says of each judge of its panel, if it had one."""
    return {"panel": facts["panel"]} if "panel" in facts else {}
