"""Test questions that stand in a run's prompts."""

from pathlib import Path

import runs

from starling import contamination
from starling.records import Message, Prompt

LONG = "Describe in a few sentences how a small village by the sea celebrates the end of winter."


def ask(name: str, text: str, split: str = "train") -> Prompt:
    return Prompt(id=name, messages=[Message(role="user", content=text)], split=split)


def test_a_question_inside_a_prompt_is_found_counted_and_listed() -> None:
    known = [ask("a", "Please! " + LONG.upper()), ask("b", "Another one."), ask("c", "name two pets", "validation")]
    found = contamination.between([ask("q", LONG), ask("r", "Name two pets."), ask("s", "Name three pets.")], known)
    assert (found["questions"], found["prompts"], found["questions_held"]) == (3, 3, 2)
    assert [(one["prompt"], one["question"], one["split"]) for one in found["found"]] == [
        ("a", "q", "train"), ("c", "r", "validation"),
    ]  # fmt: skip
    said = contamination.lines(found)
    assert said[0].startswith("Contamination: 2 of 3 test questions stand in the 3 prompts")
    assert said[2] == "  r in validation prompt c: name two pets"


def test_more_than_three_places_are_counted_and_not_all_printed() -> None:
    found = contamination.between([ask("q", "Hi there.")], [ask(str(at), "hi there") for at in range(5)])
    assert found["questions_held"] == 1
    assert contamination.lines(found)[-1] == "  and 2 more, all in the result's file"


def test_what_only_shares_fewer_words_is_clean() -> None:
    found = contamination.between([ask("q", LONG)], [ask("a", LONG.replace("village", "town"))])
    assert (found["questions_held"], found["found"]) == (0, [])


def test_each_turn_of_a_question_is_held_against_the_runs_prompts(tmp_path: Path) -> None:
    run = runs.make(tmp_path / "run", ("prompts",))
    found = contamination.of_turns({"one": ["Never asked.", runs.HOSTILE_PROMPT], "two": ["Nor this."]}, run.root)
    assert (found["questions"], found["questions_held"]) == (2, 1)
    assert {one["question"] for one in found["found"]} == {"one"}
