"""What a judge said, call by call, read from any ranking log."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from starling import data_files, panel_rows, tables
from starling.errors import DataError
from starling.judges.parse import Pair, Ranked, Unparsed, parse_good_natured, parse_pairs, parse_ranking
from starling.judges.protocol import Judged
from starling.judges.ranks import ranks_from_levels
from starling.records import Candidate, Message, Prompt, Ranking
from starling.store import Run, is_run

MOST_ANSWERS = 26  # they are lettered A to Z
_TABLE_ENDINGS = ("*.parquet", "*.jsonl", "*.jsonl.gz")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One ranking call: the conversation, the answers, how they were shown, and what the judge made of them.

    `ranks` belong to the answers as listed here, 1 = best; None where the reply could not be read, then `reason` says
    why. `order` holds the answers' indices in the order they were shown, None where that is not known. `pairs` are
    the verdicts on two answers that the reply holds, by index; `agreement` is the share of them that the ranking
    upholds, where only that was kept. `as_stored` is whether the reply reads as the order that the log gives.
    """

    prompt: str
    messages: Sequence[Message] = ()
    answers: Sequence[str] = ()
    models: Sequence[str] = ()
    ranks: Sequence[float] | None
    reason: str = ""
    order: Sequence[int] | None = None
    good_natured: bool | None = None
    reply: str | None = None
    pairs: Sequence[Pair] = ()
    agreement: float | None = None
    as_stored: bool | None = None
    judge: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """The calls of one log; `keeps_unread` is whether calls without a readable ranking would stand in it."""

    name: str
    form: str
    keeps_unread: bool
    calls: Sequence[Judgement]


def read(path: Path, member: str = "") -> Log:
    """A ranking table, a published log, rows without a ranking, a folder of such files, or a run.

    Of a panel's rankings only what its judge `member` said; "" = what they said together.
    """
    if is_run(path):
        run = Run.read(path)
        run.facts("rank")
        stages = [run.root / stage for stage in ("rank", "unranked") if (run.root / stage).exists()]
        logs = [_read_rows(stage, member) for stage in stages]
        return replace(pooled(logs), name=_log_name(path, member), form="run", keeps_unread=True)
    return replace(_read_rows(path, member), name=_log_name(path, member))


def with_members(path: Path) -> list[Log]:
    """What `read` reads, and where a panel ranked, after it the log of each of its judges."""
    together = read(path)
    table = path / "rank" if is_run(path) else path
    first = next((row for file in _files(table) for row in data_files.stream_rows(file)), {})
    return [together, *(read(path, judge) for judge in panel_rows.judges(first))]


def _log_name(path: Path, member: str) -> str:
    return f"{path}: {member}" if member else str(path)


def pooled(logs: Sequence[Log]) -> Log:
    """Several logs as one, such as shards of a table or repeats by the same judge."""
    named = [log.name for log in logs]
    return Log(
        name=" + ".join(named) if len(named) < 4 else f"{named[0]} to {named[-1]}, {len(named)} logs",
        form=" and ".join(dict.fromkeys(log.form for log in logs)),
        keeps_unread=any(log.keeps_unread for log in logs),
        calls=[call for log in logs for call in log.calls],
    )


def of_verdicts(items: Sequence[tuple[Prompt, Sequence[Candidate]]], judged: Sequence[Judged]) -> list[Judgement]:
    """What a judge has just said about prompts and their answers."""
    return [
        Judgement(
            prompt=_key(prompt.messages),
            messages=prompt.messages,
            answers=[answer.answer for answer in answers],
            models=[answer.model for answer in answers],
            ranks=verdict.ranks,
            reason=verdict.reason,
            order=_one_order(verdict.orders, len(answers)),
            good_natured=verdict.good_natured,
            agreement=verdict.agreement,
        )
        for (prompt, answers), verdict in zip(items, judged, strict=True)
    ]


def of_rankings(name: str, rankings: Sequence[Ranking]) -> Log:
    """Rankings that are in memory; presentation orders that make no sense count as not known."""
    calls = []
    for ranking in rankings:
        k, orders, told = len(ranking.answers), _lists(ranking.orders), _lists(ranking.rankings)
        if not all(_are_some_of(order, k) for order in orders) or (told and not _fit(told, orders)):
            orders, told = [], []
        whole = _whole({"answers": ()}, replace(ranking, orders=orders))
        calls += _calls_of(whole, list(zip(orders, told, strict=True)) if told else [])
    return Log(name=name, form="rankings", keeps_unread=False, calls=calls)


def _files(path: Path) -> list[Path]:
    """A table's files: itself, or the shards of a folder."""
    if not path.is_dir():
        return [path]
    files = next((found for ending in _TABLE_ENDINGS if (found := sorted(path.glob(ending)))), [])
    if not files:
        raise DataError(f"{path}: the folder holds no Parquet or JSONL files")
    return files


def _read_rows(path: Path, member: str = "") -> Log:
    read = [
        found
        for file in _files(path)
        for number, row in enumerate(data_files.read_rows(file), 1)
        for found in _judgements(panel_rows.of_member(row, member) if member else row, f"{file}:{number}")
    ]
    if not read:
        raise DataError(f"{path}: there is no row in it")
    forms = dict.fromkeys(form for form, _ in read)
    return Log(
        name=str(path),
        form=" and ".join(forms),
        keeps_unread=bool(forms.keys() - {"rankings"}),
        calls=[judgement for _, judgement in read],
    )


def _judgements(row: Mapping[str, Any], where: str) -> list[tuple[str, Judgement]]:
    """The form of a row, with each call that it tells of."""
    if "rating_text" in row:
        return [("judge's replies", _from_reply(row, where))]
    if "reason" in row and "answers" not in row:
        name = str(row.get("prompt_id") or where)
        reason = str(row["reason"] or "no reason given")
        return [("unranked rows", Judgement(prompt=name, ranks=None, reason=reason))]
    whole, rankings = _from_ranking(row, where)
    return [("rankings", call) for call in _calls_of(whole, rankings)]


def _from_reply(row: Mapping[str, Any], where: str) -> Judgement:
    """A row of the published form: answers as they were shown, and the judge's reply, which is read here."""
    texts, models = _answers(row.get("answers"), where)
    k, reply = row.get("k", len(texts)), row["rating_text"]
    if k != len(texts):
        raise DataError(f"{where}: `k` is {k!r}, but there are {len(texts)} answers")
    if not 1 <= len(texts) <= MOST_ANSWERS:
        raise DataError(f"{where}: {len(texts)} answers; a reply letters 1 to {MOST_ANSWERS}")
    if not isinstance(reply, str | None):
        raise DataError(f"{where}: `rating_text` must be the judge's reply as a text, or null where none came")
    asked = row.get("messages") or row.get("prompt")
    messages: Any = tables.messages_from_text(asked) if isinstance(asked, str) else asked
    tables.check_messages(messages, where)
    parsed = Unparsed("no reply") if reply is None else parse_ranking(reply, len(texts))
    ranks = None
    if not isinstance(parsed, Unparsed):
        levels = [[index] for index in parsed.order] if isinstance(parsed, Ranked) else parsed.levels
        ranks = ranks_from_levels(levels, len(texts))
    return Judgement(
        prompt=_key(messages),
        messages=messages,
        answers=texts,
        models=models,
        ranks=ranks,
        reason=parsed.reason if isinstance(parsed, Unparsed) else "",
        order=range(len(texts)),
        good_natured=parse_good_natured(reply or ""),
        reply=reply,
        pairs=parse_pairs(reply or "", len(texts)),
        as_stored=_reads_as(row["ranking_order"], parsed, len(texts)) if "ranking_order" in row else None,
        judge=str(row.get("judge") or ""),
    )


def _calls_of(whole: Judgement, rankings: Sequence[tuple[Sequence[int], Sequence[float]]]) -> list[Judgement]:
    """Each call behind a ranking, with the answers that it showed; the ranking itself where calls are not kept.

    A call that was made again since its reply could not be read counts once, by its last reply.
    """
    shown = [tuple(order) for order, _ in rankings]
    last = [
        (order, ranks) for at, (order, ranks) in enumerate(rankings) if ranks or tuple(order) not in shown[at + 1 :]
    ]
    if len(last) < 2 or max(len(order) for order, _ in last) < 2:
        return [whole]
    return [
        replace(
            whole,
            answers=[whole.answers[index] for index in order],
            models=[whole.models[index] for index in order],
            ranks=ranks or None,
            reason="" if ranks else "one of several calls about this prompt could not be read",
            order=range(len(order)),
        )
        for order, ranks in last
    ]


def _from_ranking(row: Mapping[str, Any], where: str) -> tuple[Judgement, list[tuple[Sequence[int], Sequence[float]]]]:
    """A row in Nectar's form, with our columns or without, or a pair of chosen and rejected; and its single calls."""
    ranking = tables.ranking_from_row(row, where)
    k = len(ranking.answers)
    orders, rankings = ranking.orders, ranking.rankings
    if not all(_are_some_of(order, k) for order in orders):
        raise DataError(f"{where}: `orders` must hold indices from 0 to {k - 1}, each once")
    if rankings and not _fit(rankings, orders):
        raise DataError(f"{where}: `rankings` must hold a rank for each answer of each of `orders`, or nothing")
    judgement = _whole(row, ranking)
    return judgement, list(zip(orders, rankings, strict=True)) if rankings else []


def _whole(row: Mapping[str, Any], ranking: Ranking) -> Judgement:
    orders = ranking.orders
    named = "answers" in row  # chosen and rejected are places, not models
    good_natured = row.get("good_natured")
    return Judgement(
        prompt=_key(ranking.messages),
        messages=ranking.messages,
        answers=[answer.answer for answer in ranking.answers],
        models=[answer.model if named else "" for answer in ranking.answers],
        ranks=ranking.ranks,
        order=_one_order(orders, len(ranking.answers)),
        good_natured=good_natured if isinstance(good_natured, bool) else None,
        agreement=ranking.agreement if isinstance(ranking.agreement, float) else None,
        judge=ranking.judge,
    )


def _answers(entries: Any, where: str) -> tuple[list[str], list[str]]:
    if not isinstance(entries, list):
        raise DataError(f"{where}: `answers` must be the list of answers as they were shown")
    texts: list[Any] = [entry.get("answer") if isinstance(entry, Mapping) else entry for entry in entries]
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(f"{where}: answer {number} has no text `answer`")
    return texts, [str(entry.get("model") or "") if isinstance(entry, Mapping) else "" for entry in entries]


def _reads_as(stored: Any, parsed: object, k: int) -> bool:
    """Whether the reply reads as the order that the log gives; an order that is no permutation stands for none."""
    if _is_permutation(stored, k):
        return isinstance(parsed, Ranked) and parsed.order == stored
    return isinstance(parsed, Unparsed)


def _is_permutation(order: Any, k: int) -> bool:
    return isinstance(order, list) and all(type(index) is int for index in order) and sorted(order) == list(range(k))


def _fit(rankings: Any, orders: Sequence[Sequence[int]]) -> bool:
    """Whether there is a ranking for each order, of as many answers or of none."""
    return (
        isinstance(rankings, list)
        and len(rankings) == len(orders)
        and all(
            isinstance(ranks, list) and len(ranks) in (0, len(order)) and all(map(_is_number, ranks))
            for ranks, order in zip(rankings, orders, strict=True)
        )
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 1


def _lists(value: Any) -> list[Any]:
    """A list whose own lists or tuples are lists; empty for anything else."""
    if not isinstance(value, list | tuple):
        return []
    return [list(item) if isinstance(item, list | tuple) else item for item in value]


def _are_some_of(order: Any, k: int) -> bool:
    return (
        isinstance(order, list)
        and 0 < len(set(order)) == len(order)
        and all(type(index) is int and 0 <= index < k for index in order)
    )


def _one_order(orders: Sequence[Sequence[int]], k: int) -> Sequence[int] | None:
    """The order of presentation, where all calls behind a ranking of `k` answers had the same."""
    distinct = {tuple(order) for order in orders}
    return distinct.pop() if len(distinct) == 1 and len(orders[0]) == k else None


def _key(messages: Sequence[Message]) -> str:
    return json.dumps([[message["role"], message["content"].strip()] for message in messages], ensure_ascii=False)
