"""Bias and consistency of a judge, from its rankings."""

import math
from pathlib import Path
from typing import Any

import pytest
from tolerances import EXACT

from starling import audit, judgements
from starling.judgement_rows import Judgement
from starling.judgements import Log
from starling.judges.parse import Pair

PUBLISHED = Path(__file__).resolve().parents[2] / "shared" / "data" / "gpt4_rankings"
needs_published = pytest.mark.skipif(
    not PUBLISHED.is_dir(), reason="the published GPT-4 replies are not here (../shared/data)"
)


def call(ranks: list[float] | None, order: list[int] | None = None, prompt: str = "p", **more: Any) -> Judgement:
    """A call that ranked the answers a, bb, ccc, ... of the models m0, m1, ..."""
    k = len(ranks or order or ())
    texts = more.pop("answers", [chr(97 + at) * (at + 1) for at in range(k)])
    models = [f"m{at}" for at in range(len(texts))]
    return Judgement(prompt=prompt, answers=texts, models=models, ranks=ranks, order=order, **more)


UNREAD = call(None, [0, 1, 2], reason="nothing to read", reply="Hm.")
BY_PLACE = [
    call([1, 2, 3], [2, 0, 1], "p"),  # answer 0 won, shown second
    call([3, 1, 2], [0, 1, 2], "q"),  # answer 1 won, shown second
    call([2, 3, 1], [1, 2, 0], "r"),  # answer 2 won, shown second
]


def test_of_two_answers_without_a_place_nothing_is_said() -> None:
    # m0 first, m1 second, m2 and m3 share the mean of the places 3 and 4; the longer one stands below in all 5 pairs
    told = [call([1, 2, math.inf, math.inf])]
    assert [(row["model"], row["all"]["value"]) for row in audit.models(told)] == [
        ("m0", 1), ("m1", 2), ("m2", 3.5), ("m3", 3.5),
    ]  # fmt: skip
    assert audit.tied_share([*told, call([1, 1])]) == 1 / 6
    found = audit.length(told)
    assert (found["value"], found["n"], found["pairs_tied_or_as_long"]) == (0, 5, 0)
    # against 1, 2, 3, 4: 5 pairs alike, 1 tied on one side: 5 / sqrt(5 * 6)
    assert audit.self_agreement([*told, call([1, 2, 3, 4])])["value"] == pytest.approx(5 / math.sqrt(30), abs=EXACT)


# position


def test_first_place_by_position_by_hand() -> None:
    tied, unknown, smaller = call([1, 1, 3], [0, 1, 2]), call([1, 2, 3]), call([1, 2], [0, 1])
    found = audit.first_place_by_position([*BY_PLACE, tied, unknown, smaller, UNREAD], 3)
    assert (found["n"], found["first"]) == (3, [0, 3, 0])
    # one each is expected: (1 + 4 + 1) / 1 = 6; with two degrees of freedom p = exp(-6 / 2)
    assert found["chi_square"] == pytest.approx(6, abs=EXACT)
    assert found["p_value"] == pytest.approx(math.exp(-3), abs=EXACT)


def test_an_even_spread_of_first_places_is_no_bias() -> None:
    calls = [call([1, 2], order) for order in ([0, 1], [1, 0])]
    assert audit.first_place_by_position(calls, 2) == {"n": 2, "first": [1, 1], "chi_square": 0.0, "p_value": 1.0}


def test_without_readable_verdicts_there_is_no_test_of_position() -> None:
    found = audit.first_place_by_position([UNREAD], 3)
    assert found == {"n": 0, "first": [0, 0, 0], "chi_square": None, "p_value": None}


def test_position_by_hand() -> None:
    tied, unknown = call([1, 1, 3], [2, 1, 0], "s"), call([1, 2, 3], None, "t")
    found = audit.position([*BY_PLACE, tied, unknown], 3)
    assert found is not None
    # the first places 0 3 0 of three against 1 1 1: (1/3 + 2/3 + 1/3) / 2
    assert found["total_variation"] == pytest.approx(2 / 3, abs=EXACT)
    assert (found["no_single_winner"], found["order_not_known"]) == (1, 1)
    # first shown: 3, 3, 3 and, of the tied call, 3; second 1, 1, 1, 1.5; third 2, 2, 2, 1.5
    means = [place["mean_rank"]["value"] for place in found["places"]]
    assert means == pytest.approx([3, 4.5 / 4, 7.5 / 4], abs=EXACT)
    assert sum(means) == pytest.approx(3 * (3 + 1) / 2, abs=EXACT)  # ties take the mean of their places
    assert [place["first"]["value"] for place in found["places"]] == [0, 1, 0]


def test_the_interval_of_first_places_is_wilsons_by_hand() -> None:
    # of n = 3 none: from 0 to z^2 / (n + z^2) with z = 1.96 of the normal distribution
    found = audit.position(BY_PLACE, 3)
    assert found is not None
    z = 1.959963984540054
    assert found["places"][0]["first"]["low"] == pytest.approx(0, abs=EXACT)
    assert found["places"][0]["first"]["high"] == pytest.approx(z * z / (3 + z * z), abs=EXACT)


def test_repeats_of_a_prompt_are_no_further_evidence_of_a_place() -> None:
    once = [call([1, 2], [0, 1], f"p{at}") if at < 7 else call([2, 1], [0, 1], f"p{at}") for at in range(10)]
    found = [audit.first_place_by_position(once * repeats, 2) for repeats in (1, 10)]
    # 7 and 3 of 10: (2 * 2 + 2 * 2) / 5
    assert [one["chi_square"] for one in found] == pytest.approx([1.6, 1.6], abs=EXACT)
    assert [one["n"] for one in found] == [10, 100]
    first = [audit.position(once * repeats, 2)["places"][0]["first"] for repeats in (1, 10)]
    widths = [one["high"] - one["low"] for one in first]
    assert widths[1] > 0.9 * widths[0]  # of 100 prompts it would be a third
    for k in (2, 3, 7):  # a judge that knows the best answer, shown once in each place
        turned = [[(at + by) % k for at in range(k)] for by in range(k)]
        balanced = [call(list(range(1, k + 1)), order, f"p{at}") for at in range(9) for order in turned]
        found = audit.first_place_by_position(balanced, k)
        assert (found["first"], found["chi_square"], found["p_value"]) == ([9] * k, 0, 1)


def test_calls_of_different_sizes_have_places_of_their_own() -> None:
    found = audit.audit(log([call([1, 2], [0, 1]), *BY_PLACE, call([1.0], [0])]))
    assert [(position["k"], position["n"]) for position in found["positions"]] == [(3, 3), (2, 1)]
    assert found["answers_per_call"] == {1: 1, 2: 1, 3: 3}


# length


def test_length_by_hand() -> None:
    calls = [
        call([1, 2, 3], answers=["aaa", "b", "cc"]),  # aaa over b yes, aaa over cc yes, cc over b no
        call([1, 2], answers=["aa", "bb"]),
        call([1, 1], answers=["a", "bb"]),
    ]
    found = audit.length(calls)
    assert (found["value"], found["n"], found["pairs_tied_or_as_long"]) == (pytest.approx(2 / 3, abs=EXACT), 3, 2)


# pair verdicts


def test_pair_verdicts_by_hand() -> None:
    pairs = [Pair(0, 1, 0), Pair(0, 2, 2), Pair(2, 1, 1), Pair(3, 0, None)]
    ranked = call([1, 2, 3, 3], pairs=pairs, reply="...")
    # upheld: 0 over 1 yes, 2 over 0 no, 1 over 2 yes; of 4 answers there are 6 pairs
    found = audit.pair_verdicts([ranked, call([1, 2], reply="no pairs")])
    assert (found["upheld"]["value"], found["upheld"]["n"]) == (pytest.approx(2 / 3, abs=EXACT), 3)
    assert (found["no_winner_named"], found["pairs"]) == (1, 7)
    # first named and winner: 0 of (0, 1) alone
    assert found["first_named_wins"]["value"] == pytest.approx(1 / 3, abs=EXACT)
    assert found["first_named_wins_in_brackets"]["n"] == 0


def test_pairs_in_brackets_are_counted_apart_too() -> None:
    pairs = [Pair(0, 1, 0), Pair(0, 2, 2, bracketed=True), Pair(1, 2, 1, bracketed=True)]
    found = audit.pair_verdicts([call([1, 2, 3], pairs=pairs, reply="...")])
    # first named and winner: (0, 1) and (1, 2) of all three; of the two in brackets (1, 2)
    assert (found["first_named_wins"]["value"], found["first_named_wins"]["n"]) == (pytest.approx(2 / 3, abs=EXACT), 3)
    assert (found["first_named_wins_in_brackets"]["value"], found["first_named_wins_in_brackets"]["n"]) == (0.5, 2)


def test_a_tie_in_the_ranking_upholds_half_a_pair_verdict() -> None:
    found = audit.pair_verdicts([call([1, 1], pairs=[Pair(0, 1, 1)], reply="...")])
    assert found["upheld"]["value"] == 0.5


def test_where_only_shares_are_kept_their_mean_is_given() -> None:
    found = audit.pair_verdicts([call([1, 2], agreement=1.0), call([1, 2], agreement=0.5, prompt="q"), call([1, 2])])
    assert (found["mean_of_calls"]["value"], found["mean_of_calls"]["n"], found["upheld"]["n"]) == (0.75, 2, 0)


# repeats


def test_self_agreement_by_hand() -> None:
    # of the three pairs of 1 2 3 against 1 3 2 two agree: tau (2 - 1) / 3; each with 3 2 1: -1 and (1 - 2) / 3
    repeats = [call([1, 2, 3]), call([1, 3, 2]), call([3, 2, 1])]
    found = audit.self_agreement([*repeats, call([1, 2, 3], prompt="other"), call([1, 2])])
    assert found["value"] == pytest.approx((1 / 3 - 1 - 1 / 3) / 3, abs=EXACT)
    assert (found["n"], found["prompts"], found["all_tied"]) == (3, 1, 0)


def test_repeats_are_matched_by_their_answers_not_by_their_places() -> None:
    turned = call([3, 2, 1], answers=["ccc", "bb", "a"])
    assert audit.self_agreement([call([1, 2, 3]), turned])["value"] == pytest.approx(1, abs=EXACT)


def test_answers_with_the_same_text_are_one_answer_in_repeats() -> None:
    one, other = (call(ranks, answers=["x", "x", "y"]) for ranks in ([1, 3, 2], [1, 2, 3]))
    # x has 2 and 1.5, y has 2 and 3: in the one they are equal, which leaves no order to compare
    assert audit.self_agreement([one, other])["all_tied"] == 1
    three = call([2, 1, 3], answers=["x", "x", "y"])
    assert audit.self_agreement([other, three])["value"] == pytest.approx(1, abs=EXACT)


def test_rankings_with_all_answers_tied_agree_in_nothing_and_are_counted() -> None:
    found = audit.self_agreement([call([1, 1]), call([1, 2])])
    assert (found["n"], found["all_tied"]) == (0, 1)


def test_two_logs_agree_on_what_both_rank() -> None:
    one, other = log([call([1, 2]), call([1, 2], prompt="q"), UNREAD]), log([call([2, 1]), UNREAD], "other")
    found = audit.between([one, other])
    assert [(row["one"], row["other"], row["value"], row["n"]) for row in found] == [("log", "other", -1, 1)]


# models


def test_models_are_split_by_good_natured() -> None:
    kinds = [([1, 2], True), ([2, 1], False), ([2, 1], False), ([2, 1], None)]
    found = audit.models([call(list(ranks), good_natured=kind) for ranks, kind in kinds])
    means = [
        (row["model"], *((row[kind]["value"], row[kind]["n"]) for kind in ("all", "good_natured", "not_good_natured")))
        for row in found
    ]
    assert means == [("m1", (1.25, 4), (2, 1), (1, 2)), ("m0", (1.75, 4), (1, 1), (2, 2))]


def test_models_with_few_ranks_stand_last() -> None:
    many = [call([2, 1]) for _ in range(audit.FEW)]
    once = Judgement(prompt="p", answers=["x"], models=["once"], ranks=[1])
    assert [row["model"] for row in audit.models([once, *many])] == ["m1", "m0", "once"]


def test_tied_share_by_hand() -> None:
    # of the pairs of 1 1 3 one is tied, of 1 2 none: 1 of 4
    assert audit.tied_share([call([1, 1, 3]), call([1, 2]), UNREAD]) == 0.25
    assert audit.tied_share([UNREAD]) == 0.0


# the whole


def log(calls: list[Judgement], name: str = "log", keeps_unread: bool = True) -> Log:
    return Log(name=name, form="made by hand", keeps_unread=keeps_unread, calls=calls)


def test_unread_calls_count_as_that_and_in_nothing_else() -> None:
    found = audit.audit(log([*BY_PLACE, UNREAD]))
    assert (found["unparsed"]["value"], found["unparsed"]["n"]) == (0.25, 4)
    assert found["unparsed"]["reasons"] == {"nothing to read": 1}
    assert found["positions"][0]["n"] == 3
    assert (found["calls"], found["prompts"]) == (4, 3)


def test_what_a_log_cannot_give_is_named_with_the_reason() -> None:
    bare = Judgement(prompt="p", answers=["a", "b"], models=["", ""], ranks=[1, 2])
    found = audit.audit(log([bare], keeps_unread=False))
    assert set(found["missing"]) == {
        "position", "length effect", "pair verdicts", "self-agreement", "rank by model", "good-natured or not",
        "unparsed",
    }  # fmt: skip
    assert found["unparsed"] is None


@pytest.mark.parametrize(
    ("judge", "why"),
    [("rubric", "no order can sway it"), ("reward:rm#0a1b", "no order can sway it"), ("kwise:m", "no ranking says")],
)
def test_a_judge_that_reads_each_answer_alone_has_no_effect_of_place(judge: str, why: str) -> None:
    bare = Judgement(prompt="p", answers=["a", "b"], models=["", ""], ranks=[1, 2], judge=judge)
    assert why in audit.audit(log([bare]))["missing"]["position"]


def test_a_log_of_unread_calls_alone_gives_their_share() -> None:
    found = audit.audit(log([UNREAD]))
    assert found["unparsed"]["value"] == 1 and found["positions"] == []


# the published replies, to the printed digit


@needs_published
@pytest.mark.parametrize(
    ("name", "n", "first", "chi_square", "variation", "longer", "means"),
    [
        (
            "no_pairwise",
            195,
            ".313 .308 .174 .097 .046 .031 .031",
            "127.8",
            ".366",
            "68.8",
            "3.20 3.20 3.65 4.08 4.43 4.61 4.83",
        ),
        ("pairwise_no_given_order", 187, ".278 .225 .107 .134 .112 .086 .059", "49.2", ".217", None, None),
        ("baseline_no_tiebreak", 194, ".278 .175 .077 .134 .108 .124 .103", "36.6", ".168", None, None),
        (
            "pointwise_pairwise_baseline",
            98,
            ".173 .194 .102 .184 .112 .112 .122",
            "6.3",
            ".122",
            "67.5",
            "3.93 3.84 4.29 3.38 3.82 4.15 4.60",
        ),
    ],
)
def test_published_figures(name, n, first, chi_square, variation, longer, means) -> None:
    found = audit.audit(judgements.read(PUBLISHED / f"{name}.jsonl.gz"))
    position = found["positions"][0]
    assert (position["n"], position["k"]) == (n, 7)
    assert [f"{place['first']['value']:.3f}".lstrip("0") for place in position["places"]] == first.split()
    assert f"{position['chi_square']:.1f}" == chi_square
    assert f"{position['total_variation']:.3f}".lstrip("0") == variation
    assert longer is None or f"{100 * found['length']['value']:.1f}" == longer
    assert found["as_stored"] == {"n": n, "same": n}
    assert found["unparsed"]["value"] == 0
    assert found["good_natured"]["value"] == pytest.approx(0.88, abs=0.02)
    assert means is None or [f"{place['mean_rank']['value']:.2f}" for place in position["places"]] == means.split()
    pairs = found["pair_verdicts"]
    if name == "no_pairwise":
        assert "pair verdicts" in found["missing"] and round(found["reply_characters"]["value"]) == 134
    else:
        assert 0.987 <= round(pairs["upheld"]["value"], 3) <= 0.994
        said = pairs["upheld"]["n"] + pairs["no_winner_named"]
        assert 0.99 < said / pairs["pairs"] <= 1
    if name == "pointwise_pairwise_baseline":  # one reply of 98 writes `A vs B: A`; the published figure leaves it out
        bracketed = pairs["first_named_wins_in_brackets"]
        assert (f"{100 * bracketed['value']:.1f}", bracketed["n"]) == ("52.5", 2023)
        assert (f"{100 * pairs['first_named_wins']['value']:.1f}", pairs["first_named_wins"]["n"]) == ("53.0", 2044)
