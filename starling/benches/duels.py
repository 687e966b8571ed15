"""Verdicts on pairs of answers from whatever holds them: rows of files, votes of the arena, a run.

A row is told by its columns:

    model_a, model_b, winner            Chatbot Arena's form; winner is model_a, model_b, tie or tie (bothbad), and
                                        lengths come from conversation_a and conversation_b, or response_a and _b
    model_1, model_2, g1_winner, ...    FastChat's pairwise judgments, asked in both orders: unlike verdicts are a tie
    verdict, base, tuned                `evaluate/cases.jsonl`
    answers                             a ranking: every pair of its answers by different models, but of two
                                        without a place
"""

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from starling import data_files, tables, votes
from starling.benches.ratings import Verdict
from starling.errors import DataError
from starling.judges.ranks import preference
from starling.store import Run, is_run

_ARENA = {"model_a": 1.0, "model_b": 0.0, "tie": 0.5, "tie (bothbad)": 0.5}
_FASTCHAT = {"model_1": 1.0, "model_2": 0.0, "tie": 0.5}


class LeftOut(NamedTuple):
    """A row that holds no verdict, and why."""

    where: str
    reason: str


def read(path: Path) -> tuple[list[Verdict], list[LeftOut]]:
    """The verdicts of a file, a run or a votes file, and the rows that hold none."""
    found: list[Verdict] = []
    left_out: list[LeftOut] = []
    names = ("base", "tuned")
    if is_run(path):
        names = (Run.read(path).config.run.model, str(path))
        path = path / "evaluate" / "cases.jsonl"
    for where, row in votes.located_rows(path) if votes.holds(path) else data_files.located_rows(path):
        try:
            found += _verdicts(row, where, names)
        except DataError as error:
            left_out.append(LeftOut(where, str(error).removeprefix(f"{where}: ")))
    return found, left_out


def _verdicts(row: Mapping[str, Any], where: str, names: tuple[str, str]) -> Sequence[Verdict]:
    if {"model_a", "model_b", "winner"} <= row.keys():
        found = [_arena(row, where)]
    elif {"model_1", "model_2", "g1_winner", "g2_winner"} <= row.keys():
        found = [_fastchat(row, where)]
    elif {"verdict", "base", "tuned"} <= row.keys():
        found = [_case(row, where, names)]
    elif "answers" in row:
        found = list(_ranking(row, where))
    else:
        raise DataError(f"no known form of verdict, columns {', '.join(sorted(row))}")
    if not found:
        raise DataError("no two answers by different models")
    if any(verdict.model_a == verdict.model_b for verdict in found):
        raise DataError("one model on both sides")
    return found


def _arena(row: Mapping[str, Any], where: str) -> Verdict:
    score = _score(row["winner"], _ARENA, "winner")
    sides = [_length(row.get(f"conversation_{side}"), row.get(f"response_{side}")) for side in "ab"]
    return Verdict(_name(row["model_a"]), _name(row["model_b"]), score, _prompt(row, where), _log_length(*sides))


def _fastchat(row: Mapping[str, Any], where: str) -> Verdict:
    first, second = (_score(row[f"g{game}_winner"], _FASTCHAT, f"g{game}_winner") for game in (1, 2))
    score = first if first == second else 0.5
    return Verdict(_name(row["model_1"]), _name(row["model_2"]), score, str(row.get("question_id", where)))


def _case(row: Mapping[str, Any], where: str, names: tuple[str, str]) -> Verdict:
    if row["verdict"] is None:
        raise DataError("the judge's verdict could not be read")
    try:
        base, tuned = (len(row[side]["answer"]) for side in ("base", "tuned"))
        score = float(row["verdict"])
    except (TypeError, KeyError, ValueError):
        raise DataError("no case of `evaluate`: `base` and `tuned` with an `answer`, `verdict` a number") from None
    return Verdict(names[1], names[0], score, str(row.get("prompt_id", where)), _log_length(tuned, base))


def _ranking(row: Mapping[str, Any], where: str) -> Iterator[Verdict]:
    ranking = tables.ranking_from_row(row, where)
    placed = zip(ranking.answers, ranking.ranks, strict=True)
    for (one, above), (other, below) in itertools.combinations(placed, 2):
        if one.model != other.model and math.isfinite(min(above, below)):
            length = _log_length(len(one.answer), len(other.answer))
            yield Verdict(_name(one.model), _name(other.model), preference([above, below]), ranking.prompt_id, length)


def _score(value: Any, known: Mapping[str, float], column: str) -> float:
    if not isinstance(value, str) or value not in known:
        raise DataError(f"{column} is {str(value)[:40]!r}, not one of {', '.join(known)}")
    return known[value]


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise DataError(f"a model's name is {str(value)[:40]!r}")
    return value


def _prompt(row: Mapping[str, Any], where: str) -> str:
    """What tells the row's prompt from others: its text where it is there, else the row."""
    said = row.get("conversation_a")
    first = said[0] if isinstance(said, list) and said else None
    text = row.get("prompt") or (first.get("content") if isinstance(first, Mapping) else None)
    return str(text or row.get("question_id") or where)


def _length(conversation: Any, response: Any) -> int | None:
    """Characters of all that one side said; None where it is not there."""
    if conversation is None:
        return len(response) if isinstance(response, str) else None
    try:
        said = json.loads(conversation) if isinstance(conversation, str) else conversation
        return sum(len(message["content"]) for message in said if message["role"] == "assistant")
    except (ValueError, TypeError, KeyError):
        raise DataError("the conversation is no list of messages") from None


def _log_length(one: int | None, other: int | None) -> float | None:
    """The log of one length over the other, each with one more character, since an answer may be empty."""
    return None if one is None or other is None else math.log((1 + one) / (1 + other))
