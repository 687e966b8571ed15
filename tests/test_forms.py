"""Rows of the published prompt sets, each made by hand."""

import math
from typing import Any

import pytest

from starling import forms
from starling.errors import DataError
from starling.forms import Answer, At, Unusable

HH = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: what is rain?\n\nAssistant: "
LLAMA = "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nwhat is rain? [/INST] water </s><s>[INST] more [/INST] drops </s>"
SHAREGPT = {
    "id": "x",
    "conversations": [
        {"from": "system", "value": "be brief"},
        {"from": "human", "value": "what is rain?"},
        {"from": "gpt", "value": "water"},
        {"from": "human", "value": "and snow?"},
        {"from": "gpt", "value": "ice"},
    ],
}
LMSYS = {
    "conversation_id": "c",
    "model": "vicuna-13b",
    "conversation": [
        {"role": "user", "content": "what is rain?"},
        {"role": "assistant", "content": "water"},
        {"role": "user", "content": "and snow?"},
        {"role": "assistant", "content": "ice"},
    ],
    "openai_moderation": [{"flagged": False}, {"flagged": True}, {"flagged": False}, {"flagged": False}],
}
ULTRA = {
    "source": "evol_instruct",
    "instruction": "what is rain?",
    "completions": [{"model": "bard", "response": "water"}, {"model": "gpt-4", "response": "drops"}],
}
NECTAR = {
    "prompt": HH,
    "source": ["lmsys-chat-1m", "sharegpt"],
    "good_natured": False,
    "answers": [{"answer": "water", "model": "gpt-4", "rank": 1.0}, {"answer": "no", "model": "default", "rank": 2.0}],
}
TURNS = [("user", "hi"), ("assistant", "hello"), ("user", "what is rain?")]
ONE = [("user", "what is rain?")]


def at(**more: Any) -> At:
    return At(**{"id": "s-1", "where": "s.jsonl:1", "source": "s", "model": "m", "first_turn": True} | more)


def read(row: dict, form: str = "", **more: Any) -> list[forms.Found]:
    name = form or forms.form_of(row, "s.jsonl:1")
    return list(forms.read(row, name, at(**{"first_turn": forms.FORMS[name].first_turn} | more)))


def turns(found: forms.Found) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in found.prompt.messages]


@pytest.mark.parametrize(
    ("row", "form"),
    [
        ({"prompt": "hi"}, "plain"),
        ({"messages": [{"role": "user", "content": "hi"}], "prompt": None}, "plain"),
        ({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}, "chat"),
        (NECTAR, "nectar"),
        ({"prompt": "hi", "chosen": "a", "rejected": "b"}, "pairs"),
        ({"chosen": HH + "a", "rejected": HH + "b"}, "hh"),
        (SHAREGPT, "sharegpt"),
        (LMSYS, "lmsys"),
        (ULTRA | {"prompt": "x"}, "ultrafeedback"),
        ({"text": LLAMA}, "llama_instruct"),
    ],
)
def test_the_form_is_told_by_the_columns(row: dict, form: str) -> None:
    assert forms.form_of(row, "s.jsonl:1") == form


def test_a_row_of_no_form_names_its_columns_and_all_forms() -> None:
    with pytest.raises(DataError, match=r"s\.jsonl:1: .*; found: inputs, targets\. Other forms: .*sharegpt: "):
        forms.form_of({"inputs": "a", "targets": "b"}, "s.jsonl:1")


@pytest.mark.parametrize(
    ("row", "expected", "answers"),
    [
        (SHAREGPT, ONE, [("m", "water")]),
        (LMSYS, ONE, [("vicuna-13b", "water")]),
        (ULTRA, ONE, [("bard", "water"), ("gpt-4", "drops")]),
        (NECTAR, TURNS, [("gpt-4", "water"), ("default", "no")]),
        ({"chosen": HH + "a", "rejected": HH + "b"}, TURNS, [("m", "a"), ("m", "b")]),
        ({"text": LLAMA, "model": "llama-2-70b-chat"}, ONE, [("llama-2-70b-chat", "water")]),
        ({"prompt": "what is rain?", "chosen": "a", "rejected": "b"}, ONE, [("m", "a"), ("m", "b")]),
        ({"prompt": HH}, TURNS, []),
    ],
    ids=["sharegpt", "lmsys", "ultrafeedback", "nectar", "hh", "llama_instruct", "pairs", "plain"],
)
def test_a_row_becomes_a_prompt_and_its_answers(row: dict, expected: list, answers: list) -> None:
    (found,) = read(row)
    assert turns(found) == expected
    assert [(answer.model, answer.text) for answer in found.answers] == answers


SCORED = [{"model": "m", "response": f"answer {score}", "overall_score": score} for score in (6.5, 8, 6.5)]


@pytest.mark.parametrize(
    ("row", "ranks"),
    [
        (NECTAR, [1, 2]),
        ({"prompt": HH, "answers": ["water", "no", "wet"], "ranks": [1, 3, 1]}, [1, 3, 1]),
        (NECTAR | {"answers": [{"answer": "water"}, {"answer": "no", "rank": None}]}, [None, None]),
        (
            NECTAR | {"answers": [{"answer": "a", "rank": rank} for rank in (math.nan, 0, -1, "1", True, 2)]},
            [None, None, None, None, None, 2],
        ),
        ({"prompt": "what is rain?", "chosen": "a", "rejected": "b"}, [1, 2]),
        ({"chosen": HH + "a", "rejected": HH + "b"}, [1, 2]),
        (ULTRA | {"completions": SCORED}, [2, 1, 2]),
        (ULTRA | {"completions": [*SCORED, {"model": "d", "response": "d"}]}, [None] * 4),
        (ULTRA | {"completions": [*SCORED, {"model": "d", "response": "d", "overall_score": math.nan}]}, [None] * 4),
        (ULTRA, [None, None]),
        (SHAREGPT, [None]),
    ],
    ids=[
        "nectar", "two lists", "nectar without ranks", "no places", "pairs", "hh",
        "ultrafeedback", "a score is missing", "a score is no number", "no scores", "sharegpt",
    ],
)  # fmt: skip
def test_the_ranks_of_a_row_stay_with_its_answers(row: dict, ranks: list) -> None:
    (found,) = read(row)
    assert [answer.rank for answer in found.answers] == ranks


def test_all_turns_go_up_to_the_last_of_the_user() -> None:
    (found,) = read(SHAREGPT, first_turn=False)
    assert turns(found) == [
        ("system", "be brief"), ("user", "what is rain?"), ("assistant", "water"), ("user", "and snow?"),
    ]  # fmt: skip
    assert found.answers == [Answer("m", "ice")]
    (found,) = read({"text": LLAMA}, first_turn=False)
    assert turns(found)[0] == ("system", "Be brief.") and turns(found)[-1] == ("user", "more")
    assert found.answers == [Answer("m", "drops")]


def test_only_the_first_turn_of_a_transcript_may_be_asked_for() -> None:
    (found,) = read({"chosen": HH + "a", "rejected": HH + "b"}, first_turn=True)
    assert turns(found) == [("user", "hi")]


def test_transcripts_that_part_early_are_two_prompts() -> None:
    other = "\n\nHuman: hi\n\nAssistant: go away\n\nHuman: what is rain?\n\nAssistant: b"
    one, two = read({"chosen": HH + "a", "rejected": other})
    assert (one.prompt.id, two.prompt.id) == ("s-1", "s-1-rejected")
    assert (turns(two)[1], list(two.answers)) == (("assistant", "go away"), [Answer("m", "b")])


def test_sources_labels_and_moderation_are_kept() -> None:
    assert [found.prompt.source for found in (*read(ULTRA), *read(NECTAR), *read(SHAREGPT))] == [
        "evol_instruct", "lmsys-chat-1m, sharegpt", "s",
    ]  # fmt: skip
    assert [found.prompt.good_natured for found in (*read(NECTAR), *read(LMSYS))] == [False, True]
    flagged = LMSYS | {"openai_moderation": [{"flagged": True}]}
    assert read(flagged)[0].prompt.good_natured is False


def test_a_conversation_that_waits_for_an_answer_has_none() -> None:
    for row in ({"conversations": SHAREGPT["conversations"][:2]}, {"text": "[INST] what is rain? [/INST]"}):
        (found,) = read(row)
        assert (turns(found), list(found.answers)) == (ONE, [])


def test_only_plain_rows_name_their_split() -> None:
    assert [found.dealt for found in read({"prompt": "hi", "split": "test"})] == [False]
    assert [found.dealt for found in (*read({"prompt": "hi"}), *read(ULTRA), *read(LMSYS))] == [True] * 3


@pytest.mark.parametrize(
    ("row", "form", "reason"),
    [
        ({"conversation": []}, "sharegpt", "bad_row"),
        ({"conversations": "oops"}, "sharegpt", "bad_row"),
        ({"conversations": [{"from": "gpt", "value": "hello"}]}, "sharegpt", "no_user_turn"),
        ({"conversations": [{"from": "tool", "value": "hello"}]}, "sharegpt", "unknown_role"),
        ({"conversations": [{"from": "human", "value": None}]}, "sharegpt", "bad_row"),
        ({"conversation": [{"role": "user", "content": "  "}]}, "lmsys", "empty"),
        (ULTRA | {"instruction": ""}, "ultrafeedback", "empty"),
        (ULTRA | {"completions": ["text"]}, "ultrafeedback", "bad_row"),
        ({"chosen": HH + "a", "rejected": None}, "hh", "bad_row"),
        ({"prompt": "hi", "chosen": "a", "rejected": []}, "pairs", "bad_row"),
        (NECTAR | {"answers": [{"answer": 5}]}, "nectar", "bad_row"),
        (NECTAR | {"answers": ["water", "no"]}, "nectar", "bad_row"),
        (NECTAR | {"answers": ["water", "no"], "ranks": [1]}, "nectar", "bad_row"),
        (NECTAR | {"answers": "water", "ranks": [1]}, "nectar", "bad_row"),
        ({"text": "hello [INST] hi [/INST]"}, "llama_instruct", "bad_row"),
    ],
)
def test_a_row_that_cannot_be_used_says_why_in_one_word(row: dict, form: str, reason: str) -> None:
    with pytest.raises(Unusable, match=r"s\.jsonl:1: ") as caught:
        read(row, form)
    assert caught.value.reason == reason


def test_good_natured_is_a_truth_value_or_says_so() -> None:
    assert [read(NECTAR | {"good_natured": told})[0].prompt.good_natured for told in (None, 0, 1, True)] == [
        True, False, True, True,
    ]  # fmt: skip
    for told in ("no", 2, []):
        with pytest.raises(Unusable, match=r"s.jsonl:1: `good_natured` is .*, neither true nor false"):
            read(NECTAR | {"good_natured": told})


def test_a_plain_row_of_ones_own_that_is_wrong_stops() -> None:
    with pytest.raises(DataError, match=r"s\.jsonl:1: there is no check 'loud'") as caught:
        read({"prompt": "hi", "checks": [{"check": "loud"}]})
    assert not isinstance(caught.value, Unusable)
