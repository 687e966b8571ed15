"""Judges' replies in JSON: one object, or no verdict."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starling.judges.parse import Ranked, Scored, Tied, Unparsed
from starling.judges.parse_json import object_of, read_mark, read_object, read_pairs, read_ranking, read_winner


@pytest.mark.parametrize("reply", ['{"a": 1}', ' {"a": 1}\n', '```json\n{"a": 1}\n```', '```\n{"a": 1}\n```'])
def test_one_object_is_read(reply):
    assert read_object(reply) == {"a": 1}


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("", "not one JSON object"),
        ("A", "not one JSON object"),
        ('Here it is: {"a": 1}', "not one JSON object"),
        ('{"a": 1} {"a": 2}', "not one JSON object"),
        ('{"a": 1', "not one JSON object"),
        ('{"a": 1, "a": 2}', "twice"),
        ('{"a": NaN}', "NaN"),
        ("[1]", "no object"),
        ("[" * 100_000, "not one JSON object"),
    ],
)
def test_anything_else_is_no_verdict_and_says_why(reply, reason):
    found = read_object(reply)
    assert isinstance(found, Unparsed) and reason in found.reason


@pytest.mark.parametrize(
    ("ranking", "verdict"),
    [
        (["B", "C", "A"], Ranked([1, 2, 0])),
        ([["B"], ["A", "C"]], Tied([[1], [0, 2]])),
        (["B", "C"], "2 of 3"),
        (["B", "C", "C"], "twice"),
        (["B", "C", "D"], "'D'"),
        (["b", "c", "a"], "'b'"),
        (["\u0412", "C", "A"], "no label"),
        ([1, 2, 3], "something else"),
        ([[], "A", "B", "C"], "something else"),
        ([[["A"]], "B", "C"], "something else"),
        ("BCA", "no list"),
        ([], "no list"),
        (None, "no list"),
    ],
)
def test_a_ranking_is_a_permutation_or_none(ranking, verdict):
    found = read_ranking({"ranking": ranking}, 3)
    if isinstance(verdict, str):
        assert isinstance(found, Unparsed) and verdict in found.reason
    else:
        assert found == verdict


def test_pair_verdicts_are_those_that_name_one_of_their_pair():
    pairs = [
        {"pair": "A vs B", "winner": "B"},
        {"pair": "C vs A", "winner": "C"},
        {"pair": "B vs C", "winner": "A"},
        {"pair": "B vs C\nA vs B: A", "winner": "A"},
        "A vs B: A",
        {},
    ]
    assert read_pairs({"pairs": pairs}, 3) == [(1, 0), (2, 0)]
    assert read_pairs({"pairs": "none"}, 3) == read_pairs({}, 3) == []


@pytest.mark.parametrize(
    ("said", "verdict"), [("A", Ranked([0, 1])), ("B", Ranked([1, 0])), ("tie", Tied([[0, 1]])), ("C", None), (1, None)]
)
def test_a_winner_is_a_b_or_tie(said, verdict):
    found = read_winner({"winner": said})
    assert found == verdict if verdict else isinstance(found, Unparsed)


@pytest.mark.parametrize("said", [0, 11, 10.1, True, "7", None, [7]])
def test_a_rating_outside_one_to_ten_is_no_mark(said):
    assert isinstance(read_mark({"rating": said}), Unparsed)


def test_a_rating_is_a_mark():
    assert [read_mark({"rating": said}) for said in (1, 10, 7.5)] == [Scored(1), Scored(10), Scored(7.5)]


def test_a_schema_asks_for_each_key_and_no_other():
    schema = object_of({"a": {"type": "string"}})
    assert (schema["required"], schema["additionalProperties"]) == (["a"], False)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["ranking", "winner", "rating"]), inner)
    ),
    max_leaves=8,
)


@given(json_values)
def test_no_json_whatever_breaks_the_reading(value):
    found = read_object(json.dumps(value))
    if not isinstance(found, Unparsed):
        for verdict in (read_ranking(found, 2), read_winner(found), read_mark(found)):
            assert isinstance(verdict, Ranked | Tied | Scored | Unparsed)
        read_pairs(found, 2)


def test_a_reply_of_nothing_but_line_breaks_costs_no_time():
    started = time.process_time()
    assert isinstance(read_object("```" + "\n" * 50_000 + "x"), Unparsed)
    assert time.process_time() - started < 5  # a hundredth of that; what grows with the square takes minutes
