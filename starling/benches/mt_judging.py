"""How MT-Bench's answers are shown to a judge, and how its marks and verdicts are read, as strictly as they can be."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from starling.benches.answers import Question
from starling.benches.verdicts import Showing
from starling.judges.parse import Ranked, Scored, Tied, Unparsed, Verdict, parse_winner

MARK, PAIR = "mt_mark", "mt_pair"
WIN, TIE, LOSS = 1.0, 0.5, 0.0
_DOUBLE = re.compile(r"\[\[([^\[\]]*)\]\]")
_SINGLE = re.compile(r"\[(\d{1,8}(?:\.\d{0,8})?)\]")
_NUMBER = re.compile(r"\d{1,8}(?:\.\d{0,8})?", re.ASCII)
_DIGIT = re.compile(r"\d")
_LONGEST = 12  # characters of what stands in double brackets, to be called a mark

Turns = Mapping[str, Sequence[str]]


class Task(NamedTuple):
    """What a judge is shown of one turn of a question: once, or twice where a pair is shown in both orders."""

    question: str
    turn: int
    showings: tuple[Showing, ...]


def tasks(questions: Sequence[Question], ours: Turns, theirs: Turns | None = None) -> list[Task]:
    """Each turn of each question that is answered: our answer alone, or both models' answers in both orders."""
    found = []
    for one in questions:
        if one.id not in ours or (theirs is not None and one.id not in theirs):
            continue
        for turn in range(1, len(one.turns) + 1):
            name = f"{one.id} turn {turn}"
            if theirs is None:
                texts = _shown(one, {"answer": ours[one.id]}, turn)
                found.append(Task(one.id, turn, (Showing(id=name, template=MARK, texts=texts),)))
                continue
            orders = [(ours[one.id], theirs[one.id]), (theirs[one.id], ours[one.id])]
            both = tuple(
                Showing(id=name, template=PAIR, texts=_shown(one, {"answer A": a, "answer B": b}, turn), answers=2)
                for a, b in orders
            )
            found.append(Task(one.id, turn, both))
    return found


def read_mark(reply: str) -> Verdict:
    """The one mark from 1 to 10 that a reply gives in double brackets, or else in single ones; decimals count.

    As FastChat reads it, but for what it takes all the same: a mark outside 1 to 10 (11), and the first of several
    that differ. `[[8/10]]` is no mark to either.
    """
    found = [said.strip() for said in _DOUBLE.findall(reply) if len(said) <= _LONGEST and _DIGIT.search(said)]
    found = found or _SINGLE.findall(reply)
    if not found:
        return Unparsed("an empty reply" if not reply.strip() else "no mark in double brackets")
    if wrong := [said for said in found if not _NUMBER.fullmatch(said)]:
        return Unparsed(f"the mark is {wrong[0]!r}, no number")
    if len(marks := {float(said) for said in found}) > 1:
        return Unparsed(f"the reply names {len(marks)} marks")
    mark = marks.pop()
    return Scored(mark) if 1 <= mark <= 10 else Unparsed(f"the mark is {found[0]!r}, not 1 to 10")


def read_winner(reply: str) -> Verdict:
    """Which of two answers a reply prefers: the one verdict in double brackets; Unparsed where it names two."""
    if not reply.strip():
        return Unparsed("an empty reply")
    said = {one.strip(" \t\"'*`").lower() for one in _DOUBLE.findall(reply)} & {"a", "b", "tie"}
    return Unparsed(f"the reply names {len(said)} winners") if len(said) > 1 else parse_winner(reply)


def preference(verdict: Verdict, *, swapped: bool = False) -> float | None:
    """WIN, TIE or LOSS of the answer that was shown first, or second if `swapped`; None where nothing was read."""
    if isinstance(verdict, Tied):
        return TIE
    if not isinstance(verdict, Ranked):
        return None
    won = WIN if verdict.order[0] == 0 else LOSS
    return 1 - won if swapped else won


def _shown(question: Question, answers: Turns, turn: int) -> list[tuple[str, str]]:
    """The texts of a conversation up to a turn, each with the name on its border."""
    texts = []
    for at in range(turn):
        texts.append((f"user turn {at + 1}", question.turns[at]))
        if question.references:
            texts.append((f"reference turn {at + 1}", question.references[at]))
        texts += [(f"{name} turn {at + 1}", said[at]) for name, said in answers.items()]
    return texts
