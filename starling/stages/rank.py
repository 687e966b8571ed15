"""rank: a judge orders the answers to each prompt; what it left unranked is kept apart with the reason."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from starling import audit, judgements, models, progress, tables
from starling.errors import StopStage
from starling.judges.llm import KwiseJudge
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
    with Ledger(run.ledger_path) as ledger, progress.track("rank", len(items), "prompts") as advance:
        progress.note_interrupted(ledger.interrupted)
        asked: list[Call] = []

        def told(call: Call, outcome: Reply | Failure) -> None:
            if call.draw == 0:  # a prompt counts once, however often it is asked about
                asked.append(call)
                advance(1)

        judge = make_judge(cfg, run.config, ledger, told)
        judged = judge.rank(items)
        advance(len(items) - len(asked))
    _refuse_unparsed(judged, cfg.max_unparsed, judge.name)
    rows = [
        tables.ranking_row(_ranking(prompt, answers, verdict, judge))
        for (prompt, answers), verdict in zip(items, judged, strict=True)
        if verdict.ranks is not None
    ]
    tables.write_parquet(run.folder("rank") / "00000.parquet", rows, tables.RANKINGS)
    unranked = [
        {"prompt_id": prompt.id, "reason": verdict.reason, "replies": list(verdict.replies)}
        for (prompt, _), verdict in zip(items, judged, strict=True)
        if verdict.ranks is None
    ]
    if unranked:
        tables.write_jsonl(run.folder("unranked") / "00000.jsonl", unranked)
    calls = judgements.of_verdicts(items, judged)
    return {
        "judge": judge.name,
        "template_hash": judge.template_hash,
        "ranked": len(rows),
        "unranked": len(unranked),
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
        good_natured=prompt.good_natured if verdict.good_natured is None else verdict.good_natured,
        source=prompt.source,
    )


def _probe(run: Run, items: Sequence[Item]) -> dict[str, Any] | None:
    """Let the run's own model rank some prompts by the K-wise template: how far can it be trusted as a judge?"""
    chosen = items[: run.config.rank.probe_prompts]
    if not chosen:
        return None
    model: Model = models.load_policy(run.config.run.model)
    with progress.track("probe", len(chosen) * run.config.rank.probe_tokens, "tokens") as advance:
        chat = LocalChat(model, run.config.run.model, seed=run.config.run.seed, on_tokens=advance)
        judge = KwiseJudge(chat, seed=run.config.run.seed, max_tokens=run.config.rank.probe_tokens, attempts=1)
        judged = judge.rank(chosen)
    reasons = Counter(verdict.reason for verdict in judged if verdict.ranks is None)
    return {
        "judge": judge.name,
        "template_hash": judge.template_hash,
        "prompts": len(judged),
        "unparsed": sum(reasons.values()),
        "reasons": dict(reasons.most_common(5)),
        "position": audit.first_place_by_position(
            judgements.of_verdicts(chosen, judged), max(len(answers) for _, answers in chosen)
        ),
    }


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
