"""Figures of answers against the base's, case by case: of tuned policies, and of best-of-n by its unbiased estimate."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import results

from starling import best_of, compared, data_files, device, models, stats, tables
from starling.judges import rubric
from starling.judges.make import make_judge
from starling.judges.ranks import preference
from starling.ledger import Ledger
from starling.records import Candidate, Prompt, Score
from starling.rollout import SamplingSettings, own_settings, score_texts
from starling.stages import evaluate
from starling.store import Run

NUMBERS = (1, 2, 4, 8, 16)
ANSWERS = NUMBERS[-1]
PROMPTS = 100  # of the test split, where each takes 16 answers
SHARD = 50  # prompts: the most that an interruption costs


class Case(NamedTuple):
    """One comparison with the base: each figure's value and how much it counts; a figure that does not apply is left
    out."""

    family: str
    figures: Mapping[str, tuple[float, float]]


def pooled(name: str, found: Sequence[Case]) -> Score:
    """The mean of a figure, with a bootstrap interval over prompt families."""
    kept = [(case.family, *case.figures[name]) for case in found if name in case.figures]
    families, values, weights = zip(*kept, strict=True) if kept else ((), (), ())
    return stats.cluster_mean(name, values, families, weights=weights)


def of_run(run: Run, spread: float) -> list[Case]:
    """The test cases of a tuned policy; the gain in reward is in units of `spread`."""
    return [Case(row["family"] or row["prompt_id"], _figures(row, spread)) for row in results.cases(run)]


def _figures(row: Mapping[str, Any], spread: float) -> dict[str, tuple[float, float]]:
    base, tuned = row["base"], row["tuned"]
    found = {
        "win_rate": row["verdict"],
        "win_rate_held_out_checks": row["held_out_verdict"],
        "win_rate_within_length_band": row["verdict"] if row["alike_in_length"] else None,
        "win_rate_without_finish_and_repetition": row["verdict_without_finish_and_repetition"],
        "held_out_checks": tuned["held_out"],
        "tokens": tuned["tokens"],
        "reward": (tuned["reward"] - base["reward"]) / spread,
    }
    return {name: (float(value), 1.0) for name, value in found.items() if value is not None}


def best_of_n(run: Run, folder: Path, spread: float) -> dict[int, list[Case]]:
    """For each n the test cases of the base with the reward model's choice of n, against the base's first answers.

    The base gives 16 answers to each of the first test prompts, as it samples by itself; each counts as often as it
    would be the choice of n (`best_of.shares`). The reward model is the run's.
    """
    prompts = tables.prompts_of(run, "test")[:PROMPTS]
    base = models.load_policy(run.config.run.model)
    answers = answers_of(run, base, prompts, folder / "best-of.parquet", own_settings(base.network))
    rewards = rewards_of(run, prompts, answers)
    rows = data_files.read_rows(run.root / "evaluate" / "base.parquet")
    first = {row["prompt_id"]: Candidate(**row) for row in rows if row["draw"] == 0}
    found: dict[int, list[Case]] = {n: [] for n in NUMBERS}
    with Ledger(folder / "calls.sqlite", "evaluate") as ledger:
        judge = make_judge(run.config.evaluate, run.config, ledger)
        reward_of_first = rewards_of(run, prompts, [[first[prompt.id]] for prompt in prompts])
        for prompt, own, scored, (old,) in zip(prompts, answers, rewards, reward_of_first, strict=True):
            old_answer = first[prompt.id]
            texts = list({answer.answer: answer for answer in own}.values())  # what is said twice is judged once
            judged = judge.rank([(prompt, [answer, old_answer]) for answer in texts])
            verdicts = {answer.answer: one.ranks for answer, one in zip(texts, judged, strict=True)}
            cases = []
            for answer, reward in zip(own, scored, strict=True):
                ranks = verdicts[answer.answer]
                assessed = [rubric.assess(prompt, one.answer, finished=one.finished) for one in (old_answer, answer)]
                case = compared.Case(
                    prompt=prompt,
                    answers=(old_answer, answer),
                    assessed=(assessed[0], assessed[1]),
                    rewards=(old, reward),
                    verdict=None if ranks is None else preference(ranks),
                )
                cases.append(_of_case(run, case, spread))
            for n in NUMBERS:
                found[n].append(mixed(prompt.family or prompt.id, cases, best_of.shares(scored, n)))
    return found


def mixed(family: str, found: Sequence[Mapping[str, tuple[float, float]]], shares: Sequence[float]) -> Case:
    """One case of several answers, each with its share: every figure's mean over those to which it applies."""
    names = {name for figures in found for name in figures}
    mixture = {}
    for name in sorted(names):
        parts = [(share, figures[name][0]) for share, figures in zip(shares, found, strict=True) if name in figures]
        weight = sum(share for share, _ in parts)
        if weight > 0:
            mixture[name] = (sum(share * value for share, value in parts) / weight, weight)
    return Case(family, mixture)


def _of_case(run: Run, case: compared.Case, spread: float) -> dict[str, tuple[float, float]]:
    config = run.config
    row = {
        "verdict": case.verdict,
        "held_out_verdict": None if case.assessed[0].held_out is None else compared.held_out_preference(case),
        "alike_in_length": compared.alike_in_length(case, config.evaluate.length_band),
        "verdict_without_finish_and_repetition": compared.preference_without_finish_and_repetition(
            case, config.rank.tie_margin
        ),
        "base": {"reward": case.rewards[0]},
        "tuned": {
            "held_out": case.assessed[1].held_out,
            "tokens": case.answers[1].num_tokens,
            "reward": case.rewards[1],
        },
    }
    return _figures(row, spread)


def answers_of(
    run: Run, model: models.Model, prompts: Sequence[Prompt], path: Path, settings: SamplingSettings
) -> list[list[Candidate]]:
    """The base's 16 answers to each prompt, kept in `path` shard by shard; what stands is not sampled again."""
    found = []
    for start in range(0, len(prompts), SHARD):
        file = path.with_name(f"{path.stem}-{start:05}.parquet")
        if not file.exists():
            part = prompts[start : start + SHARD]
            rows = evaluate.sampled(
                run,
                model,
                "base",
                part,
                draws=ANSWERS,
                settings=settings,
                purpose=("best of n", settings["temperature"]),
                title=f"best of n, {start + len(part)} of {len(prompts)}",
            )
            data_files.write_parquet(file, rows, tables.CANDIDATES)
        found += [Candidate(**row) for row in data_files.read_rows(file)]
    return [found[start : start + ANSWERS] for start in range(0, len(found), ANSWERS)]


def rewards_of(run: Run, prompts: Sequence[Prompt], answers: Sequence[Sequence[Candidate]]) -> list[list[float]]:
    """What the run's reward model gives each prompt's answers."""
    model = models.load_reward_model(str(run.folder("fit") / "model"), device.product_dtype())
    shown = [
        (prompt, [answer.answer for answer in own], [answer.finished for answer in own])
        for prompt, own in zip(prompts, answers, strict=True)
    ]
    return score_texts(model, shown, run.config.tune.microbatch_tokens)
