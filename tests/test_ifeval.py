"""IFEval: which prompts are read, what is counted, and what the command shows."""

import json
from pathlib import Path

import pytest
from small_road import write_lines

from starling.benches import ifeval
from starling.benches.asked import Asked
from starling.errors import DataError, UsageError

COMMA, WORDS, TITLE = "punctuation:no_comma", "length_constraints:number_words", "detectable_format:title"
ROWS = [
    {"key": 1, "prompt": "One?", "instruction_id_list": [COMMA], "kwargs": [{}]},
    {"key": 2, "prompt": "Two?", "instruction_id_list": [COMMA, WORDS],
     "kwargs": [{"num_words": None}, {"num_words": 2, "relation": "at least"}]},
    {"key": 3, "prompt": "Three?", "instruction_id_list": [COMMA, "keywords:of_tomorrow"], "kwargs": [{}, {"x": 1}]},
]  # fmt: skip


@pytest.mark.parametrize("change", [{"kwargs": ["x"]}, {"kwargs": [3]}, {"instruction_id_list": [["a"]]}])
def test_what_is_no_name_or_no_object_is_left_out(tmp_path: Path, change: dict) -> None:
    cases, lost = ifeval.read(str(write_lines(tmp_path / "odd.jsonl", [ROWS[0] | change, ROWS[1]])))
    assert [case.prompt.id for case in cases] == ["2"]
    assert [one.item for one in lost] == ["1"]


@pytest.fixture
def official(tmp_path: Path) -> str:
    return str(write_lines(tmp_path / "input_data.jsonl", ROWS))


def answered(tmp_path: Path, *texts: str, name: str = "answers.jsonl") -> Path:
    rows = [{"prompt": row["prompt"], "response": text} for row, text in zip(ROWS, texts, strict=False)]
    return write_lines(tmp_path / name, rows)


def test_an_unknown_instruction_is_left_out_and_its_prompt_counts_no_more_as_a_whole(official) -> None:
    cases, lost = ifeval.read(official)
    assert [(case.prompt.id, len(case.instructions), case.whole) for case in cases] == [
        ("1", 1, True), ("2", 2, True), ("3", 1, False),
    ]  # fmt: skip
    assert [(one.item, one.reason) for one in lost] == [("3 keywords:of_tomorrow", "unknown instruction id")]


def test_the_four_figures_by_hand(official) -> None:
    cases, _ = ifeval.read(official)
    # 1: a comma in the first line only, so loose; 2: no comma, but one word; 3: no comma
    found = ifeval.verify(cases, {"1": "Well, then:\nHello you", "2": "Hello", "3": "Hi"})
    rows = {row["name"]: (row["value"], row["n"]) for row in ifeval.figures_of(cases, found) if not row["level"]}
    assert rows == {
        "prompts, strict": (0.0, 2),  # prompt 3 is no whole
        "prompts, loose": (0.5, 2),
        "instructions, strict": (0.5, 4),  # 3 and the first of 2
        "instructions, loose": (0.75, 4),
    }


def test_figures_by_type_count_each_type_alone(official) -> None:
    cases, _ = ifeval.read(official)
    found = ifeval.verify(cases, {"1": "Well, hello", "2": "Hello", "3": "Hi"})
    rows = {row["name"]: (round(row["value"], 6), row["n"]) for row in ifeval.figures_of(cases, found) if row["level"]}
    assert rows == {f"{COMMA}, strict": (round(2 / 3, 6), 3), f"{WORDS}, strict": (0.0, 1)}


def test_our_own_prompts_are_those_of_the_test_split_and_tell_held_out_types_apart() -> None:
    cases, lost = ifeval.read("")
    assert (len(cases), lost) == (547, [])
    assert {case.prompt.split for case in cases} == {"test"}
    perfect = {case.prompt.id: case.prompt.reference for case in cases if case.prompt.reference}
    rows = {row["name"]: row for row in ifeval.figures_of(cases, ifeval.verify(cases, perfect))}
    assert rows["instructions, strict"]["value"] == 1.0  # references follow what is asked of them
    assert (
        rows["types held out, strict"]["n"] + rows["types that rankings use, strict"]["n"]
        == (rows["instructions, strict"]["n"])
    )


def test_a_check_of_ours_that_is_fulfilled_in_part_is_not_followed() -> None:
    instruction = ifeval.Instruction("includes", {"words": ["sun", "sea"]})
    assert not ifeval.follows("The sun.", instruction)
    assert ifeval.follows("The sun and the sea.", instruction)


def test_the_change_is_paired_over_what_both_sides_answered(official) -> None:
    cases, _ = ifeval.read(official)
    before = ifeval.verify(cases, {"1": "a, b", "2": "a, b c", "3": "a"})
    after = ifeval.verify(cases, {"1": "a b", "2": "a b c"})
    found = {change.name: change for change, *_ in ifeval.changes(cases, before, after)}
    strict = found["prompts, strict"]
    assert (strict.n, strict.gained, strict.lost, strict.value) == (2, 2, 0, 1.0)
    assert (found["instructions, strict"].n, found["instructions, strict"].gained) == (3, 2)


def test_the_command_shows_figures_what_changed_and_what_was_left_out(official, tmp_path: Path, capsys) -> None:
    answers = answered(tmp_path, "Fine", "Two words", "Hi")
    against = answered(tmp_path, "No, not so", "One", name="old.jsonl")
    result = ifeval.run(Asked(answers=answers, against=str(against), data=official, out=tmp_path / "out"))
    shown = " ".join(capsys.readouterr().out.split())
    assert "prompts, strict" in shown and "1 x unknown instruction id, first 3 keywords:of_tomorrow" in shown
    assert "Against old.jsonl:" in shown and "2 up, 0 down of 2 prompts" in shown
    assert "1 left out of old.jsonl, first 3" in shown
    on_disk = json.loads((tmp_path / "out" / "result.json").read_text())
    assert on_disk["against"]["changes"][0]["gained"] == 2
    assert on_disk["model"]["name"] == "answers.jsonl" and on_disk["date"]
    assert [case["id"] for case in on_disk["cases"]] == ["1", "2", "3"]
    assert result["rows"][0]["value"] == 1.0


def test_missing_doubled_and_foreign_answers_are_told_and_the_rest_is_scored(official, tmp_path: Path) -> None:
    rows = [
        {"prompt": "One?", "response": "a"}, {"prompt": "One?", "response": "b"}, {"prompt": "Two?", "response": "a b"},
        {"prompt": "Else?", "response": "c"}, {"text": "newer"},
    ]  # fmt: skip
    file = write_lines(tmp_path / "mixed.jsonl", rows)
    result = ifeval.run(Asked(answers=file, data=official, out=tmp_path / "out"))
    assert result["left_out"]["reasons"] == {
        "unknown instruction id": 1,
        "no texts `prompt` and `response`": 1,
        "answers no question of this set": 1,
        "answered twice": 1,
        "without an answer": 1,
    }
    assert (result["rows"][0]["value"], result["rows"][0]["n"]) == (1.0, 1)


def test_rows_of_another_form_are_left_out_and_a_file_of_nothing_else_is_refused(tmp_path: Path) -> None:
    newer = {"key": 9, "prompt": "Nine?", "instruction_id_list": [TITLE], "kwargs": {}}
    cases, lost = ifeval.read(str(write_lines(tmp_path / "some.jsonl", [*ROWS, newer, ROWS[0]])))
    assert len(cases) == 3
    assert [one.item for one in lost] == ["3 keywords:of_tomorrow", "9", "1"]
    assert lost[-1].reason == "a second prompt of this key"
    with pytest.raises(DataError, match=r"holds no prompt that can be verified.*first: 9"):
        ifeval.read(str(write_lines(tmp_path / "none.jsonl", [newer])))


def test_model_and_answers_exclude_each_other(official) -> None:
    with pytest.raises(UsageError, match="either --model MODEL or --answers FILE"):
        ifeval.run(Asked(data=official))


def test_a_model_is_asked_and_its_answers_can_be_read_again(official, tiny_model, tmp_path: Path) -> None:
    asked = ifeval.run(Asked(model=str(tiny_model), data=official, out=tmp_path / "one"))
    again = ifeval.run(Asked(answers=tmp_path / "one" / "answers.jsonl", data=official, out=tmp_path / "two"))
    assert asked["cases"] == again["cases"] and len(asked["cases"]) == 3
    assert asked["model"]["weights_sha256"] and asked["cut"] is not None
