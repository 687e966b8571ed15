"""evaluate: base and tuned policy answer the test prompts; the judge compares; every figure with n and interval."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, TypeVar

import torch
from transformers.modeling_utils import PreTrainedModel

from starling import (
    chat,
    compared,
    contamination,
    data_files,
    device,
    models,
    own_reward,
    packing,
    polling,
    progress,
    run_benchmarks,
    tables,
)
from starling.compared import MODELS, Case
from starling.config import Config
from starling.generate import stop_ids
from starling.judges import rubric
from starling.judges.make import named_judges
from starling.judges.rubric import Assessment
from starling.ledger import Ledger
from starling.models import Model
from starling.packing import Packed
from starling.policy import Policy
from starling.records import Candidate, Prompt
from starling.rollout import SamplingSettings, candidates, left_aside, own_settings, sample_groups, score_texts
from starling.store import Run
from starling.writing import write_json

Row = TypeVar("Row")
CASES, SCORES = "cases.jsonl", "scores.json"


def run(run: Run) -> dict[str, Any]:
    """Write `evaluate/cases.jsonl`, `evaluate/scores.json` and `evaluate/benchmarks/`; what stands is not done again.

    What was measured stands for as long as the run: its settings and its weights do not change, only the benchmarks
    that are asked for may.
    """
    table = _standing(run) or _measure(run)
    _write(run, table)  # benchmarks may take hours more
    if run.config.evaluate.benchmarks:
        table |= {"benchmarks": run_benchmarks.run(run)}
        _write(run, table)
    return table


def _standing(run: Run) -> dict[str, Any] | None:
    """What was measured before; None where a file of it is missing."""
    folder = run.folder("evaluate")
    if not all((folder / name).exists() for name in (*(f"{name}.parquet" for name in MODELS), CASES, SCORES)):
        return None
    progress.say("evaluate: the test prompts are measured already")
    found = json.loads((folder / SCORES).read_text())
    return {key: value for key, value in found.items() if key != "benchmarks"}


def _write(run: Run, table: dict[str, Any]) -> None:
    write_json(run.folder("evaluate") / SCORES, table)


def _measure(run: Run) -> dict[str, Any]:
    """Let both models answer the test prompts, compare, and write each case; answers that stand are taken."""
    config = run.config
    prompts = tables.prompts_of(run, "test")
    contaminated = contamination.between(prompts, tables.prompts_of(run, *contamination.LEARNT_FROM))
    for line in contamination.lines(contaminated):
        progress.say(line)
    paths = (config.run.model, str(run.policy_path))
    answers = [_answers(run, name, path, prompts) for name, path in zip(MODELS, paths, strict=True)]
    prompts = [prompt for prompt in prompts for _ in range(config.evaluate.draws)]  # one for each case
    rewards = list(zip(*_rewards(run, prompts, answers), strict=True))
    with Ledger(run.ledger_path, "evaluate") as ledger:
        progress.note_interrupted(ledger.interrupted)
        shown = [(p, [b, a]) for p, a, b in zip(prompts, *answers, strict=True)]
        judge, judged = polling.ask(config.evaluate, config, ledger, shown)
    about = own_reward.tell(run, judge) | polling.tell_unread(judged)
    cases = [
        Case(
            prompt=prompt,
            answers=(base, tuned),
            assessed=(_assess(prompt, base), _assess(prompt, tuned)),
            rewards=reward,
            verdict=verdict,
        )
        for prompt, base, tuned, reward, verdict in zip(
            prompts, *answers, rewards, polling.verdicts(judge, judged), strict=True
        )
    ]
    found = compared.scores(config, cases)
    tuned = models.load_policy(paths[1]).network
    table = {
        "judge": judge.name,
        **about,
        "unparsed": sum(case.verdict is None for case in cases),
        "scores": [asdict(score) for score in found],
        "contamination": contaminated,
        "drift": _drift(config, tuned, cases),
        "tokens": sum(answer.num_tokens for case in cases for answer in case.answers),
        "settings": own_settings(tuned) | {"answer_tokens": config.evaluate.answer_tokens},
        "left_aside": left_aside(tuned),
    }
    rows = [
        compared.row(case, config.evaluate.length_band, config.rank.tie_margin) | polling.why_unread(said)
        for case, said in zip(cases, judged, strict=True)
    ]
    families = [compared.family_of(case) for case in cases]
    if panel := polling.facts(judge, judged, families, partial(compared.win_rate, config, families)):
        table |= {"panel": panel}
        votes = polling.of_members(judge, judged)
        rows = [row | {"verdicts": {name: votes[name][at] for name in votes}} for at, row in enumerate(rows)]
        polling.show(panel, asdict(next(one for one in found if one.name == "win_rate")), judge.name)
    data_files.write_jsonl(run.folder("evaluate") / CASES, rows)
    return table


def sampled(
    run: Run,
    model: Model,
    name: str,
    prompts: Sequence[Prompt],
    *,
    draws: int,
    settings: SamplingSettings,
    purpose: tuple[object, ...],
    title: str,
) -> list[dict[str, Any]]:
    """Rows of `draws` answers of the model to each prompt, under the token cap of the run's test answers."""
    cap = run.config.evaluate.answer_tokens
    with progress.track(title, len(prompts) * draws * cap, "tokens") as advance:
        groups = sample_groups(
            model,
            prompts,
            count=draws,
            max_new_tokens=cap,
            **settings,
            seed=run.config.run.seed,
            purpose=purpose,
            on_tokens=advance,
        )
    return [asdict(answer) | {"call": None} for answer in candidates(groups, name)]  # the table says null, not ""


def _answers(run: Run, name: str, path: str, prompts: Sequence[Prompt]) -> list[Candidate]:
    file = run.folder("evaluate") / f"{name}.parquet"
    if not file.exists():
        model = models.load_policy(path)
        rows = sampled(
            run,
            model,
            name,
            prompts,
            draws=run.config.evaluate.draws,
            settings=own_settings(model.network),
            purpose=("test",),
            title=f"evaluate {name}",
        )
        data_files.write_parquet(file, rows, tables.CANDIDATES)
    return [Candidate(**row) for row in data_files.read_rows(file)]


def _assess(prompt: Prompt, answer: Candidate) -> Assessment:
    return rubric.assess(prompt, answer.answer, finished=answer.finished)


@torch.no_grad()
def _drift(config: Config, tuned: PreTrainedModel, cases: Sequence[Case]) -> dict[str, float | None]:
    """How far the tuned policy moved: its KL to the base, nats an answer, over the whole vocabulary at each token that
    it said, and on how many answers; logprob of the reference answers before and after, and how many there are."""
    policy = Policy(models.load_policy(config.run.model), config.tune.layers)
    policy.take_over(tuned)
    stop = stop_ids(policy.network)
    own, references = [], []
    for same in _by_prompt(cases, config):
        messages, reference = same[0].prompt.messages, same[0].prompt.reference
        prompt_ids = chat.prompt_ids(policy.tokenizer, messages)
        said = [case.answers[1] for case in same if case.answers[1].answer]
        if said:
            ids = [chat.turn_ids(policy.tokenizer, messages, one.answer, stop, finished=one.finished) for one in said]
            own.append((prompt_ids, ids))
        if reference:
            ids = [chat.turn_ids(policy.tokenizer, messages, reference, stop, finished=True)]
            references.append((prompt_ids, ids))
    num_own = sum(len(texts) for _, texts in own)
    by_rubric = all(one.cfg.judge == rubric.NAME for one in named_judges(config, config.evaluate))
    explained = compared.explained_by_finish_and_repetition(cases, config.rank.tie_margin) if by_rubric else None
    kl, before, after = 0.0, [], []
    with progress.track("evaluate KL", num_own + len(references), "answers") as advance:
        for packed in _packed(own, config, advance):
            kl += float(policy.kl(packed).sum())
        for packed in _packed(references, config, advance):
            features = policy.features(packed)
            before += features.ref_logprob_N.tolist()
            after += policy.logprobs(packed, features).tolist()
    return {
        "kl": kl / max(num_own, 1),
        "kl_answers": num_own,
        "references": len(references),
        "explained_by_finish_and_repetition": explained,
        "reference_logprob_base": sum(before) / len(before) if references else None,
        "reference_logprob_tuned": sum(after) / len(after) if references else None,
    }


def _by_prompt(rows: Sequence[Row], config: Config) -> list[Sequence[Row]]:
    """Rows of cases, those of the same prompt together: `evaluate.draws` each."""
    draws = config.evaluate.draws
    return [rows[start : start + draws] for start in range(0, len(rows), draws)]


def _rewards(run: Run, prompts: Sequence[Prompt], answers: Sequence[Sequence[Candidate]]) -> list[list[float]]:
    """The run's reward of each case's answer, a row for each model; the reward model is let go after it."""
    model = models.load_reward_model(str(run.reward_model_path), device.product_dtype())
    with progress.track("evaluate reward", sum(map(len, answers)), "answers") as advance:
        return [_rewards_of(model, prompts, own, run.config, advance) for own in answers]


def _rewards_of(
    model: Model, prompts: Sequence[Prompt], answers: Sequence[Candidate], config: Config, advance: progress.Advance
) -> list[float]:
    """A prompt runs once for all its answers."""
    shown = [
        (same[0][0], [answer.answer for _, answer in same], [answer.finished for _, answer in same])
        for same in _by_prompt(list(zip(prompts, answers, strict=True)), config)
    ]
    scored = score_texts(model, shown, config.tune.microbatch_tokens, on_answers=advance)
    return [reward for row in scored for reward in row]


def _packed(packs: Sequence[Any], config: Config, advance: progress.Advance) -> Iterator[Packed]:
    for batch, packed in packing.batches(packs, config.tune.microbatch_tokens):
        yield packed
        advance(sum(len(packs[index][1]) for index in batch))
