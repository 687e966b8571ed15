"""Test questions that stand in the prompts which a run learnt from or chose by: counted and listed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from starling import tables
from starling.overlap import Benchmarks
from starling.records import Message, Prompt
from starling.store import Run

NGRAM = 13  # words in a row, as language models' training data is cleaned of test sets
_SHOWN = 3
LEARNT_FROM = ("train", "validation")


def check(questions: Sequence[Prompt], root: Path) -> dict[str, Any]:
    """As `between`, for the training and validation prompts of a run's folder."""
    return between(questions, tables.prompts_of(Run.read(root), *LEARNT_FROM))


def of_turns(turns: Mapping[str, Sequence[str]], root: Path) -> dict[str, Any]:
    """As `check`, for questions by id, each with the user's turns."""
    questions = [
        Prompt(id=name, messages=[Message(role="user", content=text) for text in texts])
        for name, texts in turns.items()
    ]
    return check(questions, root)


def between(questions: Sequence[Prompt], known: Sequence[Prompt]) -> dict[str, Any]:
    """Which known prompts hold a user turn of a test question, by the rule of `overlap.Benchmarks`."""
    benchmarks = Benchmarks([], NGRAM)
    for question in questions:
        for message in question.messages:
            if message["role"] == "user":
                benchmarks.add(message["content"], question.id)
    held = [(prompt, benchmarks.held_by(prompt)) for prompt in known]
    found = [
        {"prompt": prompt.id, "split": prompt.split, "question": of[0], "words": of[1]} for prompt, of in held if of
    ]
    return {
        "questions": len(questions),
        "prompts": len(known),
        "ngram": NGRAM,
        "questions_held": len({one["question"] for one in found}),
        "found": found,
    }


def lines(found: Mapping[str, Any]) -> list[str]:
    """How much of the test stands in the run's prompts, and the first few places."""
    said = (
        f"Contamination: {found['questions_held']:,} of {found['questions']:,} test questions stand in the "
        f"{found['prompts']:,} prompts of training and validation ({NGRAM} words in a row, or a whole short turn)"
    )
    shown = [
        f"  {one['question']} in {one['split']} prompt {one['prompt']}: {one['words']}"
        for one in found["found"][:_SHOWN]
    ]
    left = len(found["found"]) - _SHOWN
    return [said, *shown, *([f"  and {left:,} more, all in the result's file"] if left > 0 else [])]
