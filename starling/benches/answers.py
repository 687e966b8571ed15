"""A model's answers to a benchmark's questions: asked for turn by turn, or taken from rows that are there already."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from starling.benches.left_out import LeftOut
from starling.judges.protocol import Chat
from starling.records import Call, Failure, Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a model is asked: one message for each turn, and at which temperature it answers.

    `references` are good answers to the turns, as many as there are turns, or none.
    """

    id: str
    turns: Sequence[str]
    category: str = ""
    references: Sequence[str] = ()
    temperature: float = 0.0


class Given(NamedTuple):
    """A row of an answer file: the question that it answers, its answers, and where it stands."""

    question: str
    turns: Sequence[str]
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Answers by question id, one for each turn; `cut` of them ended at the token cap (None: not known)."""

    by_question: dict[str, tuple[str, ...]]
    left_out: Sequence[LeftOut] = ()
    cut: int | None = None

    @property
    def first(self) -> dict[str, str]:
        """The answers to the first turns."""
        return {question: turns[0] for question, turns in self.by_question.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A model with its answers."""

    name: str
    identity: dict[str, Any]
    answers: Answers


def ask(questions: Sequence[Question], chat: Chat, *, max_tokens: int) -> Answers:
    """Ask for an answer to each turn, where those before it stand in the conversation."""
    so_far: dict[str, list[str]] = {question.id: [] for question in questions}
    left_out: list[LeftOut] = []
    cut = 0
    for turn in range(max((len(question.turns) for question in questions), default=0)):
        waiting = [one for one in questions if turn < len(one.turns) and len(so_far[one.id]) == turn]
        calls = [
            Call(
                messages=conversation(one.turns[: turn + 1], so_far[one.id]),
                max_tokens=max_tokens,
                temperature=one.temperature,
            )
            for one in waiting
        ]
        for one, outcome in zip(waiting, chat.chat(calls), strict=True):
            if isinstance(outcome, Failure):
                left_out.append(LeftOut(one.id, f"no answer to turn {turn + 1}", outcome.reason))
            else:
                so_far[one.id].append(outcome.text)
                cut += not outcome.finished
    whole = {one.id: tuple(so_far[one.id]) for one in questions if len(so_far[one.id]) == len(one.turns)}
    return Answers(by_question=whole, left_out=left_out, cut=cut)


def match(questions: Sequence[Question], rows: Iterable[Given]) -> Answers:
    """Take the rows that answer a question; which questions and rows are left over is in `left_out`.

    Of a question that is answered twice, differently, no answer is taken: nobody can say which is meant.
    """
    known = {question.id: question for question in questions}
    found: dict[str, Given] = {}
    left_out: list[LeftOut] = []
    doubled: set[str] = set()
    for row in rows:
        if row.question not in known:
            left_out.append(LeftOut(row.question, "answers no question of this set", row.where))
        elif row.question in found and list(found[row.question].turns) != list(row.turns):
            if row.question not in doubled:
                left_out.append(LeftOut(row.question, "answered twice", f"{found[row.question].where} and {row.where}"))
            doubled.add(row.question)
        elif row.question not in found:
            found[row.question] = row
    whole: dict[str, tuple[str, ...]] = {}
    for question in questions:
        if question.id in doubled:
            continue
        if question.id not in found:
            left_out.append(LeftOut(question.id, "without an answer"))
        elif len(found[question.id].turns) != len(question.turns):
            given = found[question.id]
            why = f"{given.where}: {len(given.turns)} answers to {len(question.turns)} turns"
            left_out.append(LeftOut(question.id, "another number of turns", why))
        else:
            whole[question.id] = tuple(found[question.id].turns)
    return Answers(by_question=whole, left_out=left_out)


def conversation(turns: Sequence[str], answers: Sequence[str]) -> list[Message]:
    """Questions and answers in turn; after the last answer stands the question that waits for one, if any."""
    messages: list[Message] = []
    for at, turn in enumerate(turns):
        messages.append({"role": "user", "content": turn})
        if at < len(answers):
            messages.append({"role": "assistant", "content": answers[at]})
    return messages
