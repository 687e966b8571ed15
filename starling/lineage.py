"""Where one ranking came from and what it was used for: generators, judge, calls in the ledger, later stages."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from starling import data_files, tables, unusable
from starling.config import PANEL
from starling.curriculum import USED
from starling.endpoints import judges_of
from starling.judge_settings import SOURCE
from starling.judges import rubric
from starling.ledger_tables import read_calls
from starling.records import Candidate, Ranking
from starling.store import Run, is_run
from starling.tune_settings import as_read, is_online


def run_of(table: Path) -> Run | None:
    """The run that a ranking table belongs to, None for a table that stands alone."""
    folder = table if table.is_dir() else table.parent
    if folder.name != "rank" or not is_run(folder.parent):
        return None
    return Run.read(folder.parent)


def of_prompt(run: Run, prompt_id: str) -> list[dict[str, Any]]:
    """The rankings of one prompt of a run, explained: one, or none where it was not ranked."""
    rows = data_files.stream_rows(run.root / "rank") if any((run.root / "rank").glob("*.parquet")) else ()
    chosen = [row for row in rows if row["prompt_id"] == prompt_id]
    return [explain(run, tables.ranking_from_row(row, f"{run.root / 'rank'}: {prompt_id}")) for row in chosen]


def calls_of(run: Run, keys: Sequence[str]) -> list[dict[str, Any]]:
    """The calls of these keys, as far as the run's ledger has them."""
    return [_call(call) for call in read_calls(run.ledger_path, keys)]


def explain(run: Run, ranking: Ranking) -> dict[str, Any]:
    """A ranking of a run with all that is known of its making: as `starling show RUN --row ID --json` prints it."""
    rows = data_files.stream_rows(run.root / "sample") if run.is_done("sample") else ()
    sampled = [Candidate(**row) for row in rows if row["prompt_id"] == ranking.prompt_id]
    return explain_alone(ranking) | {
        "strategy": strategy(run),
        "answers": [
            _answer(run, answer, rank, sampled) for answer, rank in zip(ranking.answers, ranking.ranks, strict=True)
        ],
        "calls": calls_of(run, ranking.calls),
        "used": _used(run, ranking),
    }


def strategy(run: Run) -> str:
    """How the run's judge ranks."""
    cfg, facts = run.config.rank, run.facts("rank") if run.is_done("rank") else {}
    by_reward = {one["name"] for one in facts.get("reward_models", ())}
    if cfg.judge == rubric.NAME:
        return "a program"
    if cfg.judge == SOURCE:
        return "by the ranks that came with the answers"
    if cfg.judge == PANEL:
        asked = [
            one.judge if one.judge in {rubric.NAME, *by_reward} else f"{one.judge} {one.strategy}"
            for one in judges_of(cfg)
        ]
        return f"each judge by itself ({', '.join(asked)}), then the mean of their ranks"
    if by_reward:
        return "by the reward of each answer"
    asking = facts.get("asking") or {}
    return str(asking.get("strategy") or "kwise")


def explain_alone(ranking: Ranking) -> dict[str, Any]:
    """What a row says of itself, without its run."""
    return {
        "prompt_id": ranking.prompt_id,
        "messages": list(ranking.messages),
        "source": ranking.source,
        "good_natured": ranking.good_natured,
        "judge": ranking.judge,
        "template_hash": ranking.template_hash,
        "agreement": ranking.agreement,
        "answers": [
            {"rank": tables.told_rank(rank), "model": a.model, "answer": a.answer, "finished": a.finished,
             "weakened": a.weakened, "num_tokens": a.num_tokens}
            for a, rank in zip(ranking.answers, ranking.ranks, strict=True)
        ],
        "orders": [list(order) for order in ranking.orders],
        "marks": list(ranking.marks),
        "call_keys": list(ranking.calls),
        "calls": [],
        "used": [],
        **({"panel": [dict(one) for one in ranking.panel]} if ranking.panel else {}),
    }  # fmt: skip


def _answer(run: Run, answer: Candidate, rank: float, sampled: Sequence[Candidate]) -> dict[str, Any]:
    """An answer with its generator's settings and the call or the seed behind it."""
    made = next((one for one in sampled if (one.model, one.answer) == (answer.model, answer.answer)), answer)
    settings = next((one for one in run.config.sample.generators if one.name == answer.model), None)
    generator = None if settings is None else settings.model_dump(exclude={"name", "key_env"})
    if generator is not None:
        generator["model"] = generator["model"] or run.config.run.model
    calls = calls_of(run, [made.call] if made.call else [])
    return {
        "rank": tables.told_rank(rank),
        "model": answer.model,
        "answer": answer.answer,
        "finished": answer.finished,
        "weakened": answer.weakened,
        "num_tokens": answer.num_tokens,
        "draw": made.draw,
        "seed": made.seed,
        "generator": generator,
        "call": calls[0] if calls else None,
    }


def _call(row: Mapping[str, Any]) -> dict[str, Any]:
    """A call as the ledger has it; what was sent is in `request`, where the reply or a failure is on file."""
    request = json.loads(row["request"]) if row.get("request") else None
    return {
        "key": row["key"],
        "endpoint": row.get("name"),
        "model": row.get("model"),
        "draw": row.get("draw"),
        "request": request,
        "attempts": row["attempts"],
        "prompt_tokens": row.get("prompt_tokens"),
        "completion_tokens": row.get("completion_tokens"),
        "finished": None if row.get("finished") is None else bool(row["finished"]),
        "reply": row.get("text"),
    }


def _used(run: Run, ranking: Ranking) -> list[str]:
    """What the later stages made of a ranking, a line each."""
    split = next((p.split for p in tables.prompts_of(run, "train", "validation") if p.id == ranking.prompt_id), "")
    return [_used_by_fit(run, ranking, split), *_used_by_tune(run, ranking, split)] if split else []


def _used_by_fit(run: Run, ranking: Ranking, split: str) -> str:
    if not run.is_done("fit"):
        return "fit: not done yet"
    taken = run.config.fit.reward_model
    path = run.root / "fit" / unusable.FILE
    rows = data_files.stream_rows(path) if path.exists() else ()
    notes = [row for row in rows if row["prompt_id"] == ranking.prompt_id]
    if lost := [row["reason"] for row in notes if row["what"] == "ranking"]:
        return f"fit: left out, {'; '.join(lost)}"
    noted = "".join(f"; {line}" for line in unusable.lines(notes))
    if split == "validation":
        return f"fit: tests the reward model{noted}"
    if taken:
        return f"fit: not used, {taken} is the reward model{noted}"
    return f"fit: one of {run.facts('fit')['rankings']:,} rankings that the reward model learns from{noted}"


def _used_by_tune(run: Run, ranking: Ranking, split: str) -> list[str]:
    if not run.is_done("tune"):
        return ["tune: not done yet"]
    if split == "validation":
        return ["tune: the judge compares policy and base on this prompt; its ranked answers are not used"]
    path = run.root / "tune" / USED
    rows = data_files.stream_rows(path) if path.exists() else ()
    row = next((row for row in rows if row["prompt_id"] == ranking.prompt_id), {})
    cfg, said = run.config.tune, []
    if row.get("warm_up") and is_online(cfg.algorithm):
        said.append("teach the critic" if as_read(cfg).critic_epochs else "fix the reward's scale")
    if row.get("learnt"):
        said.append("serve as rollouts" if is_online(cfg.algorithm) else "are learnt from by their ranks")
    return [f"tune: its ranked answers {' and '.join(said)}" if said else "tune: its ranked answers are not used"]
