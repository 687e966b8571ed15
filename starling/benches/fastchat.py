"""FastChat's files in and out: questions, reference answers, answers, and judgments of one answer or of a pair.

Rows are JSON lines as `fastchat/llm_judge` writes them; what a row lacks is told and the rest is read.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from starling import data_files
from starling.benches.answers import Answers, Given, Question
from starling.benches.left_out import LeftOut
from starling.errors import DataError

QUESTIONS, REFERENCES = "question.jsonl", "reference_answer"
USUAL_REFERENCE = "gpt-4.jsonl"  # of several files with references, the one that published figures stand on
TEMPERATURES = {
    "writing": 0.7, "roleplay": 0.7, "extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0, "stem": 0.1,
    "humanities": 0.1,
}  # fmt: skip
OTHER_TEMPERATURE = 0.7  # of a category that is not listed
WITH_REFERENCE = frozenset(("math", "reasoning", "coding"))
ERROR = -1  # the score of a judgment that could not be read


class QuestionSet(NamedTuple):
    """Questions with a hash of all that was read, and rows that are none."""

    questions: list[Question]
    sha256: str
    left_out: list[LeftOut]


def read_questions(file: Path, references: Path | None = None) -> QuestionSet:
    """The questions of a file, with the reference answers of another, or else those that stand in the rows.

    References are kept for mathematics, reasoning and coding alone, as FastChat's judges see no others.
    """
    digest = hashlib.sha256()
    better: dict[str, Sequence[str]] = {}
    for where, row in _rows(references) if references else ():
        digest.update(json.dumps(row, sort_keys=True).encode())
        given = _answer_of(row)
        if given is None:
            raise DataError(f"{where}: no reference answer: it needs `question_id` and `choices` with `turns`")
        better[given[0]] = given[1]
    questions: list[Question] = []
    left_out: list[LeftOut] = []
    seen: set[str] = set()
    for where, row in _rows(file):
        digest.update(json.dumps(row, sort_keys=True).encode())
        name, turns, category = _name(row.get("question_id")), row.get("turns"), str(row.get("category") or "")
        temperature = row.get("required_temperature")
        if temperature is None:
            temperature = TEMPERATURES.get(category, OTHER_TEMPERATURE)
        if name is None or not turns or not _are_texts(turns):
            left_out.append(LeftOut(str(name or where), "no question: it needs `question_id` and `turns`", where))
        elif name in seen:
            left_out.append(LeftOut(name, "a question with the number of an earlier one", where))
        elif isinstance(temperature, bool) or not isinstance(temperature, int | float):
            left_out.append(LeftOut(name, "its `required_temperature` is no number", where))
        else:
            seen.add(name)
            reference = better.get(name) or row.get("reference") or ()
            fits = category in WITH_REFERENCE and _are_texts(reference) and len(reference) == len(turns)
            questions.append(
                Question(
                    id=name,
                    turns=tuple(turns),
                    category=category,
                    references=tuple(reference) if fits else (),
                    temperature=float(temperature),
                )
            )
    if not questions:
        raise DataError(f"{file}: holds no question; a row needs `question_id` and `turns`, a list of texts")
    return QuestionSet(questions, digest.hexdigest(), left_out)


def read_answers(file: Path) -> tuple[str, list[Given], list[LeftOut]]:
    """The model that an answer file names, its answers, and rows that are none; of several choices the first."""
    names: set[str] = set()
    found: list[Given] = []
    left_out: list[LeftOut] = []
    for where, row in _rows(file):
        given = _answer_of(row)
        if given is None:
            name = _name(row.get("question_id"))
            left_out.append(
                LeftOut(name or where, "no answer: it needs `question_id` and `choices` with `turns`", where)
            )
            continue
        names.add(str(row.get("model_id") or file.stem))
        found.append(Given(given[0], given[1], where))
    if len(names) > 1:
        raise DataError(f"{file}: answers of {len(names)} models ({', '.join(sorted(names))}); give each its own file")
    if not found:
        raise DataError(f"{file}: holds no answer; a row needs `question_id` and `choices` with `turns`")
    return names.pop(), found, left_out


def answer_rows(model: str, answers: Answers, time: float) -> list[dict[str, Any]]:
    """Answers as FastChat writes them; an answer's id follows from model, question and text."""
    return [
        {
            "question_id": number(name),
            "answer_id": hashlib.sha256("\0".join([model, name, *turns]).encode("utf-8", "replace")).hexdigest()[:22],
            "model_id": model,
            "choices": [{"index": 0, "turns": list(turns)}],
            "tstamp": time,
        }
        for name, turns in answers.by_question.items()
    ]


def is_pair(row: Mapping[str, Any]) -> bool:
    """Whether a judgment is about a pair of answers."""
    return "g1_winner" in row or "winner" in row


def read_judgments(file: Path) -> list[tuple[str, dict[str, Any]]]:
    """The rows of a judgment file, all of one form and by one judge, each with where it stands."""
    found = list(_rows(file))
    if not found:
        raise DataError(f"{file}: holds no judgment")
    if len({is_pair(row) for _, row in found}) > 1:
        raise DataError(f"{file}: judgments of single answers and of pairs; give each kind its own file")
    judges = sorted({judge_of(row)[0] for _, row in found})
    if len(judges) > 1:
        raise DataError(f"{file}: judgments of {len(judges)} judges ({', '.join(judges)}); give each its own file")
    return found


def judge_of(row: Mapping[str, Any]) -> tuple[str, str]:
    """The judge of a judgment and the name of its template, "" where it says none."""
    judge = row.get("judge")
    name, template, *_ = [*map(str, judge if isinstance(judge, list) else [judge or ""]), "", ""]
    return name, template


def number(name: str) -> int | str:
    """A question's id as FastChat writes it."""
    return int(name) if name.isascii() and name.isdigit() else name


def put(path: Path, rows: Sequence[Mapping[str, Any]], model_key: str, model: str) -> None:
    """Write the rows of one model into a file, in the place of its earlier ones; those of other models stay."""
    others = [row for _, row in _rows(path) if row.get(model_key) != model] if path.exists() else []
    data_files.write_jsonl(path, [*others, *rows])


def _rows(file: Path) -> Iterable[tuple[str, dict[str, Any]]]:
    return data_files.located_rows(file)


def _answer_of(row: Mapping[str, Any]) -> tuple[str, tuple[str, ...]] | None:
    name, choices = _name(row.get("question_id")), row.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    turns = first.get("turns") if isinstance(first, dict) else None
    return (name, tuple(turns)) if name is not None and turns and _are_texts(turns) else None


def _name(said: Any) -> str | None:
    return str(said) if isinstance(said, str | int) and not isinstance(said, bool) and str(said) else None


def _are_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(text, str) for text in value)
