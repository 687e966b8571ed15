"""What a reward model cannot learn from: found, listed, counted."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from made_rankings import ranking, rankings

from starling import data_files, unusable
from starling.records import Message


def test_copies_ranked_apart_become_one_at_the_mean_of_their_ranks() -> None:
    # "wet" stood at 1 and 4, so at (1 + 4) / 2 = 2.5: below "dry" at 2, above "cold" at 3
    found, notes = unusable.cleaned(ranking("p", ["wet", "dry", "cold", "wet"], [1, 2, 3, 4]))
    assert [answer.answer for answer in found.answers] == ["wet", "dry", "cold"]
    assert found.ranks == [2.5, 2, 3]
    assert [(line["what"], line["reason"]) for line in notes] == [("answer", "a copy of another that has another rank")]
    # many templates strip what an answer begins or ends with
    found, _ = unusable.cleaned(ranking("p", ["wet", "dry", "cold", " wet\n"], [1, 2, 3, 4]))
    assert [answer.answer for answer in found.answers] == ["wet", "dry", "cold"]


def test_a_copy_without_a_place_leaves_the_others_where_they_are() -> None:
    # "wet" stood at 1, at 4 and somewhere below: (1 + 4) / 2 = 2.5
    found, _ = unusable.cleaned(ranking("p", ["wet", "dry", "cold", "wet", "wet", "hot"], [1, 2, 3, 4, 0, 0]))
    assert [answer.answer for answer in found.answers] == ["wet", "dry", "cold", "hot"]
    assert found.ranks == [2.5, 2, 3, math.inf]
    both = ranking("p", ["wet", "dry", "dry"], [1, 0, 0])
    assert unusable.cleaned(both) == (both, [])


def test_answers_without_a_place_decide_nothing_among_themselves() -> None:
    assert unusable.why(ranking("p", ["a", "b"], [0, 0])) == "no answer has a place"
    assert unusable.why(ranking("p", ["a", "b", "c"], [1, 1, 0])) == ""


def test_copies_that_are_tied_stay() -> None:
    whole = ranking("p", ["wet", "dry", "wet"], [1, 3, 1])
    assert unusable.cleaned(whole) == (whole, [])


def test_a_cut_answer_is_no_copy_of_a_finished_one() -> None:
    whole = ranking("p", ["wet", "wet"], [1, 2])
    cut = replace(whole, answers=[whole.answers[0], replace(whole.answers[1], finished=False)])
    assert unusable.cleaned(cut) == (cut, [])


def test_two_copies_ranked_apart_leave_nothing_to_decide() -> None:
    found, _ = unusable.cleaned(ranking("p", ["wet", "wet"], [1, 2]))
    assert unusable.why(found) == "fewer than two answers"


def test_the_others_keep_their_order_when_answers_are_left_out() -> None:
    whole = replace(ranking("p", ["a", "b", "c", "d"], [2, 4, 1, 3]), orders=[[0, 1, 2, 3]])
    found = unusable.without(whole, {1, 2})
    assert ([answer.answer for answer in found.answers], found.ranks, found.orders) == (["a", "d"], [2, 3], ())


def test_ranks_with_gaps_decide_as_much_as_others() -> None:
    assert unusable.why(ranking("p", ["a", "b", "c"], [1, 5, 9])) == ""


def test_the_count_is_by_what_and_why() -> None:
    told = ranking("p", ["a"], [1])
    notes = [unusable.note(told, "answer", "empty")] * 2 + [
        unusable.note(told, "ranking", "all answers are tied"),
        unusable.note(told, "prompt", "too long"),
    ]
    assert unusable.tally(notes) == {
        "unusable": {"all answers are tied": 1}, "answers_left_out": {"empty": 2}, "shortened": 1,
    }  # fmt: skip
    assert unusable.lines(notes) == [
        "2 answers left out: empty",
        "1 prompt cut from the left: too long",
        "1 ranking left out: all answers are tied",
    ]


def test_the_list_names_prompt_and_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = replace(ranking("p", ["a"], [1]), where="mine.jsonl:7")
    notes = [
        unusable.note(replace(told, where="mine.jsonl:2"), "ranking", "not a ranking", "no rank"),
        unusable.note(told, "ranking", "fewer than two answers"),
    ]
    unusable.write_and_tell(tmp_path, notes)
    assert data_files.read_rows(tmp_path / unusable.FILE) == [
        {"prompt_id": "p", "where": "mine.jsonl:2", "what": "ranking", "reason": "not a ranking", "detail": "no rank"},
        {"prompt_id": "p", "where": "mine.jsonl:7", "what": "ranking", "reason": "fewer than two answers"},
    ]
    said = capsys.readouterr().out
    assert "fit: 1 ranking left out: fewer than two answers" in said
    assert f"listed in {tmp_path / unusable.FILE}" in said


def test_where_all_is_well_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unusable.write_and_tell(tmp_path, [])
    assert (list(tmp_path.iterdir()), capsys.readouterr().out) == ([], "")


def test_reasons_are_named_once_with_the_first_detail() -> None:
    told = ranking("p", ["a"], [1])
    notes = [
        unusable.note(told, "ranking", "refused", "no system role"),
        unusable.note(told, "ranking", "refused", "another"),
        unusable.note(told, "ranking", "all answers are tied"),
        unusable.note(told, "answer", "empty"),
    ]
    assert unusable.reasons(notes) == "refused (no system role); all answers are tied"
    assert unusable.reasons([]) == "there are none"


def test_a_prompt_that_stands_in_its_answers_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    twice = ranking("p", ["what is p? wet", " what is p? dry"], [1, 2])
    once = ranking("q", ["what is q? wet", "dry"], [1, 2])
    assert unusable.tell_repeats([*rankings(3), once]) == 0
    assert capsys.readouterr().out == ""
    assert unusable.tell_repeats([*rankings(3), once, twice]) == 1
    assert "in 1 of 5 rankings every answer begins with the prompt, first in p" in " ".join(
        capsys.readouterr().out.split()
    )


def test_a_prompt_is_found_in_answers_behind_the_marks_of_a_turn() -> None:
    for form in ("\n\nHuman: {}\n\nAssistant: {}", "<|im_start|>user\n{}<|im_end|>{}", "[INST] {} [/INST] {}"):
        answers = [form.format("what is p?", text) for text in ("wet", "dry")]
        assert unusable.repeats_prompt(ranking("p", answers, [1, 2]))
    assert not unusable.repeats_prompt(ranking("p", ["Human: it is what is p?", "User: what is p?"], [1, 2]))
    later = replace(
        ranking("p", ["USER: hi ASSISTANT: hello", "### User: hi"], [1, 2]),
        messages=[
            Message(role="user", content="hi"),
            Message(role="assistant", content="hello"),
            Message(role="user", content="bye"),
        ],
    )
    assert unusable.repeats_prompt(later)
