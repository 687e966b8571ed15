"""MT-Bench (Zheng et al. 2023, arXiv:2306.05685): two turns, answers marked by a judge or compared in pairs."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from starling import contamination, progress
from starling.account import Account
from starling.benches import answers as answering
from starling.benches import (
    cost,
    fastchat,
    filing,
    mt_judged,
    mt_judging,
    mt_questions,
    radar,
    results,
    scoring,
    verdicts,
)
from starling.benches.answers import Answers, Question, Side
from starling.benches.asked import Asked, refuse_files
from starling.benches.cost import Part
from starling.benches.fastchat import QuestionSet
from starling.benches.mt_judged import Judged
from starling.errors import DataError, UsageError
from starling.speakers import open_speaker, refuse_one_name

NAME = "mt_bench"
ABOUT = "two turns, by a judge's marks from 1 to 10, or in pairs"
OPTIONS = frozenset(
    ("model", "answers", "judge", "output", "against", "marks", "judgments", "data", "run", "out", "estimate")
)
MAX_TOKENS = 1024  # of an answer, as in FastChat
ANSWERS, VERDICTS = "answers", "verdicts"  # what the ledger's calls are for


def run(asked: Asked) -> dict[str, Any]:
    """Test a model, its answers, or score judgments that are there; print the table, write all into `out`."""
    _refuse_unclear(asked)
    found, name = mt_questions.find(asked.data)
    data = {"name": name, "cases": len(found.questions), "sha256": found.sha256}
    if asked.judgments:
        return _of_judgments(asked, asked.judgments, found, data)
    source = _source(asked)
    out = asked.out or filing.folder_of(NAME, source)
    if asked.estimate:
        return cost.estimate(_parts(asked, found.questions), filing.ledger_of(out))
    ours = _side(source, found.questions, out, asked.account)
    theirs = _side(asked.against, found.questions, out, asked.account) if asked.against else None
    if theirs and theirs.name == ours.name:
        raise UsageError(f"bench: both sides are called {ours.name}; give one of the answer files another model_id")
    sides = [side for side in (ours, theirs) if side]
    without = [*found.left_out, *(left for side in sides for left in side.answers.left_out)]
    answered = [one for one in found.questions if all(one.id in side.answers.by_question for side in sides)]
    if not answered:
        raise DataError(
            f"bench: no question of this set is answered by {' and '.join(side.name for side in sides)}; "
            f"left out: {len(without)}, the first: {without[0].item}: {without[0].reason} ({without[0].detail})"
        )
    told = _compared(asked, found.questions, answered, sides, out)
    notes = [*told.figures.notes, *_notes(found.questions, data, sides)]
    more: dict[str, Any] = {"by_category": told.figures.by_category, "notes": notes} | told.about
    if asked.run is not None:
        more["contamination"] = contamination.of_turns({one.id: one.turns for one in found.questions}, asked.run)
        notes += contamination.lines(more["contamination"])
    result = results.result(
        NAME,
        model=ours.identity,
        judge=told.judge,
        data=data,
        rows=told.figures.rows,
        without=[*without, *told.figures.left_out],
        more={"against": theirs.identity if theirs else None} | more,
    )
    _end(result, notes, out, is_pair=bool(theirs) and not asked.marks)
    return result


def _compared(
    asked: Asked, questions: Sequence[Question], answered: Sequence[Question], sides: Sequence[Side], out: Path
) -> Judged:
    """One side's marks, the games of two sides in pairs, or the marks of both with the change."""
    with filing.filed(out, VERDICTS, asked.account) as ledger:
        if not asked.marks:
            return mt_judged.judged(asked, questions, sides, answered, ledger, out)
        ours, theirs = (mt_judged.judged(asked, answered, [side], answered, ledger, out) for side in sides)
    return mt_judged.marked(ours, theirs, sides[1])


def plan(asked: Asked) -> list[Part]:
    """What is going to be asked of whom; what cannot work is refused."""
    _refuse_unclear(asked)
    found, _ = mt_questions.find(asked.data)
    return [] if asked.judgments else _parts(asked, found.questions)


def _source(asked: Asked) -> str:
    return str(asked.answers or asked.model)


def _refuse_unclear(asked: Asked) -> None:
    given, account = [key for key in ("model", "answers", "judgments") if getattr(asked, key)], asked.account
    if asked.judgments:
        if asked.answers or asked.judge or asked.marks or asked.run or asked.estimate or asked.output == "json":
            raise UsageError(
                "bench: --judgments are scored as they are: leave out --answers, --judge, --output, --marks, --run "
                "and --estimate"
            )
    elif len(given) != 1:
        raise UsageError(
            f"bench: {NAME} needs one of --model MODEL (answers are sampled), --answers FILE and --judgments FILE"
        )
    elif asked.marks and not asked.against:
        raise UsageError("bench: --marks compares the marks of two sides; add --against MODEL, or leave it out")
    elif not asked.judge:
        raise UsageError(f"bench: {NAME} needs --judge MODEL, as in --judge openai:NAME@URL")
    refuse_files(asked)
    if asked.model and asked.against and not asked.judgments:
        refuse_one_name(asked.model, asked.against, account)
    scoring.refuse_judges(asked, NAME, "questions")
    if (asked.marks or not asked.against) and (
        unfit := [one for one in asked.judge if scoring.is_reward_model(one, account)]
    ):
        instead = "leave out --marks" if asked.marks else "add --against MODEL"
        raise UsageError(f"bench: {unfit[0]} is a reward model, which gives no marks; compare: {instead}")


def _side(source: str, questions: Sequence[Question], out: Path, account: Account | None) -> Side:
    """Answers that stand in a file, or those of a MODEL, written as FastChat does."""
    if Path(source).is_file():
        name, given, left_out = fastchat.read_answers(Path(source))
        matched = answering.match(questions, given)
        answers = Answers(by_question=matched.by_question, left_out=[*left_out, *matched.left_out])
        return Side(name=name, identity={"name": name, "answers": source}, answers=answers)
    turns = sum(len(one.turns) for one in questions)
    with filing.filed(out, ANSWERS, account) as ledger, progress.track(ANSWERS, turns, "answers") as advance:
        speaker = open_speaker(source, ledger, lambda call, reply: advance(1), account)
        answers = answering.ask(questions, speaker.chat, max_tokens=MAX_TOKENS)
    name = speaker.identity["name"]
    rows = fastchat.answer_rows(name, answers, time.time())
    fastchat.put(out / "model_answer" / f"{filing.file_name(name)}.jsonl", rows, "model_id", name)
    return Side(name=name, identity=speaker.identity, answers=answers)


def _of_judgments(asked: Asked, file: Path, found: QuestionSet, data: dict[str, Any]) -> dict[str, Any]:
    """Score judgments that are there: no call is made."""
    judgments = fastchat.read_judgments(file)
    figures = mt_judged.figures_of(judgments, found.questions, asked.model, asked.against)
    templates = sorted({fastchat.judge_of(row)[1] for _, row in judgments} - {""})
    judge = {"name": fastchat.judge_of(judgments[0][1])[0], "templates": templates, "judgments": str(file)}
    result = results.result(
        NAME,
        model={"name": asked.model or f"all {len(figures.by_category)} that are judged"},
        judge=judge,
        data=data,
        rows=figures.rows,
        without=[*found.left_out, *figures.left_out],
        more={"against": asked.against or None, "by_category": figures.by_category, "notes": figures.notes},
    )
    _end(result, figures.notes, asked.out, is_pair=fastchat.is_pair(judgments[0][1]))
    return result


def _end(result: dict[str, Any], notes: Sequence[str], out: Path | None, *, is_pair: bool) -> None:
    results.show(result, ABOUT, unit="questions", notes=notes)
    if out is None:
        return
    kind = "win rate, a tie is half" if is_pair else "mean mark"
    title = f"MT-Bench, {kind}, judge {result['judge']['name']}"
    drawn = radar.draw(title, result["by_category"], (0.0, 1.0) if is_pair else (0.0, 10.0), out / "radar")
    for path in drawn:
        progress.say(f"bench: {path}")
    results.write(out, result)


def _notes(questions: Sequence[Question], data: dict[str, Any], sides: Sequence[Side]) -> list[str]:
    notes = []
    if data["name"] == mt_questions.BUILTIN:
        notes.append("our own questions: these figures stand beside no published MT-Bench figure")
    lacking = [one for one in questions if one.category in fastchat.WITH_REFERENCE and not one.references]
    if lacking:
        notes.append(
            f"judged without a reference answer, as there is none: {len(lacking)} of "
            f"{', '.join(sorted({one.category for one in lacking}))}, first {lacking[0].id}"
        )
    for side in sides:
        if side.answers.cut:
            notes.append(f"{side.name}: {side.answers.cut} answers ended at the cap of {MAX_TOKENS} tokens")
    return notes


def _parts(asked: Asked, questions: Sequence[Question]) -> list[Part]:
    """The calls of a test; answers that are not there yet count with their cap."""
    parts, sides, unknown = [], [], 0
    for one in filter(None, (_source(asked), asked.against)):
        if Path(one).is_file():
            sides.append(answering.match(questions, fastchat.read_answers(Path(one))[1]))
        else:
            parts.append(cost.of_answers(ANSWERS, one, questions, MAX_TOKENS))
            sides.append(Answers(by_question={question.id: ("",) * len(question.turns) for question in questions}))
            unknown += 1
    together = [[side] for side in sides] if asked.marks else [sides]
    tasks = [mt_judging.tasks(questions, *(side.by_question for side in some)) for some in together]
    shown = [showing for some in tasks for task in some for showing in task.showings]
    texts = [mt_judging.call_of(showing, asked.output).messages[0]["content"] for showing in shown]
    form = mt_judging.FORMS[mt_judging.PAIR if asked.against else mt_judging.MARK]
    answers_shown = sum(name.startswith("answer") for showing in shown for name, _ in showing.texts)
    return parts + [
        Part(
            purpose=VERDICTS,
            model=judge,
            calls=len(shown),
            characters=sum(map(len, texts)),
            max_tokens=verdicts.MAX_TOKENS,
            written=verdicts.tokens_alone(form.schema) if asked.output == "json" else 0,
            read=answers_shown * unknown // len(sides),
            read_cap=MAX_TOKENS,
        )
        for judge in asked.judge
        if not scoring.is_reward_model(judge, asked.account)  # that is asked nothing
    ]
