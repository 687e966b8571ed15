"""evaluate: base and tuned policy answer the test prompts; the judge compares; every figure with n and interval."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeVar

import torch

from starling import chat, contamination, data_files, models, own_reward, packing, polling, progress, stats, tables
from starling.config import Config
from starling.judges import rubric
from starling.judges.ranks import ranks_with_ties
from starling.judges.rubric import Assessment
from starling.ledger import Ledger
from starling.losses import kl
from starling.models import Model
from starling.policy import Policy
from starling.records import Candidate, Prompt, Score
from starling.rollout import SamplingSettings, candidates, own_settings, sample_groups, score_texts
from starling.selection import preference
from starling.store import Run, write_atomically

MODELS = ("base", "tuned")
Row = TypeVar("Row")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One test prompt with an answer of each model and all that was found out about them; pairs are (base, tuned)."""

    prompt: Prompt
    answers: tuple[Candidate, Candidate]
    assessed: tuple[Assessment, Assessment]
    rewards: tuple[float, float]
    verdict: float | None

    @property
    def words(self) -> tuple[int, int]:
        return len(rubric.words(self.answers[0].answer)), len(rubric.words(self.answers[1].answer))


def run(run: Run) -> dict[str, Any]:
    """Write `evaluate/cases.jsonl` and `evaluate/scores.json`; a model's answers that stand are not sampled again."""
    config = run.config
    prompts = tables.prompts_of(run, "test")
    contaminated = contamination.between(prompts, tables.prompts_of(run, *contamination.LEARNT_FROM))
    for line in contamination.lines(contaminated):
        progress.console.print(line, markup=False)
    paths = (config.run.model, str(run.folder("tune") / "policy"))
    answers = [_answers(run, name, path, prompts) for name, path in zip(MODELS, paths, strict=True)]
    prompts = [prompt for prompt in prompts for _ in range(config.evaluate.draws)]  # one for each case
    reward_model = models.load_reward_model(str(run.folder("fit") / "model"), torch.bfloat16)
    with progress.track("evaluate reward", sum(map(len, answers)), "answers") as advance:
        rewards = list(zip(*(_rewards(reward_model, prompts, own, config, advance) for own in answers), strict=True))
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
    found = scores(config, cases)
    table = {
        "judge": judge.name,
        **about,
        "unparsed": sum(case.verdict is None for case in cases),
        "scores": [asdict(score) for score in found],
        "contamination": contaminated,
        "drift": _drift(config, paths[1], cases),
        "tokens": sum(answer.num_tokens for case in cases for answer in case.answers),
        "settings": own_settings(models.load_policy(paths[1]).network)
        | {"answer_tokens": config.evaluate.answer_tokens},
    }
    rows = [
        _case_row(case, config.evaluate.length_band, config.rank.tie_margin) | polling.why_unread(said)
        for case, said in zip(cases, judged, strict=True)
    ]
    families = [_family(case) for case in cases]
    if panel := polling.facts(judge, judged, families, partial(_win_rate, config, families)):
        table |= {"panel": panel}
        votes = polling.of_members(judge, judged)
        rows = [row | {"verdicts": {name: votes[name][at] for name in votes}} for at, row in enumerate(rows)]
        polling.show(panel, asdict(found[0]), judge.name)
    data_files.write_jsonl(run.folder("evaluate") / "cases.jsonl", rows)
    write_atomically(run.folder("evaluate") / "scores.json", json.dumps(table, indent=1) + "\n")
    return table


def _family(case: Case) -> str:
    return case.prompt.family or case.prompt.id


def _win_rate(config: Config, families: Sequence[str], votes: polling.Votes) -> Score:
    """One judge's win rate over the cases that it could read, ties half."""
    read = [(vote, family) for vote, family in zip(votes, families, strict=True) if vote is not None]
    values, clusters = [vote for vote, _ in read], [family for _, family in read]
    return stats.cluster_mean("win_rate", values, clusters, resamples=config.evaluate.resamples, seed=config.run.seed)


def scores(config: Config, cases: Sequence[Case]) -> list[Score]:
    """The before/after figures, intervals by bootstrap over prompt families."""
    judged = [case for case in cases if case.verdict is not None]
    held_out = [case for case in cases if case.assessed[0].held_out is not None]
    alike = [case for case in judged if alike_in_length(case, config.evaluate.length_band)]

    def figure(name: str, chosen: Sequence[Case], value: Callable[[Case], float]) -> Score:
        families = [_family(case) for case in chosen]
        values = [value(case) for case in chosen]
        return stats.cluster_mean(name, values, families, resamples=config.evaluate.resamples, seed=config.run.seed)

    def other_aspects(case: Case) -> float:
        return preference_without_finish_and_repetition(case, config.rank.tie_margin)

    found = [
        figure("win_rate", judged, lambda case: case.verdict or 0.0),
        figure("win_rate_held_out_checks", held_out, held_out_preference),
        figure("win_rate_within_length_band", alike, lambda case: case.verdict or 0.0),
        figure("win_rate_without_finish_and_repetition", judged, other_aspects),
    ]
    plain: dict[str, tuple[Sequence[Case], Callable[..., float]]] = {
        "rubric_score": (cases, lambda case, side: case.assessed[side].score),
        "held_out_checks": (held_out, lambda case, side: case.assessed[side].held_out or 0.0),
        "reward": (cases, lambda case, side: case.rewards[side]),
        "tokens": (cases, lambda case, side: case.answers[side].num_tokens),
        "finished": (cases, lambda case, side: case.answers[side].finished),
    }
    for index, name in enumerate(MODELS):
        found += [
            *(figure(f"{name}/{key}", chosen, partial(value, side=index)) for key, (chosen, value) in plain.items()),
            *(_aspect(figure, cases, aspect, name, index) for aspect in rubric.WEIGHTS),
            *_refusals(figure, cases, name, index),
        ]
    kinds = sorted({case.prompt.kind for case in judged})
    for kind in kinds:
        found.append(
            figure(f"win_rate/{kind}", [c for c in judged if c.prompt.kind == kind], lambda case: case.verdict or 0.0)
        )
    return found


def explained_by_finish_and_repetition(cases: Sequence[Case], margin: float) -> float | None:
    """Of the prompts that the tuned policy wins, the share it would not win if finish and repetition did not count."""
    wins = [case for case in cases if case.verdict == 1.0]
    lost = sum(preference_without_finish_and_repetition(case, margin) < 1.0 for case in wins)
    return lost / len(wins) if wins else None


def held_out_preference(case: Case) -> float:
    """Which answer fulfils more of the checks that nothing was ever trained or chosen on; equal is half."""
    base, tuned = case.assessed[0].held_out or 0.0, case.assessed[1].held_out or 0.0
    return 0.5 if base == tuned else float(tuned > base)


def alike_in_length(case: Case, band: float) -> bool:
    """Whether the two answers' word counts differ by at most `band` of the longer one."""
    return abs(case.words[0] - case.words[1]) <= band * max(case.words)


def preference_without_finish_and_repetition(case: Case, margin: float) -> float:
    """The rubric's verdict by the other aspects alone; scores closer than `margin` tie, as they do in rankings."""
    scores = [rubric.total(found.aspects, leave_out=("finish", "repetition")) for found in reversed(case.assessed)]
    return preference(ranks_with_ties(scores, margin))


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


def _aspect(figure: Any, cases: Sequence[Case], aspect: str, name: str, index: int) -> Score:
    chosen = [case for case in cases if aspect in case.assessed[index].aspects]
    return figure(f"{name}/{aspect}", chosen, lambda case: case.assessed[index].aspects[aspect])


def _refusals(figure: Any, cases: Sequence[Case], name: str, index: int) -> list[Score]:
    """How often an ill-natured request, and a harmless one that only sounds so, is refused."""
    return [
        figure(
            f"{name}/refused_{kind}",
            [case for case in cases if case.prompt.kind == kind],
            lambda case: float(rubric.refuses(case.answers[index].answer)),
        )
        for kind in ("ill_natured", "look_alike")
    ]


@torch.inference_mode()
def _drift(config: Config, tuned_path: str, cases: Sequence[Case]) -> dict[str, float | None]:
    """How far the tuned policy moved: KL on its own answers, logprob of the reference answers before and after."""
    base = Policy(models.load_policy(config.run.model), config.tune.layers)
    tuned = Policy(models.load_policy(tuned_path), config.tune.layers)
    own, references = [], []
    for same in _by_prompt(cases, config):
        messages, reference = same[0].prompt.messages, same[0].prompt.reference
        prompt_ids = chat.prompt_ids(base.tokenizer, messages)
        texts = [case.answers[1].answer for case in same if case.answers[1].answer]
        if texts:
            own.append((prompt_ids, [chat.answer_ids(base.tokenizer, messages, text) for text in texts]))
        if reference:
            references.append((prompt_ids, [chat.answer_ids(base.tokenizer, messages, reference)]))
    num_own = sum(len(texts) for _, texts in own)
    with progress.track("evaluate logprobs", 2 * (num_own + len(references)), "answers") as advance:
        own_base, own_tuned = (_logprobs(policy, own, config, advance) for policy in (base, tuned))
        reference_base, reference_tuned = (_logprobs(policy, references, config, advance) for policy in (base, tuned))
    return {
        "kl": float(kl.k1(own_tuned, own_base).sum()) / max(num_own, 1),
        "explained_by_finish_and_repetition": explained_by_finish_and_repetition(cases, config.rank.tie_margin),
        "reference_logprob_base": float(reference_base.mean()) if references else None,
        "reference_logprob_tuned": float(reference_tuned.mean()) if references else None,
    }


def _by_prompt(rows: Sequence[Row], config: Config) -> list[Sequence[Row]]:
    """Rows of cases, those of the same prompt together: `evaluate.draws` each."""
    draws = config.evaluate.draws
    return [rows[start : start + draws] for start in range(0, len(rows), draws)]


def _rewards(
    model: Model, prompts: Sequence[Prompt], answers: Sequence[Candidate], config: Config, advance: progress.Advance
) -> list[float]:
    """The reward of each case's answer; a prompt runs once for all its answers."""
    shown = [
        (same[0][0], [answer.answer for _, answer in same], [answer.finished for _, answer in same])
        for same in _by_prompt(list(zip(prompts, answers, strict=True)), config)
    ]
    scored = score_texts(model, shown, config.tune.microbatch_tokens, on_answers=advance)
    return [reward for row in scored for reward in row]


def _logprobs(policy: Policy, packs: Sequence[Any], config: Config, advance: progress.Advance) -> torch.Tensor:
    pieces = []
    for batch in packing.microbatches([packing.size(pack) for pack in packs], config.tune.microbatch_tokens):
        packed = packing.pack([packs[index] for index in batch])
        pieces.append(policy.features(packed).ref_logprob_N)
        advance(sum(len(packs[index][1]) for index in batch))
    return torch.cat(pieces) if pieces else torch.zeros(0)


def _case_row(case: Case, band: float, margin: float) -> dict[str, Any]:
    return {
        "prompt_id": case.prompt.id,
        "draw": case.answers[0].draw,
        "family": case.prompt.family,
        "kind": case.prompt.kind,
        "messages": list(case.prompt.messages),
        "reference": case.prompt.reference,
        "checks": [dict(check) for check in case.prompt.checks],
        "verdict": case.verdict,
        "held_out_verdict": None if case.assessed[0].held_out is None else held_out_preference(case),
        "alike_in_length": alike_in_length(case, band),
        "verdict_without_finish_and_repetition": preference_without_finish_and_repetition(case, margin),
        **{
            name: {
                "answer": case.answers[index].answer,
                "finished": case.answers[index].finished,
                "tokens": case.answers[index].num_tokens,
                "score": case.assessed[index].score,
                "aspects": dict(case.assessed[index].aspects),
                "held_out": case.assessed[index].held_out,
                "reward": case.rewards[index],
            }
            for index, name in enumerate(MODELS)
        },
    }
