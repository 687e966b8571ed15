"""rank: a judge orders the answers to each prompt; what it left unranked is kept apart with the reason."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from starling import audit, judgements, models, progress, tables
from starling.config import JudgeTable
from starling.errors import StopStage
from starling.judges.aggregate import Contest, PositionEffects, position_effects
from starling.judges.llm import LlmJudge, calls_of
from starling.judges.make import make_judge
from starling.judges.protocol import Judge, Judged
from starling.ledger import Ledger
from starling.local import LocalChat
from starling.models import Model
from starling.records import Call, Candidate, Failure, Prompt, Ranking, Reply
from starling.store import Run

Item = tuple[Prompt, Sequence[Candidate]]


def run(run: Run) -> dict[str, Any]:
    """Write `rank/00000.parquet` in Nectar's form and, where there are any, `unranked/00000.parquet`."""
    cfg = run.config.rank
    items = _items(run)
    asks = cfg.judge != "rubric"
    planned = sum(calls_of(cfg, len(answers))[0] for _, answers in items) if asks else len(items)
    with (
        Ledger(run.ledger_path) as ledger,
        progress.track("rank", planned, "calls" if asks else "prompts") as advance,
    ):
        progress.note_interrupted(ledger.interrupted)
        asked: list[Call] = []

        def told(call: Call, outcome: Reply | Failure) -> None:
            if call.draw == 0:  # a call counts once, however often it is made
                asked.append(call)
                advance(1)

        judge = make_judge(cfg, run.config, ledger, told)
        judged = judge.rank(items)
        advance(max(planned - len(asked), 0))
    _refuse_unparsed(judged, cfg.max_unparsed, judge.name)
    rows = [
        tables.ranking_row(_ranking(prompt, answers, verdict, judge))
        for (prompt, answers), verdict in zip(items, judged, strict=True)
        if verdict.ranks is not None
    ]
    tables.write_parquet(run.folder("rank") / "00000.parquet", rows, tables.RANKINGS)
    unranked = [
        {
            "prompt_id": prompt.id,
            "reason": verdict.reason,
            "replies": list(verdict.replies),
            "calls": list(verdict.calls),
        }
        for (prompt, _), verdict in zip(items, judged, strict=True)
        if verdict.ranks is None
    ]
    if unranked:
        tables.write_jsonl(run.folder("unranked") / "00000.jsonl", unranked)
    calls = judgements.of_verdicts(items, judged)
    effects = _position_effects(judged, cfg.first_repeats)
    for line in _effect_lines(effects):
        progress.console.print(line, markup=False)
    return {
        "judge": judge.name,
        "template_hash": judge.template_hash,
        "ranked": len(rows),
        "unranked": len(unranked),
        "asking": _asking(judged, cfg) if asks else None,
        "position_effects": [asdict(found) for found in effects],
        "mean_rank": audit.mean_rank_by_model(calls),
        "longer_ranked_above": audit.length_effect(calls),
        "tied_pairs": audit.tied_share(calls),
        "probe": _probe(run, items),
    }


def _items(run: Run) -> list[Item]:
    answers: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in tables.candidates_of(run):
        answers[candidate.prompt_id].append(candidate)
    return [
        (prompt, sorted(answers[prompt.id], key=lambda candidate: candidate.draw))
        for prompt in tables.prompts_of(run, "validation", "train")
        if prompt.id in answers
    ]


def _ranking(prompt: Prompt, answers: Sequence[Candidate], verdict: Judged, judge: Judge) -> Ranking:
    assert verdict.ranks is not None
    return Ranking(
        prompt_id=prompt.id,
        messages=prompt.messages,
        answers=answers,
        ranks=verdict.ranks,
        judge=judge.name,
        template_hash=judge.template_hash,
        orders=verdict.orders,
        agreement=verdict.agreement,
        rankings=verdict.rankings,
        marks=verdict.marks if any(mark is not None for mark in verdict.marks) else (),
        self_agreement=verdict.self_agreement,
        good_natured=prompt.good_natured if verdict.good_natured is None else verdict.good_natured,
        source=prompt.source,
        calls=verdict.calls,
    )


def _probe(run: Run, items: Sequence[Item]) -> dict[str, Any] | None:
    """Let the run's own model rank some prompts by the K-wise template: how far can it be trusted as a judge?"""
    chosen = items[: run.config.rank.probe_prompts]
    if not chosen:
        return None
    model: Model = models.load_policy(run.config.run.model)
    with progress.track("probe", len(chosen) * run.config.rank.probe_tokens, "tokens") as advance:
        chat = LocalChat(model, run.config.run.model, seed=run.config.run.seed, on_tokens=advance)
        asked = JudgeTable(max_new_tokens=run.config.rank.probe_tokens, attempts=1)
        judge = LlmJudge(chat, asked, seed=run.config.run.seed)
        judged = judge.rank(chosen)
    reasons = Counter(verdict.reason for verdict in judged if verdict.ranks is None)
    return {
        "judge": judge.name,
        "template_hash": judge.template_hash,
        "prompts": len(judged),
        "unparsed": sum(reasons.values()),
        "reasons": dict(reasons.most_common(5)),
        "position": audit.first_place_by_position(
            judgements.of_verdicts(chosen, judged), len(run.config.sample.generators)
        ),
    }


def _asking(judged: Sequence[Judged], cfg: JudgeTable) -> dict[str, Any]:
    """How the judge was asked, how much of it could be read, and how far it agrees with itself."""
    taus = [verdict.self_agreement for verdict in judged if verdict.self_agreement is not None]
    upheld = [verdict.agreement for verdict in judged if verdict.agreement is not None]
    repeats = Counter(len(set(verdict.repeats)) for verdict in judged if verdict.repeats)
    return {
        "strategy": cfg.strategy,
        "output": cfg.output,
        "replies": sum(len(verdict.replies) for verdict in judged),
        "unread_calls": sum(verdict.unread for verdict in judged),
        "ranked_in_part": sum(verdict.ranks is not None and verdict.unread > 0 for verdict in judged),
        "prompts_by_repeats": {str(times): count for times, count in sorted(repeats.items())},
        "self_agreement": sum(taus) / len(taus) if taus else None,
        "pair_verdicts_upheld": sum(upheld) / len(upheld) if upheld else None,
    }


def _position_effects(judged: Sequence[Judged], first_repeats: int) -> list[PositionEffects]:
    """What places added to the log-odds of an answer, as far as calls about the same answers can tell."""
    contests = [
        Contest(item, shown, ranks, repeat)
        for item, verdict in enumerate(judged)
        for shown, ranks, repeat in zip(verdict.orders, verdict.rankings, verdict.repeats, strict=True)
        if ranks
    ]
    return position_effects(contests, first_repeats)


def _effect_lines(effects: Sequence[PositionEffects]) -> list[str]:
    """The effects of the places in words; nothing where no answers were shown in two orders."""
    lines = []
    for found in effects:
        head = f"rank: effect of place among {found.k} answers, in log-odds"
        if not found.n:
            lines.append(f"{head}: none seen, no two calls order a pair of answers differently")
            continue
        ends = zip(found.effect, found.low, found.high, strict=True)
        places = ", ".join(
            f"{at}: {effect:+.2f} ({low:+.2f} to {high:+.2f})" for at, (effect, low, high) in enumerate(ends, 1)
        )
        lines.append(f"{head}, from {found.n:,} pairs of {found.prompts:,} prompts: {places}")
    return lines


def _refuse_unparsed(judged: Sequence[Judged], limit: float, judge: str) -> None:
    reasons = Counter(verdict.reason for verdict in judged if verdict.ranks is None)
    share = sum(reasons.values()) / len(judged)
    if share > limit:
        worst, count = reasons.most_common(1)[0]
        raise StopStage(
            f"rank: {sum(reasons.values())} of {len(judged)} prompts have no readable ranking "
            f"({share:.0%}, limit {limit:.0%}); most often ({count}): {worst}; judge: {judge}. "
            "Replies are in calls.sqlite; use a stronger judge, or with another --run and --from this one raise "
            "rank.max_new_tokens where replies are cut off, or rank.max_unparsed"
        )
