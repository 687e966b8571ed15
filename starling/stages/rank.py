"""rank: a judge orders the answers to each prompt; what it left unranked is kept apart with the reason."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from starling import audit, judgements, models, progress, streams, tables
from starling.errors import StopStage
from starling.judges.llm import KwiseJudge
from starling.judges.make import clients_of, make_judge
from starling.judges.protocol import Judge, Judged
from starling.ledger import Ledger
from starling.local import LocalChat
from starling.models import Model
from starling.records import Call, Candidate, Failure, Prompt, Ranking, Reply
from starling.spending import of_stage, report
from starling.store import Run
from starling.streams import Item
from starling.tally import Tally


def run(run: Run) -> dict[str, Any]:
    """Write `rank/<shard>.parquet` in Nectar's form and, where needed, `unranked/<shard>.jsonl`, shard by shard.

    A shard that stands is not judged again.
    """
    cfg = run.config.rank
    answers = streams.Answers(run)
    tally = Tally()
    asked: list[Call] = []
    with Ledger(run.ledger_path, "rank") as ledger, progress.track("rank", len(answers), "prompts") as advance:
        progress.note_interrupted(ledger.interrupted)

        def told(call: Call, outcome: Reply | Failure) -> None:
            if call.draw == 0:  # a prompt counts once, however often it is asked about
                asked.append(call)
                advance(1)

        judge = make_judge(cfg, run.config, ledger, told)
        for number, items in enumerate(answers.shards(cfg.shard_prompts)):
            path = run.folder("rank") / f"{number:05d}.parquet"
            kept = run.root / "unranked" / f"{number:05d}.jsonl"
            if path.exists():
                tally.add(tables.read_rows(path), tables.read_rows(kept) if kept.exists() else [])
                advance(len(items))
                continue
            asked.clear()
            ranked, unranked = _judge(judge, items)
            advance(len(items) - len(asked))
            tally.add(ranked, unranked)
            _refuse_unparsed(run, tally.reasons, len(answers), judge.name)
            if unranked:
                tables.write_jsonl(kept, unranked)
            tables.write_parquet(path, ranked, tables.RANKINGS)  # last: where it stands the shard is done
        spending = of_stage(run.config, ledger, clients_of(judge))
    report("rank", spending)
    return {
        "judge": judge.name,
        "template_hash": judge.template_hash,
        **tally.facts(),
        "spending": spending,
        "probe": _probe(run, answers),
    }


def _judge(judge: Judge, items: Sequence[Item]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of `rank/` and of `unranked/` for one shard."""
    judged = list(zip(items, judge.rank(items), strict=True))
    ranked = [
        tables.ranking_row(_ranking(prompt, answers, verdict, judge))
        for (prompt, answers), verdict in judged
        if verdict.ranks is not None
    ]
    unranked = [
        {"prompt_id": prompt.id, "reason": verdict.reason, "replies": list(verdict.replies)}
        for (prompt, _), verdict in judged
        if verdict.ranks is None
    ]
    return ranked, unranked


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


def _probe(run: Run, answers: streams.Answers) -> dict[str, Any] | None:
    """Let the run's own model rank some prompts by the K-wise template: how far can it be trusted as a judge?"""
    wanted = run.config.rank.probe_prompts
    chosen = next(answers.shards(wanted), [])[:wanted] if wanted else []
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
            judgements.of_verdicts(chosen, judged), len(run.config.sample.generators)
        ),
    }


def _refuse_unparsed(run: Run, reasons: Counter[str], prompts: int, judge: str) -> None:
    """Stop once too many of all prompts are unranked; their shards go, since failed calls may be asked again."""
    limit = run.config.rank.max_unparsed
    share = reasons.total() / prompts
    if share > limit:
        for kept in run.folder("unranked").glob("*.jsonl"):
            (run.folder("rank") / kept.with_suffix(".parquet").name).unlink(missing_ok=True)
            kept.unlink()
        worst, count = reasons.most_common(1)[0]
        raise StopStage(
            f"rank: {reasons.total()} of {prompts} prompts have no readable ranking "
            f"({share:.0%}, limit {limit:.0%}); most often ({count}): {worst}; judge: {judge}. "
            "Replies are in calls.sqlite; use a stronger judge, or with another --run and --from this one raise "
            "rank.max_new_tokens where replies are cut off, or rank.max_unparsed"
        )
