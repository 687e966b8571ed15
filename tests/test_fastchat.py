"""FastChat's files: what is read, what is left out, what is written."""

from pathlib import Path

import pytest
from small_road import write_lines

from starling import data_files
from starling.benches import fastchat, filing
from starling.benches.answers import Answers
from starling.errors import DataError


def test_questions_have_their_categorys_temperature_and_references_where_judges_see_them(tmp_path: Path) -> None:
    rows = [
        {"question_id": 81, "category": "writing", "turns": ["a", "b"], "reference": ["x", "y"]},
        {"question_id": 111, "category": "math", "turns": ["a", "b"], "reference": ["x", "y"]},
        {"question_id": 112, "category": "math", "turns": ["a", "b"], "reference": ["only one"]},
        {"question_id": "new", "category": "law", "turns": ["a"]},
        {"question_id": 5, "category": "math", "turns": ["a"], "required_temperature": 0.3},
    ]
    found = fastchat.read_questions(write_lines(tmp_path / "question.jsonl", rows))
    assert [(one.id, one.temperature, one.references) for one in found.questions] == [
        ("81", 0.7, ()), ("111", 0.0, ("x", "y")), ("112", 0.0, ()), ("new", 0.7, ()), ("5", 0.3, ()),
    ]  # fmt: skip
    better = write_lines(
        tmp_path / "gpt-4.jsonl", [{"question_id": 111, "choices": [{"index": 0, "turns": ["r1", "r2"]}]}]
    )
    again = fastchat.read_questions(tmp_path / "question.jsonl", better)
    assert again.questions[1].references == ("r1", "r2") and again.sha256 != found.sha256


def test_rows_of_another_form_are_left_out_and_the_rest_is_read(tmp_path: Path) -> None:
    rows = [
        {"question_id": 1, "turns": ["a"]}, {"question_id": 2, "prompt": "newer"}, {"turns": ["a"]},
        {"question_id": 1, "turns": ["again"]}, {"question_id": 3, "turns": "text"},
        {"question_id": 4, "turns": ["a"], "required_temperature": "hot"},
        {"question_id": 5, "turns": ["b"], "required_temperature": None},
    ]  # fmt: skip
    found = fastchat.read_questions(write_lines(tmp_path / "q.jsonl", rows))
    assert [one.turns for one in found.questions] == [("a",), ("b",)]
    assert [left.item for left in found.left_out] == ["2", f"{tmp_path / 'q.jsonl'}:3", "1", "3", "4"]
    with pytest.raises(DataError, match="holds no question"):
        fastchat.read_questions(write_lines(tmp_path / "none.jsonl", [{"a": 1}]))


def test_answers_are_read_as_they_were_written(tmp_path: Path) -> None:
    answers = Answers(by_question={"81": ("one", "two"), "mine": ("x",)})
    rows = fastchat.answer_rows("org/m", answers, 5.0)
    assert rows[0].keys() == {"question_id", "answer_id", "model_id", "choices", "tstamp"}
    assert rows[0]["question_id"] == 81 and rows[1]["question_id"] == "mine"
    path = tmp_path / f"{filing.file_name('org/m')}.jsonl"
    fastchat.put(path, rows, "model_id", "org/m")
    name, given, left_out = fastchat.read_answers(path)
    assert (name, path.name, left_out) == ("org/m", "org-m.jsonl", [])
    assert {one.question: tuple(one.turns) for one in given} == answers.by_question


def test_rows_of_other_models_stay_in_a_file_that_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "j_single.jsonl"
    fastchat.put(path, [{"model": "a", "score": 1}], "model", "a")
    fastchat.put(path, [{"model": "b", "score": 2}], "model", "b")
    fastchat.put(path, [{"model": "a", "score": 3}], "model", "a")
    assert data_files.read_rows(path) == [{"model": "b", "score": 2}, {"model": "a", "score": 3}]


def test_answers_of_several_models_and_judgments_of_several_kinds_or_judges_are_refused(tmp_path: Path) -> None:
    rows = [{"question_id": 1, "model_id": name, "choices": [{"turns": ["x"]}]} for name in "ab"]
    with pytest.raises(DataError, match=r"answers of 2 models \(a, b\)"):
        fastchat.read_answers(write_lines(tmp_path / "a.jsonl", rows))
    with pytest.raises(DataError, match="holds no answer"):
        fastchat.read_answers(write_lines(tmp_path / "b.jsonl", [{"question_id": 1, "choices": []}]))
    mixed = [{"judge": ["j", "t"], "score": 1}, {"judge": ["j", "t"], "g1_winner": "tie"}]
    with pytest.raises(DataError, match="of single answers and of pairs"):
        fastchat.read_judgments(write_lines(tmp_path / "c.jsonl", mixed))
    with pytest.raises(DataError, match=r"2 judges \(, j\)"):
        fastchat.read_judgments(write_lines(tmp_path / "d.jsonl", [{"judge": ["j", "t"]}, {"score": 3}]))
    assert fastchat.judge_of({"judge": ["gpt-4", "single-v1"]}) == ("gpt-4", "single-v1")
    assert fastchat.judge_of({"judge": "people"}) == ("people", "")
