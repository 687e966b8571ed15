"""MT-Bench (Zheng et al. 2023, arXiv:2306.05685): two turns, answers marked by a judge or compared in pairs."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from starling import models, progress
from starling.benches import answers as answering
from starling.benches import (
    chats,
    cost,
    fastchat,
    mt_judging,
    mt_questions,
    mt_scores,
    radar,
    results,
    scoring,
    verdicts,
)
from starling.benches.answers import Answers, Question, Side
from starling.benches.asked import Asked
from starling.benches.cost import Part
from starling.benches.fastchat import QuestionSet
from starling.benches.mt_judging import Task
from starling.benches.verdicts import Heard
from starling.errors import UsageError
from starling.judges.parse import Ranked, Scored, Unparsed
from starling.ledger import Ledger

NAME = "mt_bench"
ABOUT = "two turns, by a judge's marks from 1 to 10, or in pairs"
OPTIONS = frozenset(("model", "answers", "judge", "against", "judgments", "data", "out", "estimate"))
MAX_TOKENS = 1024  # of an answer, as in FastChat
ANSWERS, VERDICTS = "answers", "verdicts"  # what the ledger's calls are for


def run(asked: Asked) -> dict[str, Any]:
    """Test a model, its answers, or score judgments that are there; print the table, write all into `out`."""
    _refuse_unclear(asked)
    found, name = mt_questions.find(asked.data)
    data = {"name": name, "cases": len(found.questions), "sha256": found.sha256}
    if asked.judgments:
        return _of_judgments(asked, asked.judgments, found, data)
    source = str(asked.answers or asked.model)
    out = (
        asked.out or Path("runs") / f"bench-{NAME}-{fastchat.file_name(Path(source).name if asked.answers else source)}"
    )
    if asked.estimate:
        return cost.estimate(_parts(asked, found.questions, source), chats.ledger_of(out))
    ours = _side(source, found.questions, out)
    theirs = _side(asked.against, found.questions, out) if asked.against else None
    if theirs and theirs.name == ours.name:
        raise UsageError(f"bench: both sides are called {ours.name}; give one of the answer files another model_id")
    with chats.filed(out, VERDICTS) as ledger:
        judge, rows = _judged(asked.judge, found.questions, ours, theirs, ledger)
    if theirs:
        path = out / "model_judgment" / f"{fastchat.file_name(judge['name'])}_pair.jsonl"
        fastchat.put(path, rows, "model_1", ours.name)
    else:
        path = out / "model_judgment" / f"{fastchat.file_name(judge['name'])}_single.jsonl"
        fastchat.put(path, rows, "model", ours.name)
    sides = [side for side in (ours, theirs) if side]
    without = [*found.left_out, *(left for side in sides for left in side.answers.left_out)]
    answered = [one for one in found.questions if all(one.id in side.answers.by_question for side in sides)]
    placed = [(f"{path.name}, {ours.name}", row) for row in rows]
    figures = _figures(placed, answered, ours.name, theirs.name if theirs else "")
    notes = [*figures.notes, *_notes(found.questions, data, sides)]
    result = results.result(
        NAME,
        model=ours.identity,
        judge=judge,
        data=data,
        rows=figures.rows,
        without=[*without, *figures.left_out],
        more={"against": theirs.identity if theirs else None, "by_category": figures.by_category, "notes": notes},
    )
    _end(result, notes, out, is_pair=bool(theirs))
    return result


def _refuse_unclear(asked: Asked) -> None:
    given = [key for key in ("model", "answers", "judgments") if getattr(asked, key)]
    if asked.judgments:
        if asked.answers or asked.judge or asked.estimate:
            raise UsageError("bench: --judgments are scored as they are: leave out --answers, --judge and --estimate")
    elif len(given) != 1:
        raise UsageError(
            f"bench: {NAME} needs one of --model MODEL (answers are sampled), --answers FILE and --judgments FILE"
        )
    elif asked.answers and not asked.answers.is_file():
        raise UsageError(f"bench: --answers {asked.answers}: there is no such file")
    elif not asked.judge:
        raise UsageError(f"bench: {NAME} needs --judge MODEL, as in --judge openai:NAME@URL")
    elif asked.judge == "rubric":
        raise UsageError(f"bench: the rubric needs checks that the questions of {NAME} have not; give --judge MODEL")
    elif not asked.against and scoring.is_reward_model(asked.judge):
        raise UsageError(f"bench: {asked.judge} is a reward model, which gives no marks; compare: add --against MODEL")
    if asked.out is not None and asked.out.is_file():
        raise UsageError(f"bench: --out {asked.out} is a file; {NAME} writes a folder")


def _side(source: str, questions: Sequence[Question], out: Path) -> Side:
    """Answers that stand in a file, or those of a MODEL, written as FastChat does."""
    if Path(source).is_file():
        name, given, left_out = fastchat.read_answers(Path(source))
        matched = answering.match(questions, given)
        answers = Answers(by_question=matched.by_question, left_out=[*left_out, *matched.left_out])
        return Side(name=name, identity={"name": name, "answers": source}, answers=answers)
    turns = sum(len(one.turns) for one in questions)
    with chats.filed(out, ANSWERS) as ledger, progress.track(ANSWERS, turns, "answers") as advance:
        speaker = chats.open_speaker(source, ledger, lambda call, reply: advance(1))
        answers = answering.ask(questions, speaker.chat, max_tokens=MAX_TOKENS)
    name = speaker.identity["name"]
    rows = fastchat.answer_rows(name, answers, time.time())
    fastchat.put(out / "model_answer" / f"{fastchat.file_name(name)}.jsonl", rows, "model_id", name)
    return Side(name=name, identity=speaker.identity, answers=answers)


def _judged(
    judge: str, questions: Sequence[Question], ours: Side, theirs: Side | None, ledger: Ledger
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Who judged, and its judgments as FastChat writes them."""
    tasks = mt_judging.tasks(questions, ours.answers.by_question, theirs.answers.by_question if theirs else None)
    if theirs and scoring.is_reward_model(judge):
        identity, template = models.identity(judge), "rewards"
        heard = iter(_compared(judge, questions, tasks, (ours, theirs)))
    else:
        template = mt_judging.PAIR if theirs else mt_judging.MARK
        read = mt_judging.read_winner if theirs else mt_judging.read_mark
        asked = [showing for task in tasks for showing in task.showings]
        with progress.track(VERDICTS, len(asked), "verdicts") as advance:
            speaker = chats.open_speaker(judge, ledger, lambda call, reply: advance(1))
            heard = iter(verdicts.ask(speaker.chat, asked, read))
        identity = verdicts.identity_of(speaker, template)
    common = {"judge": [identity["name"], f"{template}-{identity['template_hash']}"], "tstamp": time.time()}
    rows = []
    for task in tasks:
        own = [next(heard) for _ in task.showings]
        about = {"question_id": fastchat.number(task.question), "turn": task.turn, **common}
        if theirs:
            rows.append(about | {"model_1": ours.name, "model_2": theirs.name} | _game_row(*own))
        else:
            rows.append(about | {"model": ours.name} | _mark_row(*own))
    return identity, rows


def _compared(
    judge: str, questions: Sequence[Question], tasks: Sequence[Task], sides: tuple[Side, Side]
) -> Iterator[Heard]:
    """A reward model's verdict on each pair, once for each order: the second is the first turned round."""
    asked = {question.id: question for question in questions}
    pairs = []
    for task in tasks:
        turns = asked[task.question].turns[: task.turn]
        said = [side.answers.by_question[task.question] for side in sides]
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
        said = mt_judging.preference(heard.verdict, swapped=swapped)
        winner = {None: "error", mt_judging.WIN: "model_1", mt_judging.LOSS: "model_2"}.get(said, "tie")
        row |= {f"{key}_winner": winner, f"{key}_user_prompt": heard.prompt, f"{key}_judgment": heard.reply}
    return row | _reasons([first, second])


def _reasons(heard: Iterable[Heard]) -> dict[str, str]:
    """Why a judgment could not be read, beside what FastChat writes."""
    found = [one.verdict.reason for one in heard if isinstance(one.verdict, Unparsed)]
    return {"reason": "; ".join(found)} if found else {}


def _figures(
    judgments: mt_scores.Judgments, questions: Sequence[Question], model: str, against: str
) -> mt_scores.Figures:
    if judgments and fastchat.is_pair(judgments[0][1]):
        return mt_scores.of_games(judgments, questions, model, against)
    return mt_scores.of_marks(judgments, questions, model)


def _of_judgments(asked: Asked, file: Path, found: QuestionSet, data: dict[str, Any]) -> dict[str, Any]:
    """Score judgments that are there: no call is made."""
    judgments = fastchat.read_judgments(file)
    figures = _figures(judgments, found.questions, asked.model, asked.against)
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
        progress.console.print(f"bench: {path}", markup=False)
    results.write(out, result)


def _notes(questions: Sequence[Question], data: dict[str, Any], sides: Sequence[Side]) -> list[str]:
    notes = []
    if data["name"] == mt_questions.BUILTIN:
        notes.append("our own questions: these figures stand beside no published MT-Bench figure")
    lacking = [one for one in questions if one.category in fastchat.WITH_REFERENCE and not one.references]
    if lacking:
        notes.append(
            f"{len(lacking)} questions of {', '.join(sorted({one.category for one in lacking}))} are judged without a "
            f"reference answer, as there is none, first {lacking[0].id}"
        )
    for side in sides:
        if side.answers.cut:
            notes.append(f"{side.name}: {side.answers.cut} answers ended at the cap of {MAX_TOKENS} tokens")
    return notes


def _parts(asked: Asked, questions: Sequence[Question], source: str) -> list[Part]:
    """The calls of a test; answers that are not there yet count with their cap."""
    parts, sides, unknown = [], [], 0
    for one in (source, asked.against) if asked.against else (source,):
        if Path(one).is_file():
            sides.append(answering.match(questions, fastchat.read_answers(Path(one))[1]))
        else:
            parts.append(cost.of_answers(ANSWERS, one, questions, MAX_TOKENS))
            sides.append(Answers(by_question={question.id: ("",) * len(question.turns) for question in questions}))
            unknown += 1
    tasks = mt_judging.tasks(questions, *(side.by_question for side in sides))
    shown = [showing for task in tasks for showing in task.showings]
    texts = [verdicts.call_of(showing, 0, 0).messages[0]["content"] for showing in shown]
    answers_shown = sum(name.startswith("answer") for showing in shown for name, _ in showing.texts)
    if asked.against and scoring.is_reward_model(asked.judge):
        return parts  # it is asked nothing
    return [
        *parts,
        Part(
            purpose=VERDICTS,
            model=asked.judge,
            calls=len(shown),
            characters=sum(map(len, texts)),
            max_tokens=verdicts.MAX_TOKENS,
            read=answers_shown * unknown // len(sides),
            read_cap=MAX_TOKENS,
        ),
    ]
