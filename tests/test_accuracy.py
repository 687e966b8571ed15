"""What a reward model gets right on held-out rankings."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from made_rankings import example, ranking, rankings
from tolerances import CLOSE

from starling import accuracy, stats
from starling.accuracy import Pair
from starling.errors import StarlingError
from starling.examples import examples_of
from starling.models import Model


def near(value: float) -> Any:
    return pytest.approx(value, abs=CLOSE)


def test_pairs_by_hand() -> None:
    # the short first answer is ranked above two that are tied with each other; rewards 0, 1, 0
    told = ranking("p", ["aa", "bbbb", "c"], [1, 2, 2], weakened=(1,))
    assert accuracy.pairs_of(told, [0.0, 1.0, 0.0]) == [
        Pair("what is p?", right=0.0, longer=0.0, margin=-1.0, probability=near(1 / (1 + math.e)), weakened=True),
        Pair("what is p?", right=0.5, longer=1.0, margin=0.0, probability=0.5, weakened=False),
    ]


def test_two_answers_without_a_place_are_no_pair_and_neither_is_the_best() -> None:
    told = ranking("p", ["aa", "b", "cc"], [0, 1, 0])
    # "b", the shorter one, stands above both others
    assert [(pair.right, pair.longer, pair.margin) for pair in accuracy.pairs_of(told, [2.0, 1.0, 0.0])] == [
        (0.0, 0.0, -1.0), (1.0, 0.0, 1.0),
    ]  # fmt: skip
    for rewards, agreed in (([2.0, 1.0, 0.0], 0.0), ([1.0, 2.0, 0.0], 1.0)):
        scores = accuracy.figures([example(told)], [rewards])["scores"]
        assert {score["name"]: score["value"] for score in scores}["top1_agreement"] == agreed


def test_nll_a_known_place_by_hand() -> None:
    # equal rewards, two places of four known: log 4 + log 3 over two places
    told = example(ranking("p", list("abcd"), [0, 1, 2, 0]))
    assert accuracy.nll([told], [[0.0] * 4]) == near(math.log(12) / 2)


def test_pairs_do_not_depend_on_the_order_of_the_answers() -> None:
    forwards = accuracy.pairs_of(ranking("p", ["aa", "b"], [1, 2]), [2.0, 1.0])
    assert forwards == accuracy.pairs_of(ranking("p", ["b", "aa"], [2, 1]), [1.0, 2.0])
    assert forwards == [
        Pair(
            "what is p?",
            right=1.0,
            longer=1.0,
            margin=1.0,
            probability=near(1 / (1 + math.exp(-1))),
            weakened=False,
        )
    ]


def test_intervals_are_over_conversations_however_many_rankings_each_has() -> None:
    # ten rankings of each of two conversations, right in one and wrong in the other: two cases, not twenty
    told = [replace(ranking(word, ["aa", "b"], [1, 2]), prompt_id=f"{word} {at}") for word in "pq" for at in range(10)]
    figures = accuracy.figures([example(one) for one in told], [[1.0, 0.0]] * 10 + [[0.0, 1.0]] * 10)
    found = {score["name"]: score for score in figures["scores"]}
    for name in ("pair_accuracy", "top1_agreement"):
        assert (found[name]["value"], found[name]["low"], found[name]["high"]) == (0.5, 0.0, 1.0)


def test_a_reward_that_is_no_number_is_refused(reward_model: Model) -> None:
    examples, _ = examples_of(reward_model, rankings(2))
    torch.nn.init.constant_(reward_model.network.score.weight, math.inf)
    with pytest.raises(StarlingError, match=r"^prompt p0: the reward model gives a reward that is not a number; refit"):
        accuracy.score(reward_model, examples, 2048)


def test_agreement_by_hand(reward_model: Model) -> None:
    torch.nn.init.zeros_(reward_model.network.score.weight)
    examples, _ = examples_of(reward_model, [ranking("p", ["aa", "b", "ccc"], [2, 1, 3], weakened=(2,))])
    found = accuracy.figures(examples, accuracy.score(reward_model, examples, 2048))
    scores = {score["name"]: (score["value"], score["n"]) for score in found["scores"]}
    # all rewards are 0: half of each pair; the longer answer wins (aa, ccc) of no pair but loses all:
    # b over aa, b over ccc, aa over ccc; without the weakened only b over aa is left; one of three is the best
    assert scores == {
        "pair_accuracy": (0.5, 3),
        "pair_accuracy_length_only": (0.0, 3),
        "pair_accuracy_not_weakened": (0.5, 1),
        "pair_accuracy_not_weakened_length_only": (0.0, 1),
        "top1_agreement": (near(1 / 3), 1),
    }
    assert found["calibration_error"] == 0.0


def test_a_look_says_pairs_and_nll(reward_model: Model) -> None:
    torch.nn.init.zeros_(reward_model.network.score.weight)
    examples, _ = examples_of(reward_model, [ranking("p", ["aa", "b", "ccc"], [2, 1, 3])])
    found = accuracy.look(reward_model, examples, 2048)
    # equal rewards: half of each pair; log 3! over two places
    assert found == {"held_out_pair_accuracy": 0.5, "held_out_nll": near(math.log(6) / 2)}


def test_one_prompt_or_prompts_that_are_all_alike_do_not_prove_anything() -> None:
    told = [example(ranking(f"p{number}", ["x", "y", "z"], [1, 2, 3])) for number in range(3)]
    for count in (1, 3):
        figure = accuracy.figures(told[:count], [[3.0, 2.0, 1.0]] * count)["scores"][0]
        assert (figure["value"], figure["high"], figure["n"]) == (1.0, 1.0, 3 * count)
        assert figure["low"] == near(stats.share("", count, count).low)  # prompts count, not their pairs


def test_the_best_that_is_left_counts_as_first(reward_model: Model) -> None:
    torch.nn.init.zeros_(reward_model.network.score.weight)
    examples, _ = examples_of(reward_model, [ranking("p", ["second", "", "third"], [2, 1, 3])])
    found = accuracy.figures(examples, accuracy.score(reward_model, examples, 2048))
    scores = {score["name"]: score["value"] for score in found["scores"]}
    assert scores["top1_agreement"] == 0.5  # equal rewards: one of the two that are left has rank 2, the best of them


def test_the_top_answer_agrees_whatever_the_order_of_the_answers() -> None:
    told = [example(ranking("p", ["x", "y", "z"], [1, 2, 2])), example(ranking("q", ["x", "y", "z"], [3, 1, 1]))]

    def agreement(*rewards: list[float]) -> float:
        return accuracy.figures(told, rewards)["scores"][-1]["value"]

    assert agreement([3.0, 2.0, 1.0], [0.0, 0.0, 1.0]) == 1.0
    assert agreement([0.0, 2.0, 1.0], [2.0, 0.0, 1.0]) == 0.0
    assert agreement([1.0, 1.0, 0.0], [0.0, 1.0, 1.0]) == 0.75
    assert agreement([7.0, 7.0, 7.0], [7.0, 7.0, 7.0]) == near((1 / 3 + 2 / 3) / 2)


def test_scores_come_in_the_order_of_the_examples_however_they_are_packed(reward_model: Model) -> None:
    examples, _ = examples_of(reward_model, [*rankings(5), ranking("pair", ["wet", "dry " * 9], [1, 2])])
    alone = [accuracy.score(reward_model, [one], 2048)[0] for one in examples]
    for tokens in (64, 100, 2048):
        found = accuracy.score(reward_model, examples, tokens)
        assert [len(rewards) for rewards in found] == [3, 3, 3, 3, 3, 2]
        for one, other in zip(found, alone, strict=True):
            assert one == pytest.approx(other, abs=0.05)  # bfloat16


def test_nll_a_place_by_hand() -> None:
    # rewards 0, 0, 0: log 3 + log 2; rewards 1, 0 with the second ranked first: log(1 + e) - 0; over 2 + 1 places
    told = [example(ranking("a", ["x", "y", "z"], [2, 1, 3])), example(ranking("b", ["x", "y"], [2, 1]))]
    found = accuracy.nll(told, [[0.0, 0.0, 0.0], [1.0, 0.0]])
    assert found == near((math.log(6) + math.log(1 + math.e)) / 3)


def test_calibration_compares_what_was_said_with_what_came() -> None:
    # log-odds log 3: .75 was said of the better answer, which it was, and .25 of the other
    found = accuracy.figures([example(ranking("p", ["a", "b"], [1, 2]))], [[math.log(3), 0.0]])
    assert found["calibration_error"] == near(0.25)
