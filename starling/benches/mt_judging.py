"""How MT-Bench's answers are shown to a judge, and its marks and verdicts read, as strictly as can be, and written."""

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from starling import models, progress
from starling.account import Account
from starling.benches import answers as answering
from starling.benches import fastchat, scoring, verdicts
from starling.benches.answers import Question, Side
from starling.benches.verdicts import Form, Heard, Showing
from starling.judges import pairwise, pointwise, ranks
from starling.judges.asking import Output
from starling.judges.parse import Ranked, Scored, Tied, Unparsed, Verdict, parse_winner, ranks_of
from starling.judges.parse_json import read_mark as mark_of
from starling.judges.parse_json import read_winner as winner_of
from starling.ledger import Ledger
from starling.records import Call
from starling.speakers import open_speaker

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


FORMS = {
    MARK: Form(read_mark, mark_of, pointwise.STRATEGY.schema(1)),
    PAIR: Form(read_winner, winner_of, pairwise.STRATEGY.schema(2)),
}


def preference(verdict: Verdict, *, swapped: bool = False) -> float | None:
    """WIN, TIE or LOSS of the answer that was shown first, or second if `swapped`; None where nothing was read."""
    if not isinstance(verdict, Ranked | Tied):
        return None
    won = ranks.preference(ranks_of(verdict))
    return WIN - won if swapped else won


def judge(
    name: str,
    questions: Sequence[Question],
    sides: Sequence[Side],
    ledger: Ledger,
    output: Output = "text",
    account: Account | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Who judges one side's answers, or two sides' in pairs, and its judgments as FastChat writes them."""
    said = [side.answers.by_question for side in sides]
    todo = tasks(questions, *said)
    is_pair = len(sides) > 1
    if is_pair and scoring.is_reward_model(name, account):
        identity, template = models.identity(name), "rewards"
        heard = iter(_compared(name, questions, todo, said))
    else:
        template = PAIR if is_pair else MARK
        shown = [showing for task in todo for showing in task.showings]
        with progress.track("verdicts", len(shown), "verdicts") as advance:
            speaker = open_speaker(name, ledger, lambda call, reply: advance(1), account)
            heard = iter(verdicts.ask(speaker.chat, shown, FORMS[template], output=output))
        identity = verdicts.identity_of(speaker, template, output)
    common = {"judge": [identity["name"], f"{template}-{identity['template_hash']}"], "tstamp": time.time()}
    names = {"model_1": sides[0].name, "model_2": sides[1].name} if is_pair else {"model": sides[0].name}
    rows = []
    for task in todo:
        own = [next(heard) for _ in task.showings]
        about = {"question_id": fastchat.number(task.question), "turn": task.turn} | common | names
        rows.append(about | (_game_row(*own) if is_pair else _mark_row(*own)))
    return identity, rows


def call_of(showing: Showing, output: Output) -> Call:
    """The first call about what is shown."""
    return verdicts.call_of(showing, 0, 0, FORMS[showing.template].schema if output == "json" else None)


def case_of(row: Mapping[str, Any]) -> str:
    """What a judgment is about, whoever made it."""
    return f"question {row['question_id']}, turn {row['turn']}"


def row_of(like: Mapping[str, Any], judge: Sequence[str], value: float | None, reason: str) -> dict[str, Any]:
    """A judgment about what another one is about, with a mark or the preference for the first model; None and why."""
    about = {key: like[key] for key in ("question_id", "turn", "model", "model_1", "model_2") if key in like}
    why = {"reason": reason} if value is None else {}
    said: dict[str, Any] = {"score": fastchat.ERROR if value is None else value}
    if "model_1" in like:
        said = {"g1_winner": _winner(value), "g2_winner": _winner(value)}
    return about | {"judge": list(judge), "tstamp": time.time()} | said | why


def _compared(
    judge: str, questions: Sequence[Question], todo: Sequence[Task], sides: Sequence[Turns]
) -> Iterator[Heard]:
    """A reward model's verdict on each pair, once for each order: the second is the first turned round."""
    asked = {question.id: question for question in questions}
    pairs = []
    for task in todo:
        turns = asked[task.question].turns[: task.turn]
        said = [side[task.question] for side in sides]
        shown = [(answering.conversation(turns, one[: task.turn - 1]), one[task.turn - 1]) for one in said]
        pairs.append((shown[0], shown[1]))
    for heard in scoring.compare(judge, pairs):
        yield heard
        order = heard.verdict.order[::-1] if isinstance(heard.verdict, Ranked) else None
        yield replace(heard, verdict=Ranked(order)) if order else heard


def _mark_row(heard: Heard) -> dict[str, Any]:
    score = heard.verdict.mark if isinstance(heard.verdict, Scored) else fastchat.ERROR
    return {"user_prompt": heard.prompt, "judgment": heard.reply, "score": score} | _reasons([heard])


def _game_row(first: Heard, second: Heard) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for key, heard, swapped in (("g1", first, False), ("g2", second, True)):
        said = preference(heard.verdict, swapped=swapped)
        row |= {f"{key}_winner": _winner(said), f"{key}_user_prompt": heard.prompt, f"{key}_judgment": heard.reply}
    return row | _reasons([first, second])


def _winner(preferred: float | None) -> str:
    """Which model a preference for the first one names, as FastChat writes it."""
    return {None: "error", WIN: "model_1", LOSS: "model_2"}.get(preferred, "tie")


def _reasons(heard: Iterable[Heard]) -> dict[str, str]:
    """Why a judgment could not be read, beside what FastChat writes."""
    found = [one.verdict.reason for one in heard if isinstance(one.verdict, Unparsed)]
    return {"reason": "; ".join(dict.fromkeys(found))} if found else {}


def _shown(question: Question, answers: Turns, turn: int) -> list[tuple[str, str]]:
    """The texts of a conversation up to a turn, each with the name on its border."""
    texts = []
    for at in range(turn):
        texts.append((f"user turn {at + 1}", question.turns[at]))
        if question.references:
            texts.append((f"reference turn {at + 1}", question.references[at]))
        texts += [(f"{name} turn {at + 1}", said[at]) for name, said in answers.items()]
    return texts
