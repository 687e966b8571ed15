"""What a benchmark's row asks of a reward model: answers to score, and which of them must come out above which."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from starling import turns
from starling.errors import DataError
from starling.records import Message
from starling.reward import Question

Rule = Callable[[Sequence[float], Sequence[float]], float]


class Comparison(NamedTuple):
    """Answers that must score above others: for which figure, which (by number), and when that is right."""

    figure: str
    better: tuple[int, ...]
    worse: tuple[int, ...]
    rule: Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A row: its question, what is compared, and the scores that stand in the row, if any."""

    id: str
    subset: str
    question: Question
    comparisons: tuple[Comparison, ...]
    stored: tuple[float, ...] | None

    @property
    def key(self) -> str:
        """What the scores depend on besides the model: a hash of conversation and answers."""
        text = json.dumps([[dict(message) for message in self.question.messages], list(self.question.answers)])
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Characters of each answer: the scores of a judge that only looks at length."""
        return tuple(map(len, self.question.answers))


class Bench(NamedTuple):
    """One benchmark: where its data is by default, how a row is read, what is missing, and the rows of its table."""

    about: str
    data: str
    part: str
    read: Callable[[Mapping[str, Any], str], Item]
    rows: Callable[[Sequence[Item], Sequence[Sequence[float]]], list[dict[str, Any]]]


def name_of(subset: str, number: Any, where: str) -> str:
    """What an item is called in lists: its number in its subset, or where its row stands."""
    return f"{subset}:{Path(where).name if number is None else number}"


# rules: 1 where the better answers come out above the worse ones, 0 where they do not


def above(better: Sequence[float], worse: Sequence[float]) -> float:
    """Every better answer scores higher than every worse one; equal scores are wrong."""
    return float(min(better) > max(worse))


def not_below(better: Sequence[float], worse: Sequence[float]) -> float:
    """No better answer scores lower than a worse one; equal scores are right."""
    return float(min(better) >= max(worse))


def not_below_at_two_decimals(better: Sequence[float], worse: Sequence[float]) -> float:
    """As `not_below`, both rounded to two decimals: the slack that the authors give a model's own noise."""
    return float(np.round(min(better), 2) >= np.round(max(worse), 2))


def share_of_best(better: Sequence[float], worse: Sequence[float]) -> float:
    """Whether the better answer scores highest; m answers that share the highest score get 1/m each."""
    best = max(*better, *worse)
    winners = sum(score == best for score in (*better, *worse))
    return float(max(better) == best) / winners


# reading


def question(prompt: Any, answers: Sequence[Any], where: str) -> Question:
    """A row's conversation and answers. A text is one user message to the letter, whatever it looks like."""
    if isinstance(prompt, str):
        messages: Sequence[Message] = [Message(role="user", content=prompt)]
    else:
        turns.check_messages(prompt, where)
        messages = [Message(role=turn["role"], content=turn["content"]) for turn in prompt]
    if not all(isinstance(answer, str) for answer in answers):
        raise DataError(f"{where}: every answer of a benchmark's row must be a text")
    return Question(
        messages=messages, answers=list(answers), finished=[True] * len(answers), reads_empty=True, where=where
    )


def need(row: Mapping[str, Any], columns: Sequence[str], where: str) -> None:
    """Refuse a row that lacks one of the columns."""
    missing = [column for column in columns if row.get(column) is None]
    if missing:
        found = ", ".join(sorted(key for key, value in row.items() if value is not None))
        raise DataError(f"{where}: needs {', '.join(columns)}; missing: {', '.join(missing)}; found: {found}")


def stored_scores(row: Mapping[str, Any], columns: Sequence[str], where: str) -> tuple[float, ...] | None:
    """The scores in these columns of the row, or None where it has none; some without the others are refused."""
    given = [row.get(column) for column in columns]
    if all(score is None for score in given):
        return None
    flat = [score[0] if isinstance(score, list) and len(score) == 1 else score for score in given]
    return checked_scores(flat, len(columns), where)


def checked_scores(scores: Sequence[Any], count: int, where: str) -> tuple[float, ...]:
    """The scores as numbers; one for each of `count` answers."""
    numbers = [float(score) for score in scores if isinstance(score, int | float) and not isinstance(score, bool)]
    if len(numbers) != len(scores) or len(scores) != count or not np.isfinite(numbers).all():
        raise DataError(f"{where}: {count} answers need {count} stored scores that are numbers; found: {scores}")
    return tuple(numbers)
