"""What both sides of AlpacaEval put out: as it stands in a file of the tool's form, or asked of a model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from starling import progress
from starling.account import Account
from starling.benches import alpaca_annotations, filing
from starling.benches import answers as answering
from starling.benches.answers import Given, Question, Side
from starling.benches.asked import Asked
from starling.errors import DataError, UsageError
from starling.speakers import open_speaker

NAME = "alpaca_eval"
ANSWERS = "answers"  # what the ledger's calls are for
MAX_TOKENS = 2048  # of an output


def questions(asked: Asked) -> list[Question]:
    """The instructions of `--data`, or else those that the rival answered; each once."""
    path = Path(asked.data or asked.against).expanduser()
    if not path.is_file():
        raise UsageError(f"bench: {NAME} needs --data FILE with the instructions; {path} is no file")
    rows = alpaca_annotations.rows(path)
    found = dict.fromkeys(_text(row, "instruction", where) for where, row in rows)
    if not found:
        raise DataError(f"bench: {path} holds no instructions")
    return [Question(id=instruction, turns=[instruction]) for instruction in found]


def _text(row: Mapping[str, Any], column: str, where: str) -> str:
    text = row.get(column)
    if not isinstance(text, str):
        raise DataError(f"{where}: needs `{column}`, a text; found: {', '.join(sorted(row))}")
    return text


def side(source: str, questions: Sequence[Question], out: Path, account: Account | None = None) -> Side:
    """Outputs that stand in a file, or those of a MODEL at temperature 0."""
    if Path(source).is_file():
        return of_file(Path(source), questions)
    with filing.filed(out, ANSWERS, account) as ledger, progress.track(ANSWERS, len(questions), "answers") as advance:
        speaker = open_speaker(source, ledger, lambda call, reply: advance(1), account)
        answers = answering.ask(questions, speaker.chat, max_tokens=MAX_TOKENS)
    return Side(name=str(speaker.identity["name"]), identity=speaker.identity, answers=answers)


def of_file(path: Path, questions: Sequence[Question]) -> Side:
    """Outputs that stand in a file, of one generator."""
    names, given = set(), []
    for where, row in alpaca_annotations.rows(path):
        names.add(str(row.get("generator") or path.name.split(".json")[0]))
        given.append(Given(_text(row, "instruction", where), [_text(row, "output", where)], where))
    if len(names) != 1:
        raise DataError(f"{path}: holds outputs of {len(names)} generators, where one is expected")
    name = names.pop()
    return Side(name=name, identity={"name": name, "answers": str(path)}, answers=answering.match(questions, given))


def output_rows(side: Side) -> list[dict[str, str]]:
    """The outputs of a side in the form of the tool's file."""
    return [
        {"dataset": NAME, "instruction": instruction, "output": output, "generator": side.name}
        for instruction, (output,) in side.answers.by_question.items()
    ]
