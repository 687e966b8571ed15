"""Rollouts: the policy answers prompts, the reward model scores the answers."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_rankings import ranking
from tolerances import CLOSE

from starling import chat, device, heads, models
from starling.errors import StarlingError
from starling.generate import Sampled, stop_ids
from starling.models import Model
from starling.packing import pack
from starling.records import Candidate, Message, Prompt, Ranking
from starling.rollout import (
    Group,
    candidates,
    left_aside,
    own_settings,
    ranked_groups,
    sample_groups,
    score_texts,
    tell_left_aside,
    with_first,
)


def prompt(word: str) -> Prompt:
    return Prompt(id=word, messages=[Message(role="user", content=f"what is {word}?")])


PROMPTS = [prompt("rain"), prompt("spain"), prompt("the plain")]


@pytest.fixture(scope="module")
def policy(tiny_model: Path) -> Model:
    return models.load_policy(str(tiny_model), torch.float32)


@pytest.fixture
def reward_model(tiny_model: Path) -> Model:
    model = models.new_reward_model(str(tiny_model))
    torch.nn.init.normal_(model.network.score.weight)
    return model


def sample(policy: Model, prompts: list[Prompt], count: int = 2, **changes):
    settings = {"max_new_tokens": 6, "temperature": 1.0, "top_p": 1.0, "seed": 1, "purpose": ("test", 0)}
    return sample_groups(policy, prompts, count=count, **(settings | changes))


def test_each_prompt_gets_its_answers_in_order(policy: Model) -> None:
    groups = sample(policy, PROMPTS, count=3)
    assert [group.prompt for group in groups] == PROMPTS
    for group in groups:
        assert group.prompt_ids == chat.prompt_ids(policy.tokenizer, group.prompt.messages)
        assert group.texts == tuple(chat.answer_text(policy.tokenizer, answer.ids) for answer in group.answers)
        assert group.num_tokens == sum(len(answer.ids) for answer in group.answers)
        assert len({tuple(answer.ids) for answer in group.answers}) == 3


def test_answers_of_groups_are_candidates_in_the_order_they_were_drawn(policy: Model) -> None:
    groups = sample(policy, PROMPTS[:2])
    found = candidates(groups, "base")
    assert [(one.prompt_id, one.draw) for one in found] == [("rain", 0), ("rain", 1), ("spain", 0), ("spain", 1)]
    assert [one.answer for one in found] == [text for group in groups for text in group.texts]
    answers = [answer for group in groups for answer in group.answers]
    assert [(one.finished, one.num_tokens) for one in found] == [(one.finished, len(one.ids)) for one in answers]
    assert {one.model for one in found} == {"base"}


def test_of_ranked_answers_those_without_a_place_are_below_and_no_pair() -> None:
    answers = tuple(Sampled(ids=[number], finished=True) for number in range(4))
    infinite = float("inf")
    group = Group(
        prompt=PROMPTS[0], prompt_ids=(1,), answers=answers, texts=("a", "b", "c", "d"),
        ranks=(infinite, 1.0, 2.0, infinite),
    )  # fmt: skip
    assert (group.num_pairs, group.best.texts) == (5, ("b",))


def test_an_answer_depends_on_prompt_draw_purpose_and_seed_alone(policy: Model) -> None:
    together = sample(policy, PROMPTS, count=3)
    alone = sample(policy, PROMPTS[1:2], count=2)
    assert [answer.ids for answer in alone[0].answers] == [answer.ids for answer in together[1].answers[:2]]
    for change in ({"purpose": ("test", 1)}, {"seed": 2}):
        assert sample(policy, PROMPTS[1:2], **change)[0].texts != alone[0].texts


def test_a_prompt_that_comes_again_gets_other_answers(policy: Model) -> None:
    once, again = sample(policy, [PROMPTS[0], PROMPTS[0]], count=2)
    assert (*once.texts, *again.texts) == sample(policy, PROMPTS[:1], count=4)[0].texts


def test_ranked_answers_that_say_nothing_are_left_out_and_told(policy: Model, capsys) -> None:
    answers = [
        Candidate(prompt_id="rain", model="x", draw=at, answer=text, finished=False)
        for at, text in enumerate(["wet", " \n", "", "dry"])
    ]
    told = Ranking(
        prompt_id="rain", messages=PROMPTS[0].messages, answers=answers, ranks=[2.0, 3.0, 4.0, 1.0], judge="x"
    )
    (found,) = ranked_groups(policy, PROMPTS, [told])
    assert (found.texts, found.ranks) == (("wet", "dry"), (2.0, 1.0))
    assert ranked_groups(policy, PROMPTS, [replace(told, answers=answers[2:], ranks=[2.0, 1.0])]) == []
    said = " ".join(capsys.readouterr().out.split())
    assert "2 ranked answers of 1 prompts are empty and left out, first of rain" in said
    assert "1 ranked answers of 1 prompts are alone with their prompt and left out, first of rain" in said


def test_ranked_answers_past_the_window_are_left_out_and_told(policy: Model, capsys) -> None:
    told = [ranking("p", ["rain", "wet", "rain " * 600], [2, 1, 3]), ranking("q", ["wet", "rain " * 600], [1, 2])]
    prompts = [Prompt(id=one.prompt_id, messages=one.messages) for one in told]
    (group,) = ranked_groups(policy, prompts, told)
    assert (group.prompt.id, group.texts, group.ranks) == ("p", ("rain", "wet"), (2, 1))
    said = " ".join(capsys.readouterr().out.split())
    assert "2 ranked answers of 2 prompts are longer than the model's window of 512 tokens and left out" in said


def test_ranked_answers_with_a_stop_token_in_them_are_left_out_and_told(policy: Model, capsys) -> None:
    end = policy.tokenizer.convert_ids_to_tokens(min(stop_ids(policy.network)))
    told = [ranking("p", ["rain", "wet", f"rain {end} and more"], [2, 3, 1])]
    (group,) = ranked_groups(policy, [Prompt(id="p", messages=told[0].messages)], told)
    assert (group.texts, group.has_first) == (("rain", "wet"), False)
    said = " ".join(capsys.readouterr().out.split())
    assert "1 ranked answers of 1 prompts are with a token in them that ends an answer and left out, first of p" in said


def test_rankings_whose_first_answer_is_left_out_have_no_best_one(policy: Model, capsys) -> None:
    ranks: list[list[float]] = [[2, 1, 3], [1, 2, 3], [1, 2, 1]]
    told = [ranking(name, ["rain", " ", "wet"], row) for name, row in zip("pqr", ranks, strict=True)]
    prompts = [Prompt(id=one.prompt_id, messages=one.messages) for one in told]
    groups = ranked_groups(policy, prompts, told)
    assert [group.has_first for group in groups] == [False, True, True]
    assert [group.best.texts for group in with_first(groups)] == [("rain",), ("rain", "wet")]
    said = " ".join(capsys.readouterr().out.split())
    assert "1 of 3 rankings are not learnt from: the answer ranked first is empty, too long, or has a token in" in said


@pytest.mark.usefixtures("float32_products")
def test_an_answer_past_the_reward_models_window_is_read_up_to_there_and_counted(reward_model: Model, capsys) -> None:
    asked = Prompt(id="long", messages=[Message(role="user", content="?")])
    ((long, short),) = score_texts(reward_model, [(asked, ["rain " * 600, "wet"], [True, True])], 2048)
    said = " ".join(capsys.readouterr().out.split())
    assert "1 of the answers pass the reward model's window of 512 tokens; they are scored as cut there" in said
    shared, (ids, _) = chat.conversation_ids(reward_model.tokenizer, asked.messages, ["rain " * 600, "wet"], [True] * 2)
    packed = pack([(shared, [ids[: 512 - len(shared)]])])
    assert long == pytest.approx(heads.rewards(reward_model.network, packed).item(), abs=CLOSE)
    assert score_texts(reward_model, [(asked, ["wet"], [True])], 2048) == [[pytest.approx(short, abs=CLOSE)]]
    asked = Prompt(id="long", messages=[Message(role="user", content="rain " * 600)])
    with pytest.raises(StarlingError, match=r"^prompt long takes \d+ tokens of the reward model, whose window is 512"):
        score_texts(reward_model, [(asked, ["wet"], [True])], 2048)


def test_the_listener_hears_of_every_token(policy: Model) -> None:
    heard: list[int] = []
    groups = sample(policy, PROMPTS, on_tokens=heard.append)
    assert sum(heard) == sum(group.num_tokens for group in groups)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"temperature": 0.0, "top_p": 1.0}),
        ({"temperature": 0.5}, {"temperature": 0.0, "top_p": 1.0}),
        ({"do_sample": True, "temperature": 0.2, "top_p": 0.9}, {"temperature": 0.2, "top_p": 0.9}),
        ({"do_sample": True, "temperature": None, "top_p": None}, {"temperature": 1.0, "top_p": 1.0}),
    ],
    ids=["nothing said", "greedy", "sampling", "sampling by default"],
)
def test_own_settings_are_those_of_the_generation_config(tiny_model: Path, changes: dict, expected: dict) -> None:
    network = models.load_policy(str(tiny_model)).network
    for name, value in changes.items():
        setattr(network.generation_config, name, value)
    assert own_settings(network) == expected


def test_what_else_a_model_wants_to_be_sampled_by_is_told(tiny_model: Path, capsys) -> None:
    network = models.load_policy(str(tiny_model)).network
    tell_left_aside(network, "tune")
    network.generation_config.top_k, network.generation_config.repetition_penalty = 0, 1.0
    tell_left_aside(network, "tune")
    assert capsys.readouterr().out == "" and left_aside(network) == {}
    network.generation_config.top_k, network.generation_config.repetition_penalty = 20, 1.05
    tell_left_aside(network, "tune")
    assert left_aside(network) == {"top_k": 20, "repetition_penalty": 1.05}
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("tune: of the model's own generation_config top_k = 20, repetition_penalty = 1.05 are left")


def one_by_one(reward_model: Model, asked: Prompt, text: str, finished: bool) -> float:
    shared, own = chat.conversation_ids(reward_model.tokenizer, asked.messages, [text], [finished])
    with torch.no_grad(), device.autocast(torch.device("cpu")):
        return heads.rewards(reward_model.network, pack([(shared, own)])).item()


SHOWN = [(PROMPTS[0], ["wet", "the rain in spain"], [True, False]), (PROMPTS[1], ["dry", "a", "b"], [True] * 3)]


@pytest.mark.parametrize("tokens", [64, 2048], ids=["microbatches", "at once"])
def test_scores_are_the_reward_models_of_each_answer(reward_model: Model, tokens: int) -> None:
    found = score_texts(reward_model, SHOWN, tokens)
    for (asked, texts, finished), rewards in zip(SHOWN, found, strict=True):
        expected = [one_by_one(reward_model, asked, *answer) for answer in zip(texts, finished, strict=True)]
        assert rewards == pytest.approx(expected, abs=0.1)
        assert max(expected) - min(expected) > 0.5


def test_an_answer_that_was_cut_is_scored_without_the_end_of_its_turn(reward_model: Model) -> None:
    ((whole, cut),) = score_texts(reward_model, [(PROMPTS[0], ["wet", "wet"], [True, False])], 2048)
    assert whole != cut


def test_an_empty_answer_has_a_score(reward_model: Model) -> None:
    ((empty, other),) = score_texts(reward_model, [(PROMPTS[0], ["", "wet"], [True, True])], 2048)
    assert empty != other


def test_a_reward_that_is_no_number_is_a_plain_error(reward_model: Model) -> None:
    torch.nn.init.constant_(reward_model.network.score.weight, float("nan"))
    with pytest.raises(StarlingError, match="not a number; refit it"):
        score_texts(reward_model, SHOWN, 2048)
