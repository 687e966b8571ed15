"""Rankings as token ids."""

import pytest
import torch
from made_rankings import example, ranking, rankings

from starling.errors import DataError
from starling.examples import examples_of, ragged
from starling.models import Model


def test_a_ranking_becomes_shared_and_own_tokens(reward_model: Model) -> None:
    (found,), unusable = examples_of(reward_model, rankings(1))
    texts = [reward_model.tokenizer.decode([*found.shared, *ending]) for ending in found.endings]
    start = "<|im_start|>user\nwhat is p0?<|im_end|>\n<|im_start|>assistant\n"
    assert texts == [f"{start}{answer.answer}<|im_end|>" for answer in rankings(1)[0].answers]
    assert (found.num_places, found.size) == (2, len(found.shared) + sum(map(len, found.endings)))
    assert unusable == []


def test_empty_answers_are_left_out_and_the_rest_is_used(reward_model: Model) -> None:
    told = ranking("p", ["wet", "", "dry", " \n"], [2, 1, 3, 3])
    (found,), unusable = examples_of(reward_model, [told])
    assert [answer.answer for answer in found.ranking.answers] == ["wet", "dry"]
    assert (found.ranking.ranks, len(found.endings)) == ([2, 3], 2)
    assert unusable == [{"prompt_id": "p", "reason": "an empty answer was left out"}] * 2


@pytest.mark.parametrize(
    ("answers", "ranks", "reasons"),
    [
        (["wet"], [1], ["fewer than two answers"]),
        (["wet", "dry"], [1, 1], ["all answers are tied"]),
        (["wet", ""], [1, 2], ["an empty answer was left out", "fewer than two answers"]),
        (["wet", "", "dry"], [1, 3, 1], ["an empty answer was left out", "all answers are tied"]),
    ],
    ids=["one", "tied", "one left", "tied but for the empty"],
)
def test_a_ranking_that_cannot_train_is_listed_with_the_reason(reward_model: Model, answers, ranks, reasons) -> None:
    examples, unusable = examples_of(reward_model, [ranking("p", answers, ranks), *rankings(1)])
    assert [found.ranking.prompt_id for found in examples] == ["p0"]
    assert unusable == [{"prompt_id": "p", "reason": reason} for reason in reasons]


def test_a_conversation_past_the_models_window_is_named(reward_model: Model) -> None:
    with pytest.raises(DataError, match=r"fit: long takes \d+ tokens, the model's window is 512"):
        examples_of(reward_model, [ranking("long", ["rain " * 600, "dry"], [1, 2])])


def test_ragged_by_hand() -> None:
    pair, three = example(ranking("a", ["x", "y"], [2, 1])), example(ranking("b", ["x", "y", "z"], [1, 3, 1]))
    reward_BK, rank_BK, mask_BK = ragged(torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]), [pair, three])
    assert reward_BK.tolist() == torch.tensor([[0.1, 0.2, 0.0], [0.3, 0.4, 0.5]]).tolist()
    assert rank_BK.tolist() == [[2, 1, 0], [1, 3, 1]]
    assert mask_BK.tolist() == [[True, True, False], [True, True, True]]
