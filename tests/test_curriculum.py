"""What each step learns from."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from loops import loop, settings

from starling.curriculum import Curriculum
from starling.errors import DataError
from starling.generate import Sampled
from starling.metrics import Recorder
from starling.records import Message, Prompt
from starling.rollout import Group
from starling.tune_settings import TuneTable

ASKED = Prompt(id="p", messages=[Message(role="user", content="?")])


def group(ranks: Sequence[float]) -> Group:
    answers = tuple(Sampled(ids=[7, 8]) for _ in ranks)
    return Group(prompt=ASKED, prompt_ids=(5,), answers=answers, texts=("",) * len(ranks), ranks=tuple(ranks))


def test_ranked_answers_come_first_as_the_ids_the_policy_would_say(tiny_model: Path, tmp_path: Path) -> None:
    cfg = settings(tmp_path, tiny_model, tune__ranked_prompts=6, tune__updates_per_step=2)
    found = loop(cfg, Recorder(tmp_path / "m.jsonl", "tune"))
    plan = found.curriculum
    # parts of 2 prompts, two a step: 3 parts in 2 steps, twice; then 3 fresh steps
    assert (plan.num_ranked_parts, plan.steps_per_epoch, plan.ranked_steps, plan.num_steps) == (3, 2, 4, 7)
    order = [plan.ranked_order(step) for step in range(4)]
    assert [len(indices) for indices in order] == [2, 1, 2, 1]
    assert sorted(order[0] + order[1]) == sorted(order[2] + order[3]) == [0, 1, 2]
    whole, cut = plan.parts[0][0].answers
    stop = found.policy.tokenizer.eos_token_id
    assert whole.ids[-1] == stop
    assert stop not in cut.ids
    assert found.policy.tokenizer.decode(cut.ids) == "a plain in spain the"


def test_every_prompt_is_asked_once_before_any_is_asked_again() -> None:
    prompts = [Prompt(id=str(number), messages=ASKED.messages) for number in range(12)]
    plan = Curriculum(TuneTable(prompts_per_step=4, ranked_prompts=0), 3, prompts, [group([1, 2])])
    asked = [[prompt.id for prompt in plan.prompts(step)] for step in range(6)]
    first, second = (sorted(name for step in asked[start : start + 3] for name in step) for start in (0, 3))
    assert first == second == sorted(prompt.id for prompt in prompts)
    assert asked[:3] != asked[3:]
    later = Curriculum(TuneTable(prompts_per_step=4, ranked_prompts=9), 3, prompts, [group([1, 2])] * 9)
    assert later.ranked_steps > 0
    assert [prompt.id for prompt in later.prompts(later.ranked_steps)] == asked[0]  # the ranked steps use none up


def test_tokens_to_come_by_hand() -> None:
    cfg = TuneTable(
        ranked_prompts=2, warm_up_prompts=3, prompts_per_step=1, updates_per_step=1, steps=4, rollouts_per_prompt=2,
        max_new_tokens=5, token_budget=0,
    )  # fmt: skip
    plan = Curriculum(cfg, 0, [ASKED], [group([1, 2])] * 3)
    assert plan.warm_up_tokens == 12  # 3 prompts, 2 answers each, 2 tokens each
    assert plan.expected_tokens == 2 * 2 * 2 * 2 + 4 * 1 * 2 * 5  # two passes over two prompts; four fresh steps
    assert [plan.ranked_tokens_before(step) for step in (0, 1, 4, 7)] == [0, 4, 16, 16]


def test_the_share_behind_is_of_steps_or_of_the_token_budget_whichever_ends_first() -> None:
    cfg = TuneTable(ranked_prompts=2, ranked_epochs=2, prompts_per_step=1, updates_per_step=1, steps=16,
                    token_budget=100)  # fmt: skip
    plan = Curriculum(cfg, 0, [ASKED], [group([1, 2])] * 3)
    assert (plan.ranked_steps, plan.num_steps) == (4, 20)
    # 4 of 20 steps are ranked; after them 16/20 of the way is a share of the steps or of the 100 tokens
    told = [plan.share_done(step, tokens) for step, tokens in ((0, 0), (4, 0), (5, 5), (5, 25), (6, 75), (7, 120))]
    assert told == pytest.approx([0, 4 / 20, 5 / 20, 8 / 20, 16 / 20, 1])
    endless = Curriculum(cfg.model_copy(update={"token_budget": 0}), 0, [ASKED], [group([1, 2])] * 3)
    assert endless.share_done(5, 99) == 5 / 20


def test_of_the_best_answers_ties_all_stay() -> None:
    one = group([2, 1, 1, 4])
    assert one.best.ranks == (1, 1)
    assert one.best.answers == one.answers[1:3]
    assert (one.best.num_tokens, one.num_tokens) == (4, 8)
    plan = Curriculum(TuneTable(prompts_per_step=1, updates_per_step=1), 0, [], [one, group([3, 5])])
    plan.keep_best()
    assert [[kept.ranks for kept in part] for part in plan.parts] == [[(1, 1)], [(3,)]]
    assert plan.ranked_tokens_before(plan.ranked_steps) == 2 * (4 + 2)  # two passes


@pytest.mark.parametrize(
    ("online", "prompts", "groups", "line"),
    [
        (True, [], [[1, 2]], "there are no prompts of the train split to answer; raise prompts.train"),
        (True, [ASKED], [], "none of 9 rankings has two answers that say something"),
        (False, [], [], "none of 9 rankings has two answers that say something"),
        (False, [], [[1, 1], [1, 1]], "in none of 2 rankings is an answer above another"),
    ],
    ids=["no prompts", "no rankings", "offline without rankings", "all tied"],
)
def test_nothing_to_learn_from_is_said(online: bool, prompts: list, groups: list, line: str) -> None:
    plan = Curriculum(TuneTable(), 0, prompts, [group(ranks) for ranks in groups])
    with pytest.raises(DataError, match=f"^tune: {line}"):
        plan.require(online=online, rankings=9)


def test_ties_are_something_to_learn_from_online() -> None:
    Curriculum(TuneTable(), 0, [ASKED], [group([1, 1])]).require(online=True, rankings=1)


ONE = {"prompts_per_step": 1, "updates_per_step": 1}


def test_what_is_looked_at_before_and_what_is_learnt_from_stand_apart() -> None:
    plan = Curriculum(TuneTable(ranked_prompts=1, warm_up_prompts=2, **ONE), 0, [ASKED], [group([1, 2])] * 3)
    assert [(row["warm_up"], row["learnt"]) for row in plan.used()] == [(True, True), (True, False)]
    plan = Curriculum(TuneTable(ranked_prompts=3, warm_up_prompts=2, **ONE), 0, [ASKED], [group([1, 2])] * 3)
    assert [(row["warm_up"], row["learnt"]) for row in plan.used()] == [(True, True), (True, True), (False, True)]


def test_each_pass_over_the_ranked_answers_has_an_order_of_its_own() -> None:
    plan = Curriculum(TuneTable(ranked_prompts=12, ranked_epochs=2, **ONE), 0, [ASKED], [group([1, 2])] * 12)
    order = [index for step in range(24) for index in plan.ranked_order(step)]
    assert sorted(order[:12]) == sorted(order[12:]) == list(range(12))
    assert order[:12] != order[12:]


def test_tokens_to_come_end_with_the_budget() -> None:
    cfg = TuneTable(ranked_prompts=0, steps=4, rollouts_per_prompt=2, max_new_tokens=5, token_budget=25, **ONE)
    plan = Curriculum(cfg, 0, [ASKED], [group([1, 2])])
    # four steps of 10; the one that begins at 24 at most is the last
    assert plan.expected_tokens == min(40, 24 + 10)


def test_only_rankings_that_are_learnt_from_count_as_something_to_learn() -> None:
    plan = Curriculum(TuneTable(ranked_prompts=1, **ONE), 0, [], [group([1, 1]), group([1, 2])])
    with pytest.raises(DataError, match="in none of 1 rankings is an answer above another"):
        plan.require(online=False, rankings=2)
