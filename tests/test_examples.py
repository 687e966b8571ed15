"""Rankings as token ids."""

import math
from dataclasses import replace

import pytest
import torch
from made_rankings import example, ranking, rankings

from starling.errors import DataError, UsageError
from starling.examples import examples_of, ragged
from starling.losses.ranking import decided_places
from starling.models import Model
from starling.records import Message, Ranking


def test_a_ranking_becomes_shared_and_own_tokens(reward_model: Model) -> None:
    (found,), unusable = examples_of(reward_model, rankings(1))
    texts = [reward_model.tokenizer.decode([*found.shared, *ending]) for ending in found.endings]
    start = "<|im_start|>user\nwhat is p0?<|im_end|>\n<|im_start|>assistant\n"
    assert texts == [f"{start}{answer.answer}<|im_end|>" for answer in rankings(1)[0].answers]
    assert (found.num_places, found.size) == (2, len(found.shared) + sum(map(len, found.endings)))
    assert unusable == []


def told(notes: list[dict]) -> list[tuple[str, str, str]]:
    return [(line["prompt_id"], line["what"], line["reason"]) for line in notes]


def test_empty_answers_are_left_out_and_the_rest_is_used(reward_model: Model) -> None:
    (found,), notes = examples_of(reward_model, [ranking("p", ["wet", "", "dry", " \n"], [2, 1, 3, 3])])
    assert [answer.answer for answer in found.ranking.answers] == ["wet", "dry"]
    assert (found.ranking.ranks, len(found.endings)) == ([2, 3], 2)
    assert told(notes) == [("p", "answer", "empty")] * 2


@pytest.mark.parametrize(
    ("answers", "ranks", "expected"),
    [
        (["wet"], [1], [("ranking", "fewer than two answers")]),
        (["wet", "dry"], [1, 1], [("ranking", "all answers are tied")]),
        (["wet", ""], [1, 2], [("answer", "empty"), ("ranking", "fewer than two answers")]),
        (["wet", "", "dry"], [1, 3, 1], [("answer", "empty"), ("ranking", "all answers are tied")]),
    ],
    ids=["one", "tied", "one left", "tied but for the empty"],
)
def test_a_ranking_that_cannot_train_is_listed_with_the_reason(reward_model: Model, answers, ranks, expected) -> None:
    examples, notes = examples_of(reward_model, [ranking("p", answers, ranks), *rankings(1)])
    assert [found.ranking.prompt_id for found in examples] == ["p0"]
    assert told(notes) == [("p", *line) for line in expected]


def test_a_conversation_that_the_template_refuses_is_listed_with_what_it_says(reward_model: Model) -> None:
    start = "{% if 'p0' in messages[0].content %}{{ raise_exception('no such turns') }}{% endif %}"
    reward_model.tokenizer.chat_template = start + reward_model.tokenizer.chat_template
    examples, notes = examples_of(reward_model, rankings(2))
    assert [found.ranking.prompt_id for found in examples] == ["p1"]
    assert told(notes) == [("p0", "ranking", "the chat template does not write its turns")]
    assert "no such turns" in notes[0]["detail"]


# conversations that are too long


def long(identity: str = "p", words: int = 0) -> Ranking:
    """Three answers of 4, 12 and 30 times `rain`, after a prompt of `words` times `river` and a question mark."""
    found = ranking(identity, ["rain" + " rain" * (count - 1) for count in (4, 12, 30)], [1, 2, 3])
    return replace(found, messages=[Message(role="user", content="river " * words + "?")])


def lengths(model: Model, whole: Ranking) -> list[int]:
    (found,), _ = examples_of(model, [whole])
    return [len(found.shared) + len(ending) for ending in found.endings]


def test_a_conversation_past_the_models_window_is_named(reward_model: Model) -> None:
    with pytest.raises(DataError, match=r"fit: long takes [\d,]+ tokens, fit\.max_tokens .* allows 512"):
        examples_of(reward_model, [ranking("long", ["rain " * 600, "dry"], [1, 2])])


def test_the_limit_is_the_longest_conversation_that_may_stay(reward_model: Model) -> None:
    longest = max(lengths(reward_model, long()))
    (found,), notes = examples_of(reward_model, [long()], max_tokens=longest)
    assert (len(found.endings), notes) == (3, [])
    with pytest.raises(DataError, match=f"p takes {longest} tokens, .* allows {longest - 1};"):
        examples_of(reward_model, [long()], max_tokens=longest - 1)


def test_a_limit_past_the_window_is_refused(reward_model: Model) -> None:
    with pytest.raises(UsageError, match=r"fit\.max_tokens = 513 passes the model's window of 512"):
        examples_of(reward_model, [], max_tokens=513)


@pytest.mark.parametrize("spare", [0, 1])
def test_drop_leaves_out_the_answers_that_are_too_long(reward_model: Model, spare: int) -> None:
    short, middle, _ = lengths(reward_model, long())
    (found,), notes = examples_of(reward_model, [long()], too_long="drop", max_tokens=middle + spare)
    assert found.ranking.ranks == [1, 2]
    assert [len(found.shared) + len(ending) for ending in found.endings] == [short, middle]
    assert told(notes) == [("p", "answer", "too long")]


def test_drop_leaves_out_a_ranking_of_which_too_little_fits(reward_model: Model) -> None:
    short, *_ = lengths(reward_model, long())
    examples, notes = examples_of(reward_model, [long()], too_long="drop", max_tokens=short)
    assert examples == []
    assert told(notes) == [("p", "answer", "too long")] * 2 + [("p", "ranking", "fewer than two answers")]


def test_left_prompt_shortens_the_prompt_for_all_answers_alike_and_no_answer(reward_model: Model) -> None:
    whole = long(words=40)
    limit = max(lengths(reward_model, whole)) - 7
    (found,), notes = examples_of(reward_model, [whole], too_long="left_prompt", max_tokens=limit)
    texts = [reward_model.tokenizer.decode([*found.shared, *ending]) for ending in found.endings]
    prompt = found.ranking.messages[0]["content"]
    assert whole.messages[0]["content"].endswith(prompt) and len(prompt) > 100
    start = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
    assert texts == [f"{start}{answer.answer}<|im_end|>" for answer in whole.answers]
    assert limit - 3 < max(len(found.shared) + len(ending) for ending in found.endings) <= limit
    assert told(notes) == [("p", "prompt", "too long")]


def test_left_prompt_leaves_out_an_answer_for_which_no_prompt_would_remain(reward_model: Model) -> None:
    # the longest answer alone takes the whole limit; without it all fits, so the prompt stays as it was
    _, middle, _ = lengths(reward_model, long(words=2))
    (found,), notes = examples_of(reward_model, [long(words=2)], too_long="left_prompt", max_tokens=middle)
    assert [len(answer.answer.split()) for answer in found.ranking.answers] == [4, 12]
    assert found.ranking.messages == long(words=2).messages
    assert told(notes) == [("p", "answer", "too long")]


@pytest.mark.parametrize("too_long", ["drop", "left_prompt"])
def test_a_cut_answer_stays_a_cut_one_whatever_becomes_of_the_prompt(reward_model: Model, too_long: str) -> None:
    whole = long(words=40)
    cut = replace(whole, answers=[replace(answer, finished=False) for answer in whole.answers])
    limit = max(lengths(reward_model, cut)) - 2
    (found,), _ = examples_of(reward_model, [cut], too_long=too_long, max_tokens=limit)
    end = reward_model.tokenizer.eos_token_id
    assert [ending.count(end) for ending in map(list, found.endings)] == [0] * len(found.endings)


@pytest.mark.parametrize("ranks", [[1, 2, 0, 0], [0, 0, 1, 0], [1, 2, 3, 0], [1, 1, 3, 4], [1, 1, 0, 0]], ids=str)
def test_a_ranking_counts_as_many_places_as_its_loss_does(ranks: list[float]) -> None:
    told = example(ranking("p", list("abcd"), ranks))
    assert decided_places(*ragged(torch.zeros(4), [told])).tolist() == [told.num_places]
    assert told.num_places == min(sum(rank > 0 for rank in ranks), 3)


def test_what_is_left_out_may_take_all_the_places_that_are_known(reward_model: Model) -> None:
    told_of = [ranking("p", ["", "wet", "dry"], [1, 0, 0]), ranking("q", ["river", "wet", "dry "], [1, 0, 0])]
    (found,), notes = examples_of(reward_model, told_of)
    assert (found.ranking.ranks, found.num_places) == ([1, math.inf, math.inf], 1)
    assert told(notes) == [("p", "answer", "empty"), ("p", "ranking", "no answer has a place")]


def test_ragged_by_hand() -> None:
    pair, three = example(ranking("a", ["x", "y"], [2, 1])), example(ranking("b", ["x", "y", "z"], [1, 3, 1]))
    reward_BK, rank_BK, mask_BK = ragged(torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5]), [pair, three])
    assert reward_BK.tolist() == torch.tensor([[0.1, 0.2, 0.0], [0.3, 0.4, 0.5]]).tolist()
    assert rank_BK.tolist() == [[2, 1, 0], [1, 3, 1]]
    far = example(ranking("far", ["x", "y"], [1_700_000_001, 1_700_000_002]))
    assert ragged(torch.zeros(2), [far])[1].tolist() == [[1_700_000_001, 1_700_000_002]]
    assert mask_BK.tolist() == [[True, True, False], [True, True, True]]
