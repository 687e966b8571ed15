"""Prompts, candidates and rankings as rows of a table, rankings in Nectar's form; and how a run's are read."""

import difflib
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow as pa

from starling import data_files, preferences, turns
from starling.errors import DataError
from starling.judges.checks import CHECKS, parameters
from starling.records import SPLITS, Candidate, Prompt, Ranking
from starling.store import Run

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
PROMPTS = pa.schema([
    ("id", pa.string()), ("messages", _MESSAGES), ("family", pa.string()), ("kind", pa.string()),
    ("split", pa.string()), ("source", pa.string()), ("reference", pa.string()),
    ("facts", pa.list_(pa.list_(pa.string()))), ("topic", pa.list_(pa.string())), ("checks", pa.string()),
    ("good_natured", pa.bool_()),
])  # fmt: skip
CANDIDATES = pa.schema([
    ("prompt_id", pa.string()), ("model", pa.string()), ("draw", pa.int64()), ("answer", pa.string()),
    ("finished", pa.bool_()), ("weakened", pa.bool_()), ("seed", pa.int64()), ("num_tokens", pa.int64()),
    ("call", pa.string()), ("failure", pa.string()), ("rank", pa.float64()),
])  # fmt: skip
_ANSWERS = pa.list_(pa.struct([
    ("answer", pa.string()), ("model", pa.string()), ("rank", pa.float64()), ("finished", pa.bool_()),
    ("weakened", pa.bool_()), ("num_tokens", pa.int64()),
]))  # fmt: skip
# Nectar's columns exactly, then ours.
RANKINGS = pa.schema([
    ("prompt", pa.string()), ("answers", _ANSWERS), ("turns", pa.int64()), ("num_responses", pa.int64()),
    ("source", pa.list_(pa.string())), ("good_natured", pa.bool_()), ("prompt_id", pa.string()),
    ("messages", _MESSAGES), ("judge", pa.string()), ("template_hash", pa.string()),
    ("orders", pa.list_(pa.list_(pa.int64()))), ("agreement", pa.float64()),
    ("rankings", pa.list_(pa.list_(pa.float64()))), ("marks", pa.list_(pa.float64())), ("self_agreement", pa.float64()),
    ("calls", pa.list_(pa.string())), ("repeats", pa.list_(pa.int64())), ("unread", pa.int64()),
])  # fmt: skip
_MEMBER = [
    ("judge", pa.string()), ("ranks", pa.list_(pa.float64())), ("reason", pa.string()), ("good_natured", pa.bool_()),
    *((name, RANKINGS.field(name).type) for name in (
        "template_hash", "orders", "agreement", "rankings", "marks", "self_agreement", "calls", "repeats", "unread",
    )),
]  # fmt: skip
PANEL_RANKINGS = RANKINGS.append(pa.field("panel", pa.list_(pa.struct(_MEMBER))))
_FROM_ZERO = "ranks begin at 1, so if they count from 0 add 1 to each, and if the place is not known write null"
LEFT_OUT = "left_out.jsonl"  # of `sample/`: answers that are not ranked, with the reason


class RanksFromZero(DataError):
    """Ranks that seem to count from 0, where 0 would be the best place and not an unknown one."""


def builtin_prompts() -> list[Prompt]:
    """The prompts that come with Starling, all three splits."""
    folder = Path(str(resources.files("starling") / "data"))
    return [
        prompt_from_row(row | {"split": split, "source": "starling"}, f"{split}.jsonl:{number}")
        for split in SPLITS
        for number, row in enumerate(data_files.read_rows(folder / f"{split}.jsonl"), 1)
    ]


def prompts_of(run: Run, *splits: str) -> list[Prompt]:
    """The run's prompts of the given splits, in the table's order."""
    return list(stream_prompts(run, *splits))


def stream_prompts(run: Run, *splits: str) -> Iterator[Prompt]:
    """The same, one after the other."""
    rows = enumerate(data_files.stream_rows(run.folder("prompts")))
    yield from (prompt_from_row(row, f"prompts:{number}") for number, row in rows if row["split"] in splits)


def splits_of(run: Run) -> dict[str, str]:
    """The split of each of the run's prompts, by id."""
    return {row["id"]: row["split"] for row in data_files.stream_rows(run.folder("prompts"))}


def left_out_of(run: Run) -> dict[str, tuple[int, ...]]:
    """The draws of each prompt's answers that `sample` did not keep."""
    path = run.folder("sample") / LEFT_OUT
    lost: dict[str, tuple[int, ...]] = {}
    for row in data_files.stream_rows(path) if path.exists() else ():
        if row["draw"] is not None:
            lost[row["prompt_id"]] = (*lost.get(row["prompt_id"], ()), row["draw"])
    return lost


def rankings_of(run: Run, prompts: Sequence[Prompt]) -> list[Ranking]:
    """The run's rankings of the given prompts, in the table's order."""
    wanted = {prompt.id for prompt in prompts}
    rows = enumerate(data_files.stream_rows(run.folder("rank")))
    return [ranking_from_row(row, f"rank:{number}") for number, row in rows if row["prompt_id"] in wanted]


def prompt_row(prompt: Prompt) -> dict[str, Any]:
    """A prompt as a table row, its checks as JSON."""
    return asdict(prompt) | {"checks": json.dumps([dict(check) for check in prompt.checks])}


def prompt_from_row(row: Mapping[str, Any], where: str) -> Prompt:
    """A prompt from a table row; `where` names the row in errors."""
    known = {field.name for field in fields(Prompt)}
    values = {key: value for key, value in row.items() if key in known and value is not None}
    values |= {key: str(values[key]) for key in ("id", "family", "kind", "source", "reference") if key in values}
    values["checks"] = _checks(values.get("checks", []), where)
    if not _are_texts(values.get("topic", [])):
        raise DataError(f"{where}: `topic` must be a list of texts")
    if not (isinstance(values.get("facts", []), list) and all(map(_are_texts, values.get("facts", [])))):
        raise DataError(f"{where}: `facts` must be a list of lists of texts, the spellings of each fact")
    if "messages" not in values:
        if not isinstance(row.get("prompt"), str):
            raise DataError(f"{where}: a prompt needs a column `messages` or `prompt`; found: {', '.join(sorted(row))}")
        values["messages"] = turns.messages_from_text(row["prompt"])
    turns.check_messages(values["messages"], where)
    values["good_natured"] = is_true(row.get("good_natured"), "good_natured", where)
    if values.get("split", "train") not in SPLITS:
        raise DataError(f"{where}: split is {values['split']!r}, not one of {', '.join(SPLITS)}")
    return Prompt(**values)


def ranking_row(ranking: Ranking) -> dict[str, Any]:
    """A ranking in Nectar's columns, answers sorted by rank, and ours after them."""
    best_first = sorted(range(len(ranking.ranks)), key=ranking.ranks.__getitem__)
    place = {old: new for new, old in enumerate(best_first)}
    pairs = [(ranking.ranks[old], ranking.answers[old]) for old in best_first]
    answers = [
        {"answer": a.answer, "model": a.model, "rank": told_rank(rank), "finished": a.finished,
         "weakened": a.weakened, "num_tokens": a.num_tokens}
        for rank, a in pairs
    ]  # fmt: skip
    return {
        "prompt": turns.text_from_messages(ranking.messages),
        "answers": answers,
        "turns": sum(message["role"] == "user" for message in ranking.messages),
        "num_responses": len(answers),
        "source": ranking.source.split(", "),
        "good_natured": ranking.good_natured,
        "prompt_id": ranking.prompt_id,
        "messages": list(ranking.messages),
        "judge": ranking.judge,
        "template_hash": ranking.template_hash,
        "orders": [[place[old] for old in order] for order in ranking.orders],
        "agreement": ranking.agreement,
        "rankings": [list(ranks) for ranks in ranking.rankings],
        "marks": list(ranking.marks),
        "self_agreement": ranking.self_agreement,
        "calls": list(ranking.calls),
        "repeats": list(ranking.repeats),
        "unread": ranking.unread,
        **({"panel": [_member_row(one, best_first) for one in ranking.panel]} if ranking.panel else {}),
    }


def told_rank(rank: float) -> float | None:
    """A rank as rows hold it: null where the place is not known."""
    return float(rank) if math.isfinite(rank) else None


def _member_row(said: Mapping[str, Any], best_first: Sequence[int]) -> dict[str, Any]:
    """What a judge of a panel said, of the answers as the panel's ranking sorts them."""
    place = {old: new for new, old in enumerate(best_first)}
    return {
        **said,
        "ranks": [said["ranks"][old] for old in best_first] if said["ranks"] else [],
        "orders": [[place[old] for old in order] for order in said["orders"]],
    }


def ranking_from_row(row: Mapping[str, Any], where: str) -> Ranking:
    """A ranking from a row in Nectar's form, with `answers` and `ranks` in two lists, or of `chosen` and `rejected`.

    Of a row that has both, the ranked answers count. A list `finished` beside the answers says of each whether it came
    to its end, a single value says it of all.
    """
    entries: list[Any]
    if _is_pair(row):
        messages, texts = preferences.read(row, where)
        entries = [{"answer": text, "model": name, "rank": rank} for rank, (name, text) in enumerate(texts.items(), 1)]
    elif isinstance(row.get("answers"), list):
        entries = beside(row["answers"], "ranks", "rank", row, where)
        messages = row.get("messages") or turns.as_messages(row.get("prompt"))
        if messages is None:
            raise DataError(f"{where}: the row needs the `prompt` (or `messages`) that its answers answer")
    else:
        raise DataError(
            f"{where}: a ranking needs `prompt` and `answers` with their ranks, or `prompt`, `chosen` and `rejected`; "
            f"found: {', '.join(sorted(row))}"
        )
    turns.check_messages(messages, where)
    finished = row.get("finished")
    told = row if finished is None or isinstance(finished, list) else {**row, "finished": [finished] * len(entries)}
    entries = beside(entries, "finished", "finished", told, where)
    prompt_id = str(row.get("prompt_id") or where)
    answers = [_answer(entry, prompt_id, draw, f"{where}: answer {draw}") for draw, entry in enumerate(entries)]
    ranks = [entry["rank"] for entry in entries]
    _check_places(ranks, where)
    source = row.get("source") or ""
    return Ranking(
        prompt_id=prompt_id, messages=messages, answers=answers, ranks=[float(rank or 0) for rank in ranks],
        judge=str(row.get("judge") or ""), template_hash=str(row.get("template_hash") or ""),
        orders=row.get("orders") or (), rankings=row.get("rankings") or (), marks=row.get("marks") or (),
        agreement=_within(row, "agreement", 0, where), self_agreement=_within(row, "self_agreement", -1, where),
        good_natured=is_true(row.get("good_natured"), "good_natured", where),
        source=", ".join(map(str, source)) if isinstance(source, list) else str(source),
        calls=row.get("calls") or (), repeats=row.get("repeats") or (), unread=row.get("unread") or 0,
        panel=row.get("panel") or (), where=where,
    )  # fmt: skip


def _is_pair(row: Mapping[str, Any]) -> bool:
    return row.get("chosen") is not None and row.get("rejected") is not None and not _has_ranks(row)


def _has_ranks(row: Mapping[str, Any]) -> bool:
    """Whether a row has answers with ranks, whatever else it has."""
    answers = row.get("answers")
    if not isinstance(answers, list):
        return False
    told = [one.get("rank") for one in answers if isinstance(one, Mapping)]
    return any(rank is not None for rank in [row.get("ranks"), *told])


def beside(entries: Sequence[Any], column: str, key: str, row: Mapping[str, Any], where: str) -> list[Any]:
    """The answers, each with its value of a column that holds a list beside them; what an answer says itself stays."""
    values = row.get(column)
    if values is None:
        return list(entries)
    if not isinstance(values, list) or len(values) != len(entries):
        raise DataError(f"{where}: `{column}` must be a list of one {key} for each of the {len(entries)} answers")
    return [_with(entry, key, value) for entry, value in zip(entries, values, strict=True)]


def _with(entry: Any, key: str, value: Any) -> Any:
    if entry is None or isinstance(entry, str):
        return {"answer": entry, key: value}
    return {**entry, key: value} if isinstance(entry, Mapping) and entry.get(key) is None else entry


def _answer(entry: Any, prompt_id: str, draw: int, where: str) -> Candidate:
    if isinstance(entry, str):
        raise DataError(f"{where} is a text alone, so the row needs `ranks`, one for each answer")
    told: Mapping[str, Any] = entry if isinstance(entry, Mapping) else {}
    text = "" if told.get("answer", "none") is None else told.get("answer")  # null: there is none
    if not isinstance(text, str) or not is_rank(told.get("rank", "none")):
        found = f"rank {told['rank']!r}"[:40] if "rank" in told else ", ".join(map(str, told)) or type(entry).__name__
        raise DataError(
            f"{where} needs a text `answer` and a `rank` of 1 or more (1 is best; null is unknown); found: {found}"
        )
    try:
        num_tokens = int(entry.get("num_tokens") or 0)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{where}: `num_tokens` is {entry['num_tokens']!r}, not a number") from None
    return Candidate(
        prompt_id=prompt_id, model=str(entry.get("model") or ""), draw=draw, answer=text,
        finished=is_true(entry.get("finished"), "finished", where), weakened=bool(entry.get("weakened")),
        num_tokens=num_tokens,
    )  # fmt: skip


def _checks(checks: Any, where: str) -> list[dict[str, Any]]:
    """The checks of a prompt, from a list or its JSON text; each is tried once, so that a wrong one is found here."""
    try:
        checks = json.loads(checks) if isinstance(checks, str) else checks
        found = [{key: value for key, value in check.items() if value is not None} for check in checks]
    except (ValueError, TypeError, AttributeError):
        raise DataError(f'{where}: `checks` must be a list of objects such as {{"check": "lowercase"}}') from None
    for check in found:
        name, told = str(check.get("check")), parameters(check)
        if name not in CHECKS:
            near = difflib.get_close_matches(name, CHECKS, 1, 0)
            raise DataError(f"{where}: there is no check {name!r}; did you mean {near[0]!r}?")
        try:
            CHECKS[name]("", **told)
        except Exception as error:
            raise DataError(f"{where}: check {name!r} does not work with {told}: {error}") from None
    return found


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _within(row: Mapping[str, Any], key: str, least: int, where: str) -> float | None:
    """A figure of the judge's agreement with itself; None where it is not known."""
    value = row.get(key)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= 1:  # NaN fails
        raise DataError(f"{where}: `{key}` is {value!r:.40}, not a number from {least} to 1; null is not known")
    return float(value)


def is_rank(value: Any) -> bool:
    """Whether this is a place, or 0 or None, which stand for one that is not known."""
    if value is None:
        return True
    return isinstance(value, int | float) and not isinstance(value, bool) and (value == 0 or 1 <= value <= sys.maxsize)


def is_true(told: Any, column: str, where: str) -> bool:
    """What a row says in `finished` or `good_natured`: a truth value, or 0 or 1; where it says nothing it is true."""
    if told is None or told in (0, 1):
        return told is None or bool(told)
    raise DataError(f"{where}: `{column}` is {told!r:.40}, neither true nor false")


def has_rank_zero(row: Mapping[str, Any]) -> bool:
    """Whether a row that can be read writes an unknown place as 0."""
    if _is_pair(row):
        return False
    entries = beside(row["answers"], "ranks", "rank", row, "")
    return any(entry["rank"] == 0 for entry in entries)


def _check_places(ranks: Sequence[float | None], where: str) -> None:
    """Refuse ranks of which none is a place, and those that seem to count from 0, where 0 would be the best."""
    if ranks and not any(ranks):
        raise DataError(f"{where}: no answer has a `rank` of 1 or more (1 is best), so none is known to be better")
    if ranks.count(0) == 1:
        raise RanksFromZero(f"{where}: one answer alone has rank 0; {_FROM_ZERO}")
    if 0 in ranks and 1 not in ranks:
        raise RanksFromZero(f"{where}: answers have rank 0 and none has rank 1; {_FROM_ZERO}")
