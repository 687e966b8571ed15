"""prompts: files in, one table of three splits out."""

from collections import Counter
from pathlib import Path

import pytest
from small_road import prompt_rows, recipe, write_lines

from starling import config, tables
from starling.errors import DataError
from starling.records import Message, Prompt
from starling.stages import prompts
from starling.store import Run


def prompt(identity: str, family: str = "") -> Prompt:
    return Prompt(id=identity, messages=[Message(role="user", content="?")], family=family)


def start(folder: Path, tiny_model: Path, **changes) -> Run:
    return Run.open(folder / "run", config.load(recipe(folder, tiny_model, **changes)))


def with_rows(folder: Path, tiny_model: Path, rows: list[dict], **changes) -> Run:
    path = write_lines(folder / "mine.jsonl", rows)
    return start(folder, tiny_model, prompts__sources=[str(path)], **changes)


def test_spread_takes_one_of_each_family_in_turn() -> None:
    found = prompts.spread([prompt(f"{family}{at}", family) for family in "abc" for at in range(4)], 8, seed=1)
    assert len({one.id for one in found}) == 8
    families = [one.family for one in found]
    assert sorted(families[:3]) == sorted(families[3:6]) == ["a", "b", "c"]
    assert len(set(families[6:])) == 2


def test_spread_goes_on_with_the_families_that_are_left() -> None:
    found = prompts.spread([prompt("a1", "a"), *(prompt(f"b{at}", "b") for at in range(3))], 9, seed=1)
    assert Counter(one.family for one in found) == {"a": 1, "b": 3}
    assert [one.family for one in found[2:]] == ["b", "b"]


def test_prompts_without_a_family_are_families_of_their_own() -> None:
    found = prompts.spread([prompt("x"), prompt("y"), *(prompt(f"b{at}", "b") for at in range(9))], 3, seed=1)
    assert {one.id for one in found} >= {"x", "y"}


def test_spread_depends_on_prompts_and_seed_alone() -> None:
    some = [prompt(f"{family}{at}", family) for family in "abcdef" for at in range(3)]
    assert prompts.spread(some, 10, seed=1) == prompts.spread(some[::-1], 10, seed=1)
    assert prompts.spread(some, 10, seed=1) != prompts.spread(some, 10, seed=2)
    assert prompts.spread(some, 5, seed=1) == prompts.spread(some, 10, seed=1)[:5]


def test_the_table_holds_the_prompts_of_every_split(tiny_model: Path, tmp_path: Path) -> None:
    run = start(tmp_path, tiny_model, prompts__train=5)
    facts = prompts.run(run)
    assert facts["used"] == {"train": 5, "validation": 3, "test": 3}
    assert (facts["found"], facts["families"]) == (18, {"train": 4, "validation": 1, "test": 1})
    for split, count in facts["used"].items():
        assert [found.split for found in tables.prompts_of(run, split)] == [split] * count
    known = {row["id"]: row["messages"] if "messages" in row else row["prompt"] for row in prompt_rows()}
    for found in tables.prompts_of(run, "train"):
        assert known[found.id] == found.messages[0]["content"]


def test_held_out_checks_are_counted(tiny_model: Path, tmp_path: Path) -> None:
    rows = [row | {"checks": [{"check": "lowercase"}]} for row in prompt_rows()]
    rows[-1]["checks"] = [{"check": "no_commas"}, {"check": "lowercase"}]
    assert prompts.run(with_rows(tmp_path, tiny_model, rows))["with_held_out_check"] == 1


def test_twins_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    rows = prompt_rows()
    rows[3]["id"] = rows[0]["id"]
    with pytest.raises(DataError, match=rf"prompts: 1 ids stand twice, first '{rows[0]['id']}'"):
        prompts.run(with_rows(tmp_path, tiny_model, rows))


def test_the_same_file_twice_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    path = str(write_lines(tmp_path / "mine.jsonl", prompt_rows()))
    with pytest.raises(DataError, match="18 ids stand twice"):
        prompts.run(start(tmp_path, tiny_model, prompts__sources=[path, path]))


def test_a_family_in_two_splits_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    rows = prompt_rows()
    rows[-1]["family"] = rows[0]["family"]
    with pytest.raises(DataError, match=rf"family '{rows[0]['family']}' stands in train and test"):
        prompts.run(with_rows(tmp_path, tiny_model, rows))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_split_without_prompts_is_refused(tiny_model: Path, tmp_path: Path, split: str) -> None:
    rows = [row for row in prompt_rows() if row["split"] != split]
    with pytest.raises(DataError, match=f"no prompt of split '{split}'"):
        prompts.run(with_rows(tmp_path, tiny_model, rows))


def with_question(rows: list[dict], at: int, question: str) -> list[dict]:
    messages = [{"role": "user", "content": question}]
    return [
        {key: value for key, value in row.items() if key != "prompt"} | {"messages": messages} if number == at else row
        for number, row in enumerate(rows)
    ]


def test_a_prompt_past_the_token_limit_is_named(tiny_model: Path, tmp_path: Path) -> None:
    rows = with_question(prompt_rows(), 12, "rain " * 200)
    with pytest.raises(DataError, match=r"1 of 18 are longer than 64 tokens, first 'name-0' with \d{3}; .*max_tokens"):
        prompts.run(with_rows(tmp_path, tiny_model, rows, prompts__max_tokens=64))


def test_a_prompt_that_leaves_no_room_for_an_answer_is_named(tiny_model: Path, tmp_path: Path) -> None:
    rows = with_question(prompt_rows(), 12, "rain " * 700)
    run = with_rows(tmp_path, tiny_model, rows, prompts__max_tokens=2000, evaluate__answer_tokens=100)
    with pytest.raises(DataError, match=r"longer than 412 tokens, first 'name-0' .* window of 512"):
        prompts.run(run)


def test_the_error_of_a_row_names_file_and_row(tiny_model: Path, tmp_path: Path) -> None:
    rows = prompt_rows()
    rows[4]["checks"] = [{"check": "lower_case"}]
    with pytest.raises(DataError, match=r"mine\.jsonl:5: there is no check 'lower_case'; did you mean 'lowercase'"):
        prompts.run(with_rows(tmp_path, tiny_model, rows))
