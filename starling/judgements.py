"""What a judge said, call by call, read from any ranking log."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from starling import judgement_rows, panel_rows, sources
from starling.errors import DataError
from starling.judgement_rows import Judgement
from starling.judges.protocol import Judged
from starling.records import Candidate, Prompt, Ranking
from starling.store import Run, is_run


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """The calls of one log; `keeps_unread` is whether calls without a readable ranking would stand in it."""

    name: str
    form: str
    keeps_unread: bool
    calls: Sequence[Judgement]


def read(path: Path) -> Log:
    """A ranking table, a published log, rows without a ranking, a folder of such files, or a run."""
    (found,) = _read(path, [""])
    return found


def with_members(path: Path) -> list[Log]:
    """What `read` reads, and where a panel ranked, after it the log of what each of its judges said."""
    _where, first = next(sources.table_rows(str(_tables(path)[0])), ("", {}))
    return _read(path, ["", *panel_rows.judges(first)])


def _read(path: Path, members: Sequence[str]) -> list[Log]:
    """The log of each of these judges of a panel, "" = what they said together, or of a single judge; read once."""
    parts = zip(*(_read_rows(table, members) for table in _tables(path)), strict=True)
    logs = [pooled(of_member) for of_member in parts]
    if is_run(path):
        logs = [replace(log, form="run", keeps_unread=True) for log in logs]
    names = [f"{path}: {member}" if member else str(path) for member in members]
    return [replace(log, name=name) for log, name in zip(logs, names, strict=True)]


def _tables(path: Path) -> list[Path]:
    """Where the rows stand: a file or folder itself, or a run's rankings and what it left unranked, if anything."""
    if not is_run(path):
        return [path]
    run = Run.read(path)
    run.facts("rank")
    return [run.root / "rank", *([run.root / "unranked"] if any((run.root / "unranked").glob("*.jsonl")) else [])]


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
            prompt=judgement_rows.key(prompt.messages),
            messages=prompt.messages,
            answers=[answer.answer for answer in answers],
            models=[answer.model for answer in answers],
            ranks=verdict.ranks,
            reason=verdict.reason,
            order=judgement_rows.one_order(verdict.orders, len(answers)),
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
        known = all(judgement_rows.are_some_of(order, k) for order in orders)
        if not known or (told and not judgement_rows.fit(told, orders)):
            orders, told = [], []
        whole = judgement_rows.whole_of({"answers": ()}, replace(ranking, orders=orders))
        calls += judgement_rows.calls_of(whole, list(zip(orders, told, strict=True)) if told else [], ranking.repeats)
    return Log(name=name, form="rankings", keeps_unread=False, calls=calls)


def _read_rows(path: Path, members: Sequence[str]) -> list[Log]:
    read: list[list[tuple[str, Judgement]]] = [[] for _ in members]
    for where, row in sources.table_rows(str(path)):
        for found, member in zip(read, members, strict=True):
            found += judgement_rows.of_row(panel_rows.of_member(row, member, where) if member else row, where)
    if not all(read):
        raise DataError(f"{path}: there is no row in it")
    return [_log(str(path), found) for found in read]


def _log(name: str, read: Sequence[tuple[str, Judgement]]) -> Log:
    forms = dict.fromkeys(form for form, _ in read)
    return Log(
        name=name,
        form=" and ".join(forms),
        keeps_unread=bool(forms.keys() - {"rankings"}),
        calls=[judgement for _, judgement in read],
    )


def _lists(value: Any) -> list[Any]:
    """A list whose own lists or tuples are lists; empty for anything else."""
    if not isinstance(value, list | tuple):
        return []
    return [list(item) if isinstance(item, list | tuple) else item for item in value]
