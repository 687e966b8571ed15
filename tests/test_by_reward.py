"""A reward model as judge: higher stands above, equal ties, and what it cannot read is told."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import known_rewards
import pytest
from scripted import item
from tolerances import CLOSE

from starling import models, reward
from starling.judges.by_reward import RewardJudge
from starling.records import Message
from starling.reward import Question


@pytest.fixture(scope="module")
def known(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return known_rewards.save(tiny_model, tmp_path_factory.mktemp("known") / "rm")


@pytest.fixture
def wild(reward_model: Any, tmp_path: Path) -> str:
    """A reward model of random weights, for which every token counts."""
    models.save(reward_model, tmp_path / "wild")
    return str(tmp_path / "wild")


def cut(identity: str, *answers: str):
    """Answers that the token cap cut, so that the reward is read at what they end on."""
    prompt, whole = item(identity, *answers)
    return prompt, [replace(answer, finished=False) for answer in whole]


def test_the_higher_reward_stands_above_and_rewards_stand_beside_the_answers(known: str) -> None:
    (found,) = RewardJudge(known).rank([cut("p", "a 3", "b 9", "c 0", "d 5")])
    assert found.ranks == [3, 1, 4, 2]  # .3, .9, 0, .5
    assert found.marks == pytest.approx([0.3, 0.9, 0.0, 0.5], abs=CLOSE)
    assert found.orders == [[0], [1], [2], [3]]
    assert (found.calls, found.rankings, found.repeats, found.unread, found.good_natured) == ((), (), (), 0, None)


def test_equal_rewards_tie_and_nearly_equal_ones_do_not(known: str, wild: str) -> None:
    tied, whole = RewardJudge(known).rank([cut("p", "a 3", "b 7", "c 3", "d 7"), item("q", "a 3", "b 9")])
    assert tied.ranks == [3, 1, 3, 1]
    assert whole.ranks == [1, 1] and whole.marks == pytest.approx([known_rewards.FINISHED] * 2, abs=CLOSE)
    (apart,) = RewardJudge(wild).rank([item("p", "the rain in spain", "the rain in spain.", "the rain in  spain")])
    assert sorted(apart.ranks) == [1, 2, 3]


def test_the_order_of_the_answers_and_of_the_prompts_changes_nothing(known: str) -> None:
    items = [cut("p", "a 3", "b 9", "c 3"), cut("q", "a 1", "b 2")]
    forward = RewardJudge(known).rank(items)
    backward = RewardJudge(known).rank([(prompt, answers[::-1]) for prompt, answers in items[::-1]])
    assert [one.ranks[::-1] for one in backward[::-1]] == [one.ranks for one in forward] == [[2, 1, 2], [2, 1]]


def test_a_text_that_stands_twice_ties_to_the_bit_and_is_read_once(wild: str) -> None:
    seen: list[int] = []
    items = [item(name, "the rain", "no", "the rain", "yes", "the rain") for name in "pqr"]
    for found in RewardJudge(wild, seen.append).rank(items):
        assert found.marks[0] == found.marks[2] == found.marks[4]
        assert found.ranks[0] == found.ranks[2] == found.ranks[4]
    assert sum(seen) == 9
    cut_and_whole = [item("p", "the rain")[1][0], cut("p", "the rain")[1][0]]
    (found,) = RewardJudge(wild).rank([(items[0][0], cut_and_whole)])
    assert found.marks[0] != found.marks[1]


def test_rewards_are_those_of_the_score_command(wild: str) -> None:
    answers = ["the rain", "what is the name", "in the town, no"]
    found = RewardJudge(wild).rank([item("p", *answers), cut("q", *answers)])
    scorer, asked = reward.load_reward_model(wild), item("p")[0].messages
    for judged, finished in zip(found, (True, False), strict=True):
        alone = [
            scorer.score_questions([Question(messages=asked, answers=[text], finished=[finished], where="")])[0][0]
            for text in answers
        ]
        assert judged.marks == pytest.approx(alone, abs=CLOSE)
        assert [judged.ranks.index(rank) for rank in (1, 2, 3)] == sorted(range(3), key=lambda at: -alone[at])


def test_an_empty_answer_is_read_as_the_bare_end_of_a_turn(known: str, wild: str) -> None:
    prompt, (low, empty, blank, high) = cut("p", "a 1", "", " \n", "b 9")
    ended = [replace(empty, finished=True), replace(blank, finished=True)]
    (found,) = RewardJudge(known).rank([(prompt, [low, *ended, high])])
    assert found.ranks == [4, 2, 2, 1]  # .1, .45, .45, .9
    assert found.marks[1] == found.marks[2] == pytest.approx(known_rewards.FINISHED, abs=CLOSE)
    (found,) = RewardJudge(wild).rank([(prompt, [low, *ended, high])])
    assert found.marks[1] == found.marks[2]  # nothing but blanks is as empty


def test_what_is_longer_than_the_window_is_left_unread_with_the_reason_and_never_cut(known: str) -> None:
    long = "no rain " * 200
    judge = RewardJudge(known)
    found = judge.rank([cut("p", "a 3", long), cut("q", "a 3", "b 9"), cut("r", long + "9", long + "8")])
    assert [one.ranks for one in found] == [None, [2, 1], None]
    assert {found[0].reason, found[2].reason} == {"longer than the reward model's window of 512 tokens"}
    assert found[0].replies[0].startswith("prompt p: takes ")


def test_a_conversation_that_the_template_refuses_is_unread_with_its_words(tiny_model: Path, tmp_path: Path) -> None:
    folder = known_rewards.save(tiny_model, tmp_path / "rm")
    model = models.load_reward_model(folder)
    refuse = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    model.tokenizer.chat_template = refuse + str(model.tokenizer.chat_template)
    models.save(model, tmp_path / "strict")
    prompt, answers = cut("p", "a 1", "b 2")
    system = replace(prompt, messages=[Message(role="system", content="Be brief."), *prompt.messages])
    refused, read = RewardJudge(str(tmp_path / "strict")).rank([(system, answers), (prompt, answers)])
    assert refused.ranks is None and "no system turn" in refused.reason
    assert read.ranks == [2, 1]


def test_one_answer_is_first_and_none_is_unread(known: str) -> None:
    one, none = RewardJudge(known).rank([cut("p", "a 3"), item("q")])
    assert (one.ranks, none.ranks, none.reason) == ([1], None, "no answers to rank")


def test_the_name_holds_the_folder_and_the_weights_hash(known: str, wild: str) -> None:
    judge = RewardJudge(known)
    weights = (Path(known) / "model.safetensors").read_bytes()
    digest = hashlib.sha256(hashlib.sha256(weights).digest()).hexdigest()
    assert judge.name == f"reward:{known}#{digest[:12]}"
    assert (judge.identity["weights_sha256"], judge.identity["dtype"]) == (digest, "float32")
    assert judge.template_hash == judge.identity["template_hash"]
    assert RewardJudge(wild).name.partition("#")[2] != digest[:12]
