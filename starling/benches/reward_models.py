"""A reward model, or scores that are there already, on a benchmark of reward models."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starling import contamination, models, progress, reward, sources, texts
from starling.benches import items, left_out, table
from starling.benches.asked import Asked
from starling.benches.cost import Part
from starling.benches.items import Bench, Item
from starling.benches.left_out import LeftOut
from starling.errors import DataError, UsageError
from starling.records import Prompt
from starling.store import versions
from starling.writing import write_json

OPTIONS = frozenset(("model", "scores", "data", "run", "out", "dtype"))
STORED = "stored"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """Items with their rewards, whose scores they are, and which items have none and why."""

    items: Sequence[Item]
    rewards: Sequence[Sequence[float]]
    model: Mapping[str, Any]
    left_out: Sequence[LeftOut] = ()


def run(name: str, bench: Bench, asked: Asked) -> dict[str, Any]:
    """Score a benchmark's rows, print its table and return it; with `out` also write it with every item's scores.

    The scores are those of `model`, or those that stand in the rows (`scores` = "stored"), or those of an earlier
    `out`: exactly one of them is given.
    """
    path = _path(name, bench, asked)
    model, scores, out = asked.model, asked.scores, asked.out
    found, digest = _read(bench, path)
    scored = _by_model(found, model, asked.dtype) if model else _without_model(found, scores, path)
    if not scored.items:
        why = ", ".join(f"{count:,} x {reason}" for reason, count in left_out.reasons(scored.left_out).items())
        raise DataError(f"bench: none of the {len(found):,} rows of {path} can be counted: {why}")
    result = {
        "bench": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": scored.model,
        "data": {"name": path, "rows": len(found), "sha256": digest},
        "rows": bench.rows(scored.items, scored.rewards),
        "left_out": left_out.told(scored.left_out),
        "versions": versions(),
    }
    notes: list[str] = []
    if asked.run is not None:
        prompts = [Prompt(id=item.id, messages=item.question.messages) for item in found]
        held = contamination.check(prompts, asked.run)
        result["contamination"], notes = held, contamination.lines(held)
    table.print_result(result, bench.about)
    for line in notes:
        progress.show(texts.terminal(line))
    if out is not None:
        _write(out, result, scored)
    return result


def plan(name: str, bench: Bench, asked: Asked) -> list[Part]:
    """Nothing is asked of anybody; what cannot work is refused, by the first row too."""
    where, row = next(sources.located_rows(_path(name, bench, asked), bench.part), ("", None))
    if row is not None:
        bench.read(row, where)
    return []


def _path(name: str, bench: Bench, asked: Asked) -> str:
    """Where the rows are; options that are unclear are refused."""
    if bool(asked.model) == bool(asked.scores):
        raise UsageError("bench: give either --model MODEL or --scores FILE (or --scores stored: those in the rows)")
    if asked.scores and asked.dtype != Asked().dtype:
        raise UsageError("bench: --dtype is what a MODEL would score in; leave it out with --scores")
    if asked.out is not None and asked.out.is_dir():
        raise UsageError(f"bench: --out {asked.out} is a folder; give a .json file")
    if not (path := asked.data or bench.data):
        raise UsageError(f"bench: {name} needs --data, the file or folder with its rows")
    return path


def _write(out: Path, result: Mapping[str, Any], scored: Scored) -> None:
    kept = zip(scored.items, scored.rewards, strict=True)
    listed = [{"id": item.id, "key": item.key, "scores": list(rewards)} for item, rewards in kept]
    write_json(out, {**result, "items": listed})
    progress.say(f"bench: figures and the scores of {len(listed):,} rows in {out}")


def _read(bench: Bench, path: str) -> tuple[list[Item], str]:
    """The items of the data and a hash of its rows, the same in whatever form of file they stand."""
    digest = hashlib.sha256()
    found = []
    for where, row in sources.located_rows(path, bench.part):
        digest.update(json.dumps(row, sort_keys=True, default=str).encode())
        found.append(bench.read(row, where))
    if not found:
        raise DataError(f"bench: {path} holds no rows")
    return found, digest.hexdigest()


def _by_model(found: Sequence[Item], name: str, dtype: reward.Precision) -> Scored:
    judge = reward.load_reward_model(name, dtype)
    kept: list[Item] = []
    without: list[LeftOut] = []
    for item in found:
        refusal = judge.refusal(item.question)
        if refusal:
            without.append(LeftOut(item.id, refusal.reason, refusal.detail))
        else:
            kept.append(item)
    with progress.track("bench", sum(len(item.question.answers) for item in kept), "answers") as advance:
        rewards = judge.score_questions([item.question for item in kept], advance)
    return Scored(items=kept, rewards=rewards, model=models.identity(name) | {"dtype": dtype}, left_out=without)


def _without_model(found: Sequence[Item], scores: str, path: str) -> Scored:
    return _stored(found, path) if scores == STORED else _from_file(found, Path(scores))


def _stored(found: Sequence[Item], path: str) -> Scored:
    kept = [item for item in found if item.stored is not None]
    without = [LeftOut(item.id, "no stored scores") for item in found if item.stored is None]
    rewards = [item.stored for item in kept if item.stored is not None]
    return Scored(items=kept, rewards=rewards, model={"name": f"scores stored in {path}"}, left_out=without)


def _from_file(found: Sequence[Item], path: Path) -> Scored:
    """The scores of an earlier `--out`, matched by conversation and answers."""
    try:
        earlier = json.loads(path.read_text())
        known = {entry["key"]: list(entry["scores"]) for entry in earlier["items"]}
        model = {**earlier["model"], "name": str(earlier["model"]["name"])}
    except FileNotFoundError:
        raise UsageError(f"bench: --scores {path}: there is no such file") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{path}: not what `starling bench --out` writes, so there are no scores to take") from None
    kept = [item for item in found if item.key in known]
    rewards = [items.checked_scores(known[item.key], len(item.question.answers), f"{path}: {item.id}") for item in kept]
    without = [LeftOut(item.id, f"no scores in {path}") for item in found if item.key not in known]
    return Scored(items=kept, rewards=rewards, model=model | {"scores": str(path)}, left_out=without)
