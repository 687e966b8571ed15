"""What can be told before tuning: each check says ok, warn or stop where it must."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_road import prompt_rows, recipe

from starling import chat, config, findings, models, tables
from starling.config import Config
from starling.errors import StarlingError
from starling.findings import Finding
from starling.generate import Sampled
from starling.models import Model
from starling.policy import Policy
from starling.rollout import Group, sample_groups

PROMPTS = [tables.prompt_from_row(row, "") for row in prompt_rows()]


@pytest.fixture
def settings(tiny_model: Path, tmp_path: Path) -> Config:
    return config.load(recipe(tmp_path, tiny_model))


@pytest.fixture
def policy(tiny_model: Path) -> Policy:
    return Policy(models.load_policy(str(tiny_model)), 2)


def sampled(policy: Policy) -> list[Group]:
    return sample_groups(
        Model(policy.network, policy.tokenizer), PROMPTS[:2], count=2, max_new_tokens=6, temperature=1.0, top_p=1.0,
        seed=1, purpose=("test",),
    )  # fmt: skip


def ending(*ends: bool) -> list[Group]:
    answers = tuple(Sampled(ids=[5], logprobs=[-1.0], finished=end) for end in ends)
    return [Group(prompt=PROMPTS[0], prompt_ids=(1,), answers=answers, texts=("x",) * len(ends))]


@pytest.mark.parametrize(
    ("ends", "state"), [((True, True, False), "ok"), ((True, False, False), "warn"), ((False, False), "stop")]
)
def test_answers_that_do_not_end(ends: tuple[bool, ...], state: str, settings: Config) -> None:
    found = findings.of_endings(ending(*ends), settings.tune)
    assert (found.state, found.figures["n"]) == (state, len(ends))
    assert f"{sum(ends)} of {len(ends)} sampled answers end within 8 tokens" in found.text


def test_kl_at_step_0_is_0_and_a_moved_policy_stops(policy: Policy) -> None:
    groups = sampled(policy)
    assert findings.of_kl(policy, groups).state == "ok"
    assert findings.of_kl(policy, groups).figures["kl"] == 0.0
    with torch.no_grad():
        next(policy.top.parameters()).mul_(1.5)
    assert findings.of_kl(policy, groups).state == "stop"
    with torch.no_grad():
        next(policy.top.parameters()).fill_(math.nan)
    assert findings.of_kl(policy, groups).state == "stop"


def test_sampler_and_trainer_agree_unless_another_policy_sampled(policy: Policy, settings: Config) -> None:
    groups = sampled(policy)
    assert findings.of_gap(policy, groups, settings.tune).state == "ok"
    for group in groups:
        for answer in group.answers:
            answer.logprobs[:] = [value - 0.5 for value in answer.logprobs]
    near = findings.of_gap(policy, groups, settings.tune)
    assert (near.state, near.figures["mean"]) == ("warn", pytest.approx(0.5, abs=0.05))
    for group in groups:
        for answer in group.answers:
            answer.logprobs[:] = [value - 2 for value in answer.logprobs]
    assert findings.of_gap(policy, groups, settings.tune).state == "stop"


REWARDS = {
    "apart": ([[0.0, 1.0]], [[0.0, 1.0], [2.0, 2.0]], "ok"),
    "mostly alike": ([[0.0, 1.0]], [[0.0, 1.0], [2.0, 2.0], [1.0, 1.0]], "warn"),
    "all alike": ([[0.0, 1.0]], [[0.0, 0.0], [2.0, 2.0], [1.0, 1.0]], "stop"),
    "constant": ([[3.0, 3.0]], [[3.0, 3.0]], "stop"),
    "not a number": ([[0.0, 1.0]], [[math.nan, 1.0]], "stop"),
    "none": ([], [], "stop"),
}


@pytest.mark.parametrize(("ranked", "fresh", "state"), REWARDS.values(), ids=REWARDS)
def test_rewards_that_tell_nothing_apart(ranked: list, fresh: list, state: str) -> None:
    assert findings.of_rewards(ranked, fresh).state == state


def test_the_spread_of_rewards_by_hand() -> None:
    # Mean 1/2, both 1/2 away: standard deviation 1/2; of two prompts one has all answers alike.
    found = findings.of_rewards([[0.0, 1.0]], [[0.0, 1.0], [2.0, 2.0]])
    assert (found.figures["spread"], found.figures["flat_prompts"]) == (0.5, 1)


def held_out(value: float, low: float, high: float, length: float) -> dict:
    score = {"name": "pair_accuracy", "value": value, "low": low, "high": high, "n": 40}
    return {"scores": [score, score | {"name": "pair_accuracy_length_only", "value": length}]}


@pytest.mark.parametrize(
    ("found", "state"),
    [
        (held_out(0.8, 0.7, 0.9, 0.6), "ok"),
        (held_out(0.6, 0.45, 0.7, 0.4), "warn"),  # may be chance
        (held_out(0.8, 0.7, 0.9, 0.75), "warn"),  # length alone may do as well
        (held_out(0.3, 0.2, 0.4, 0.5), "stop"),  # the wrong way round
        (None, "warn"),
    ],
)
def test_a_reward_model_is_held_against_chance_and_length(found: dict | None, state: str) -> None:
    assert findings.of_held_out(found).state == state


def test_the_template_gives_answers_back(policy: Policy) -> None:
    found = findings.of_template(policy, [(PROMPTS[0], "the rain"), (PROMPTS[1], "a\n\nb")])
    assert (found.state, found.figures) == ("ok", {"answers": 2, "same": 2, "ended": 2})


def test_a_template_that_ends_on_no_stop_token_stops(policy: Policy) -> None:
    policy.network.generation_config.eos_token_id = 7
    assert findings.of_template(policy, [(PROMPTS[0], "the rain")]).figures["ended"] == 0
    assert findings.of_template(policy, [(PROMPTS[0], "the rain")]).state == "stop"
    policy.network.generation_config.eos_token_id = None
    assert findings.of_template(policy, []).text == "the model names no token that ends an answer"


def test_a_prompt_that_leaves_no_room_is_named(policy: Policy, settings: Config) -> None:
    assert findings.of_window(policy, PROMPTS, settings).state == "ok"
    long = replace(PROMPTS[0], id="long one", messages=[{"role": "user", "content": "rain " * 600}])
    found = findings.of_window(policy, [*PROMPTS, long], settings)
    assert (found.state, found.figures["too_long"]) == ("stop", 1)
    assert "1 prompts do not fit, first long one" in found.text


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"tune__max_new_tokens": 511, "evaluate__answer_tokens": 511}, ""),
        ({"tune__max_new_tokens": 512}, "lower tune.max_new_tokens (512)"),
        ({"evaluate__answer_tokens": 512}, "lower evaluate.answer_tokens (512)"),
        (
            {"tune__max_new_tokens": 512, "evaluate__answer_tokens": 600},
            "lower tune.max_new_tokens (512) and evaluate.answer_tokens (600)",
        ),
        ({"tune__max_new_tokens": 512, "tune__algorithm": "dpo"}, ""),
    ],
)
def test_answers_that_leave_room_for_no_prompt_stop_before_anything_is_sampled(
    changes: dict, named: str, tiny_model: Path, tmp_path: Path
) -> None:
    settings = config.load(recipe(tmp_path, tiny_model, **changes))
    if not named:
        findings.refuse_too_large(settings)
        return
    with pytest.raises(StarlingError, match="no room for a prompt in the window of 512;") as refused:
        findings.refuse_too_large(settings)
    assert str(refused.value).endswith(f"; {named}")


@pytest.mark.parametrize(
    ("split", "changes", "tokens"),
    [
        ("train", {"tune__max_new_tokens": 40}, 40),
        ("train", {"tune__max_new_tokens": 40, "tune__algorithm": "dpo"}, 0),
        ("test", {"tune__max_new_tokens": 40}, 8),
    ],
)
def test_a_prompt_needs_room_for_the_answers_that_are_given_to_it(
    policy: Policy, tiny_model: Path, tmp_path: Path, split: str, changes: dict, tokens: int
) -> None:
    settings = config.load(recipe(tmp_path / "other", tiny_model, **changes))
    asked = replace(PROMPTS[0], split=split)
    length = len(chat.prompt_ids(policy.tokenizer, asked.messages))
    assert findings.of_window(policy, [asked], settings).figures["longest"] == length + tokens


def test_what_a_reward_model_cannot_read_whole_is_named_before_anything_is_learnt(
    policy: Policy, settings: Config, reward_model: Model
) -> None:
    def ranked(name: str, *texts: str, share: float = 1.0) -> Group:
        counts = [max(1, int(share * len(reward_model.tokenizer(text).input_ids))) for text in texts]
        answers = tuple(Sampled(ids=[1] * count, finished=True) for count in counts)
        return Group(prompt=replace(PROMPTS[0], id=name), prompt_ids=(1,), answers=answers, texts=texts)

    fits, long = ranked("fits", "the rain", "wet"), ranked("long", "wet", "rain " * 600)
    found = findings.of_reward_window(reward_model, [fits], PROMPTS, settings)
    assert (found.state, found.figures["too_long"], found.figures["window"]) == ("ok", 0, 512)
    found = findings.of_reward_window(reward_model, [fits, long], PROMPTS, settings)
    assert (found.state, found.figures["too_long"]) == ("stop", 1)
    assert found.figures["longest"] > 600
    assert "1 do not fit, first of long" in found.text
    # where the policy says in one token what takes the reward model forty, so does what it has still to say
    alike, dense = (ranked("dense", "rain " * 40, share=share) for share in (1.0, 0.025))
    more, longest = (findings.of_reward_window(reward_model, [g], PROMPTS, settings) for g in (dense, alike))
    most = max(settings.tune.max_new_tokens, settings.evaluate.answer_tokens)
    assert more.figures["longest"] - longest.figures["longest"] > 20 * most
    asked = replace(PROMPTS[0], id="asked", messages=[{"role": "user", "content": "rain " * 500}])
    assert findings.of_reward_window(reward_model, [], [asked], settings).text.endswith("1 do not fit, first of asked")


@pytest.mark.parametrize(
    ("state", "told"), [("ok", ""), ("warn", "tune: it is odd; look\n"), ("stop", "tune: it is odd; look\n")]
)
def test_what_is_only_warned_of_never_stops(
    state: findings.State, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    findings.warn(Finding(name="a", state=state, text="it is odd", fix="look"))
    assert capsys.readouterr().out == told


def test_stops_are_one_error_and_warnings_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    warn = Finding(name="a", state="warn", text="this is [odd]", fix="look")
    findings.refuse([warn, Finding(name="b", state="ok", text="fine")])
    assert capsys.readouterr().out == "tune: this is [odd]; look\n"
    with pytest.raises(StarlingError, match=r"^tune: bad; mend$"):
        findings.refuse([Finding(name="c", state="stop", text="bad", fix="mend")])


def test_rewards_of_a_small_scale_tell_answers_apart() -> None:
    rows = [[1e-9, 2e-9], [3e-9, 1e-9]]
    found = findings.of_rewards(rows, rows)
    assert (found.state, found.figures["flat_prompts"]) == ("ok", 0)
    assert findings.of_rewards([[5.0, 5.0]], [[5.0, 5.0]]).state == "stop"
