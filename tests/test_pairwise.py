"""pairwise: two answers a call, in both orders."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import ScriptedChat, honest, item, judge
from servers import shown_answers

from starling.judges.ranks import kendall


def test_every_pair_is_asked_in_both_orders():
    chat = ScriptedChat(honest(len, "pairwise"))
    (verdict,) = judge(chat, strategy="pairwise").rank([item("p", "a", "bb", "ccc", "dddd")])
    assert verdict.ranks == [4, 3, 2, 1]
    assert Counter(map(tuple, verdict.orders)) == {(a, b): 1 for a in range(4) for b in range(4) if a != b}
    assert verdict.agreement == 1.0
    assert all(ranks in ([1.0, 2.0], [2.0, 1.0]) for ranks in verdict.rankings)


@pytest.mark.parametrize(("meetings", "calls"), [(0, 42), (2, 14), (3, 22), (4, 28), (6, 42), (9, 42)])
def test_a_sparse_design_asks_less_and_still_ranks(meetings, calls):
    chat = ScriptedChat(honest(len, "pairwise"))
    answers = ["x" * size for size in (3, 1, 7, 2, 5, 4, 6)]
    (verdict,) = judge(chat, strategy="pairwise", meetings=meetings).rank([item("p", *answers)])
    assert len(chat.calls) == calls
    tau = kendall(verdict.ranks, [8.0 - len(answer) for answer in answers])
    assert tau == pytest.approx(1) if calls == 42 else tau > 0.6  # whom an answer met decides what is known of it
    assert verdict.ranks[2] == 1


def test_who_meets_whom_changes_from_prompt_to_prompt():
    chat = ScriptedChat(honest(len, "pairwise"))
    verdicts = judge(chat, strategy="pairwise", meetings=2).rank([item(f"p{n}", *"abcdef") for n in range(12)])
    assert len({frozenset(map(frozenset, verdict.orders)) for verdict in verdicts}) > 6


def test_a_judge_that_always_prefers_the_first_shown_ties_all():
    chat = ScriptedChat(lambda prompt: "Winner: [[A]]")
    (verdict,) = judge(chat, strategy="pairwise").rank([item("p", "a", "b", "c")])
    assert verdict.ranks == [1, 1, 1]
    assert verdict.agreement == 0.5  # a tie upholds half of each verdict


def test_an_unread_pair_is_counted_and_the_rest_rank():
    def write(prompt):
        texts = set(shown_answers(prompt).values())
        return "Hm." if texts == {"a", "bb"} else honest(len, "pairwise")(prompt)

    (verdict,) = judge(ScriptedChat(write), strategy="pairwise").rank([item("p", "a", "bb", "ccc")])
    # both beat by ccc and never compared with each other: nothing tells them apart
    assert (verdict.ranks, verdict.unread, verdict.reason) == ([2, 2, 1], 2, "")
    assert sum(not ranks for ranks in verdict.rankings) == 4  # two calls, two attempts each


def test_verdicts_that_leave_an_answer_alone_give_no_ranking():
    def write(prompt):
        return "Hm." if "ccc" in shown_answers(prompt).values() else honest(len, "pairwise")(prompt)

    (verdict,) = judge(ScriptedChat(write), strategy="pairwise").rank([item("p", "a", "bb", "ccc")])
    assert verdict.ranks is None
    assert verdict.reason == (
        "the 2 calls that could be read do not connect the 3 answers; most often: no verdict in double brackets"
    )


def test_a_tie_is_a_verdict():
    (verdict,) = judge(ScriptedChat(honest(len, "pairwise")), strategy="pairwise").rank([item("p", "aa", "bb", "c")])
    assert verdict.ranks == [1, 1, 3]


@given(st.integers(2, 6), st.integers(0, 99))
@settings(deadline=None, max_examples=15)
def test_a_consistent_judge_is_always_understood(k, seed):
    sizes = random.Random(seed).sample(range(1, 20), k)
    chat = ScriptedChat(honest(len, "pairwise"))
    (verdict,) = judge(chat, strategy="pairwise").rank([item("p", *("x" * size for size in sizes))])
    assert verdict.ranks == [1.0 + sum(other > size for other in sizes) for size in sizes]


def test_effects_of_place_can_be_taken_out_of_pairs():
    def write(prompt):  # prefers the longer one, and the first where lengths are near
        shown = shown_answers(prompt)
        return f"[[{'B' if len(shown['B']) > len(shown['A']) + 1 else 'A'}]]"

    items = [item(f"p{n}", "a", "bb", "cccccc") for n in range(10)]
    verdicts = judge(ScriptedChat(write), strategy="pairwise", position_corrected=True).rank(items)
    assert [verdict.ranks for verdict in verdicts] == [[2, 2, 1]] * 10
