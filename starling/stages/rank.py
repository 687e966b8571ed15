"""rank: a judge orders the answers to each prompt; what it left unranked is kept apart with the reason."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import zip_longest
from typing import Any, NamedTuple

import pyarrow as pa

from starling import audit, concord, data_files, judgements, models, panel_rows, progress, streams, tables
from starling.concord import Concord
from starling.config import JudgeTable
from starling.errors import StopStage, UsageError
from starling.judges import by_source, naming
from starling.judges.aggregate import PositionEffects
from starling.judges.llm import LlmJudge
from starling.judges.make import Named, clients_of, make_judge, named_judges, reward_judges
from starling.judges.protocol import Judge, Judged
from starling.judges.several import Panel
from starling.ledger import Ledger
from starling.local import LocalChat
from starling.models import Model
from starling.records import Call, Candidate, Failure, Prompt, Ranking, Reply
from starling.spending import of_stage, report
from starling.store import Run
from starling.streams import Item
from starling.tally import Tally


class _Rows(NamedTuple):
    """Of one shard, the rows of `rank/` and of `unranked/`."""

    ranked: list[dict[str, Any]]
    unranked: list[dict[str, Any]]


class _Shard:
    """The two files of one shard; where that of its rankings stands the shard is done."""

    def __init__(self, run: Run, number: int) -> None:
        self.path = run.folder("rank") / f"{number:05d}.parquet"
        self._unranked = run.root / "unranked" / f"{number:05d}.jsonl"

    @property
    def stands(self) -> bool:
        return self.path.exists()

    def read(self) -> _Rows:
        kept = data_files.read_rows(self._unranked) if self._unranked.exists() else []
        return _Rows(data_files.read_rows(self.path), kept)

    def write(self, rows: _Rows, schema: pa.Schema) -> None:
        self._unranked.unlink(missing_ok=True)  # of a call that ended before the shard's table stood
        if rows.unranked:
            data_files.write_jsonl(self._unranked, rows.unranked)
        data_files.write_parquet(self.path, rows.ranked, schema)  # last


def run(run: Run) -> dict[str, Any]:
    """Write `rank/<shard>.parquet` in Nectar's form and, where needed, `unranked/<shard>.jsonl`, shard by shard.

    A shard that stands is not judged again.
    """
    cfg = run.config.rank
    answers = streams.Answers(run)
    if cfg.judge == by_source.NAME:
        by_source.refuse_unranked(answers.shards(cfg.shard_prompts), str(run.folder("sample")))
    named = named_judges(run.config, cfg)
    tally = Tally(cfg.first_repeats)
    planned = sum(_planned(named, k) * prompts for k, prompts in answers.sizes().items())
    done = 0
    with Ledger(run.ledger_path, "rank") as ledger, progress.track("rank", planned, _unit(named)) as advance:
        progress.note_interrupted(ledger.interrupted)

        def count(looks: int) -> None:
            nonlocal done
            done += looks
            advance(looks)

        def told(call: Call, outcome: Reply | Failure) -> None:
            if call.draw == 0:  # a call counts once, however often it is made
                count(1)

        judge = make_judge(cfg, run.config, ledger, told, count)
        for one in reward_judges(judge):
            progress.say(f"rank: {one.name} ranks by its rewards; it reads each answer alone")
        members = judge.members if isinstance(judge, Panel) else ()
        panel = Concord(members, [one.cfg.first_repeats for one in named]) if members else None
        for number, items in enumerate(answers.shards(cfg.shard_prompts)):
            shard = _Shard(run, number)
            planned = sum(_planned(named, len(of_prompt)) for _, of_prompt in items)
            if shard.stands:
                rows = shard.read()
                _refuse_others(run, shard.path.name, rows.ranked, judge)
                _count(rows, tally, panel)
                advance(planned, found=True)
                continue
            done = 0
            rows = _judge(judge, items)
            advance(max(planned - done, 0))
            _count(rows, tally, panel)
            _refuse_unparsed(run, tally.reasons, len(answers), judge.name)
            shard.write(rows, tables.PANEL_RANKINGS if panel else tables.RANKINGS)
        spending = of_stage(run.config, ledger, clients_of(judge))
    report("rank", spending)
    told_apart: dict[str, Any] = {"panel": panel.facts([one.asking() for one in named])} if panel else {}
    if panel:
        concord.show(told_apart["panel"], cfg.max_unparsed)
    effects = tally.position_effects()
    for line in _effect_lines(effects):
        progress.say(line)
    return {
        "judge": judge.name,
        "template_hash": judge.template_hash,
        **tally.facts(),
        "asking": {**how, **tally.asking()} if (how := named[0].asking()) and not panel else None,
        "position_effects": [asdict(found) for found in effects],
        "spending": spending,
        "probe": _probe(run, answers),
        **told_apart,
        **({"reward_models": [one.identity for one in found]} if (found := reward_judges(judge)) else {}),
    }


def _planned(named: Sequence[Named], k: int) -> int:
    """What a prompt with `k` answers adds to the progress: calls, answers read, or for a program alone the prompt."""
    return sum(one.looks(k) for one in named) if _unit(named) != "prompts" else 1


def _unit(named: Sequence[Named]) -> str:
    """What the progress counts."""
    calls, read = any(one.is_asked for one in named), any(one.by_reward for one in named)
    return " and ".join(["calls"] * calls + ["answers read"] * read) or "prompts"


def _refuse_others(run: Run, shard: str, ranked: Sequence[dict[str, Any]], judge: Judge) -> None:
    """Stop where a shard that stands is by another judge: a model's folder has other weights than it had."""
    others = {row["judge"] for row in ranked} - {judge.name}
    if others:
        raise UsageError(
            f"rank: {shard} was ranked by {others.pop()}, but now the judge is {judge.name}; put the weights back, or "
            f"begin another run (--run) that takes the answers over (--from {run.root})"
        )


def _count(rows: _Rows, tally: Tally, panel: Concord | None) -> None:
    tally.add(*rows)
    if panel:
        panel.add(*rows)


def _judge(judge: Judge, items: Sequence[Item]) -> _Rows:
    judged = list(zip(items, judge.rank(items), strict=True))
    ranked = [
        tables.ranking_row(_ranking(prompt, answers, verdict, judge))
        for (prompt, answers), verdict in judged
        if verdict.ranks is not None
    ]
    unranked = [_unranked(prompt, verdict, judge) for (prompt, _), verdict in judged if verdict.ranks is None]
    return _Rows(ranked, unranked)


def _entries(judge: Judge, verdict: Judged) -> list[dict[str, Any]]:
    """What each judge of a panel says; nothing for a single judge."""
    return panel_rows.entries(judge.members, verdict.members) if isinstance(judge, Panel) else []


def _unranked(prompt: Prompt, verdict: Judged, judge: Judge) -> dict[str, Any]:
    return {
        "prompt_id": prompt.id,
        "reason": verdict.reason,
        "replies": list(verdict.replies),
        "orders": [list(order) for order in verdict.orders],
        "rankings": [list(ranks) for ranks in verdict.rankings],
        "repeats": list(verdict.repeats),
        "unread": verdict.unread,
        "calls": list(verdict.calls),
        **({"panel": entries} if (entries := _entries(judge, verdict)) else {}),
    }


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
        repeats=verdict.repeats,
        unread=verdict.unread,
        panel=_entries(judge, verdict),
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
            judgements.of_verdicts(chosen, judged), max(len(shown) for _, shown in chosen)
        ),
    }


def _effect_lines(effects: Sequence[PositionEffects]) -> list[str]:
    """The effects of the places in words; nothing where no answers were shown in two orders."""
    lines = []
    for found in effects:
        head = f"rank: effect of place among {found.k} answers, in log-odds"
        if not found.n:
            lines.append(f"{head}: none seen, no two calls order a pair of answers differently")
            continue
        ends = [f" ({low:+.2f} to {high:+.2f})" for low, high in zip(found.low, found.high, strict=True)]
        places = ", ".join(
            f"{at}: {effect:+.2f}{end}"
            for at, (effect, end) in enumerate(zip_longest(found.effect, ends, fillvalue=""), 1)
        )
        why = "" if found.is_known else "; too few, or all by the place alone, to say how sure that is"
        lines.append(f"{head}, from {found.n:,} pairs of {found.prompts:,} prompts: {places}{why}")
    return lines


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
            f"{_remedy(judge)} rank.max_unparsed"
        )


def _remedy(judge: str) -> str:
    raised = "or with another --run and --from this one raise"
    if judge == by_source.NAME:
        return f"Leave the sources without ranks out, in another --run, {raised}"
    if naming.is_by_reward(judge):
        return f"Use a reward model that reads them, {raised}"
    asked = f"Replies are in calls.sqlite; use a stronger judge, {raised}"
    return f"{asked} rank.max_new_tokens where replies are cut off, or"
