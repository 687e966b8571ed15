"""Bias and consistency of a judge, from its rankings."""

import math

import pytest
from tolerances import EXACT

from starling import audit
from starling.judges.protocol import Judged
from starling.records import Candidate, Message, Prompt


def item(*answers: str) -> tuple[Prompt, list[Candidate]]:
    """A prompt with answers of the generators m0, m1, ..."""
    asked = Prompt(id="p", messages=[Message(role="user", content="?")])
    return asked, [
        Candidate(prompt_id="p", model=f"m{at}", draw=at, answer=text, finished=True) for at, text in enumerate(answers)
    ]


UNREAD = Judged(ranks=None, reason="nothing to read", orders=[[0, 1, 2]])


def test_first_place_by_position_by_hand() -> None:
    judged = [
        Judged(ranks=[1, 2, 3], orders=[[2, 0, 1]]),  # answer 0 won, shown second
        Judged(ranks=[3, 1, 2], orders=[[0, 1, 2]]),  # answer 1 won, shown second
        Judged(ranks=[2, 3, 1], orders=[[1, 2, 0]]),  # answer 2 won, shown second
        Judged(ranks=[1, 1, 3], orders=[[0, 1, 2]]),  # two winners
        Judged(ranks=[1, 2, 3], orders=[[0, 1, 2], [2, 1, 0]]),  # two presentations
        UNREAD,
    ]
    found = audit.first_place_by_position(judged, 3)
    assert (found["n"], found["first"]) == (3, [0, 3, 0])
    # one each is expected: (1 + 4 + 1) / 1 = 6; with two degrees of freedom p = exp(-6 / 2)
    assert found["chi_square"] == pytest.approx(6, abs=EXACT)
    assert found["p_value"] == pytest.approx(math.exp(-3), abs=EXACT)


def test_an_even_spread_of_first_places_is_no_bias() -> None:
    judged = [Judged(ranks=[1, 2], orders=[order]) for order in ([0, 1], [1, 0])]
    assert audit.first_place_by_position(judged, 2) == {"n": 2, "first": [1, 1], "chi_square": 0.0, "p_value": 1.0}


def test_without_readable_verdicts_there_is_no_test_of_position() -> None:
    found = audit.first_place_by_position([UNREAD], 3)
    assert found == {"n": 0, "first": [0, 0, 0], "chi_square": None, "p_value": None}


def test_mean_rank_by_model_by_hand_best_first() -> None:
    items = [item("a", "b", "c")] * 3
    judged = [Judged(ranks=[3, 1, 2]), Judged(ranks=[3, 1, 1]), UNREAD]
    found = audit.mean_rank_by_model(items, judged)
    assert list(found.items()) == [("m1", 1.0), ("m2", 1.5), ("m0", 3.0)]


def test_length_effect_by_hand() -> None:
    items = [item("aaa", "b", "cc"), item("aa", "bb"), item("a", "bb"), item("a", "bb")]
    # aaa over b yes, aaa over cc yes, cc over b no; equal lengths, a tie and an unread verdict do not count
    judged = [Judged(ranks=[1, 2, 3]), Judged(ranks=[1, 2]), Judged(ranks=[1, 1]), UNREAD]
    assert audit.length_effect(items, judged) == {"share": pytest.approx(2 / 3, abs=EXACT), "n": 3}


def test_length_effect_of_nothing_is_none() -> None:
    assert audit.length_effect([item("a", "b")], [Judged(ranks=[1, 2])]) == {"share": None, "n": 0}


def test_tied_share_by_hand() -> None:
    # of the pairs of 1 1 3 one is tied, of 1 2 none: 1 of 4
    assert audit.tied_share([Judged(ranks=[1, 1, 3]), Judged(ranks=[1, 2]), UNREAD]) == 0.25
    assert audit.tied_share([UNREAD]) == 0.0
