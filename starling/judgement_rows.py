"""Rows of any ranking log -> what the judge said in each call."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from starling import tables, turns
from starling.errors import DataError
from starling.judges.parse import (
    MOST_ANSWERS,
    Pair,
    Ranked,
    Unparsed,
    parse_good_natured,
    parse_pairs,
    parse_ranking,
    ranks_of,
)
from starling.records import Message, Ranking


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


def of_row(row: Mapping[str, Any], where: str) -> list[tuple[str, Judgement]]:
    """The form of a row, with each call that it tells of."""
    if "rating_text" in row:
        return [("judge's replies", _from_reply(row, where))]
    if "reason" in row and "answers" not in row:
        name = str(row.get("prompt_id") or where)
        reason = str(row["reason"] or "no reason given")
        return [("unranked rows", Judgement(prompt=name, ranks=None, reason=reason))]
    whole, rankings, repeats = _from_ranking(row, where)
    return [("rankings", call) for call in calls_of(whole, rankings, repeats)]


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
    messages: Any = turns.messages_from_text(asked) if isinstance(asked, str) else asked
    turns.check_messages(messages, where)
    parsed = Unparsed("no reply") if reply is None else parse_ranking(reply, len(texts))
    return Judgement(
        prompt=key(messages),
        messages=messages,
        answers=texts,
        models=models,
        ranks=None if isinstance(parsed, Unparsed) else ranks_of(parsed),
        reason=parsed.reason if isinstance(parsed, Unparsed) else "",
        order=range(len(texts)),
        good_natured=parse_good_natured(reply or ""),
        reply=reply,
        pairs=parse_pairs(reply or "", len(texts)),
        as_stored=_reads_as(row["ranking_order"], parsed, len(texts)) if "ranking_order" in row else None,
        judge=str(row.get("judge") or ""),
    )


def calls_of(
    whole: Judgement, rankings: Sequence[tuple[Sequence[int], Sequence[float]]], repeats: Sequence[int] = ()
) -> list[Judgement]:
    """Each call behind a ranking, with the answers that it showed; the ranking itself where calls are not kept.

    A call that was made again since its reply could not be read counts once, by its last reply; of another one of
    `repeats` it is another call.
    """
    of = repeats if len(repeats) == len(rankings) else [0] * len(rankings)
    shown = [(tuple(order), repeat) for (order, _), repeat in zip(rankings, of, strict=True)]
    last = [one for at, one in enumerate(rankings) if one[1] or shown[at] not in shown[at + 1 :]]
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


def _from_ranking(
    row: Mapping[str, Any], where: str
) -> tuple[Judgement, list[tuple[Sequence[int], Sequence[float]]], Sequence[int]]:
    """A row in Nectar's form, with our columns or without, or a pair of chosen and rejected; its single calls, and of
    which repeat each is."""
    ranking = tables.ranking_from_row(row, where)
    k = len(ranking.answers)
    orders, rankings = ranking.orders, ranking.rankings
    if not all(are_some_of(order, k) for order in orders):
        raise DataError(f"{where}: `orders` must hold indices from 0 to {k - 1}, each once")
    if rankings and not fit(rankings, orders):
        raise DataError(f"{where}: `rankings` must hold a rank for each answer of each of `orders`, or nothing")
    judgement = whole_of(row, ranking)
    return judgement, list(zip(orders, rankings, strict=True)) if rankings else [], ranking.repeats


def whole_of(row: Mapping[str, Any], ranking: Ranking) -> Judgement:
    """A ranking as one call, whatever calls are behind it."""
    orders = ranking.orders
    named = "answers" in row  # chosen and rejected are places, not models
    return Judgement(
        prompt=key(ranking.messages),
        messages=ranking.messages,
        answers=[answer.answer for answer in ranking.answers],
        models=[answer.model if named else "" for answer in ranking.answers],
        ranks=ranking.ranks,
        order=one_order(orders, len(ranking.answers)),
        good_natured=None if row.get("good_natured") is None else ranking.good_natured,
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


def fit(rankings: Any, orders: Sequence[Sequence[int]]) -> bool:
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


def are_some_of(order: Any, k: int) -> bool:
    """Whether these are indices of `k` answers, each at most once, and at least one."""
    return (
        isinstance(order, list)
        and all(type(index) is int and 0 <= index < k for index in order)
        and 0 < len(set(order)) == len(order)
    )


def one_order(orders: Sequence[Sequence[int]], k: int) -> Sequence[int] | None:
    """The order of presentation, where all calls behind a ranking of `k` answers had the same."""
    distinct = {tuple(order) for order in orders}
    return distinct.pop() if len(distinct) == 1 and len(orders[0]) == k else None


def key(messages: Sequence[Message]) -> str:
    """What conversations are the same: roles and texts, blanks around them aside."""
    return json.dumps([[message["role"], message["content"].strip()] for message in messages], ensure_ascii=False)
