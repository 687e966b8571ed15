"""The loop of tune: every algorithm steps, resumes, learns, and stops where it must."""

import math
from pathlib import Path

import pytest
import torch
from killed import Killed
from loops import loop, settings

from starling import metrics
from starling.checkpoint import Checkpoint
from starling.errors import StarlingError
from starling.metrics import Recorder


def states_equal(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(states_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(states_equal, one, other))
    return one == other


def test_a_loop_that_was_killed_goes_on_bit_for_bit(tiny_model: Path, tmp_path: Path) -> None:
    cfg = settings(tmp_path, tiny_model)
    whole = loop(cfg, Recorder(tmp_path / "whole.jsonl", "tune"))
    whole.train(Checkpoint(tmp_path / "whole.pt", 1e9))
    with pytest.raises(KeyboardInterrupt):
        loop(cfg, Killed(tmp_path / "cut.jsonl", "tune", 3)).train(Checkpoint(tmp_path / "cut.pt", 0))
    again = loop(cfg, Recorder(tmp_path / "cut.jsonl", "tune"))
    state = Checkpoint(tmp_path / "cut.pt", 0).load()
    assert state is not None
    assert state["step"] == 2
    again.train(Checkpoint(tmp_path / "cut.pt", 0))
    assert again.facts() == whole.facts()
    assert whole.facts()["steps"] == 5  # two over the ranked answers, three fresh ones
    assert states_equal(again.state_dict(), whole.state_dict())
    assert metrics.read(tmp_path / "cut.jsonl") == metrics.read(tmp_path / "whole.jsonl")
    sampling = zip(again.policy.network.parameters(), whole.policy.network.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in sampling)


def test_a_step_moves_policy_and_critic_and_is_recorded(tiny_model: Path, tmp_path: Path) -> None:
    found = loop(
        settings(tmp_path, tiny_model, tune__steps=2, tune__ranked_prompts=0), Recorder(tmp_path / "m.jsonl", "tune")
    )
    before = {name: weight.clone() for name, weight in found.policy.top.state_dict().items()}
    found.train(Checkpoint(tmp_path / "c.pt", 1e9))
    lines = metrics.read(tmp_path / "m.jsonl")
    assert [line["step"] for line in lines] == [0, 1, 2]
    assert all(math.isfinite(value) for line in lines for name, value in line.items() if name != "stage")
    assert lines[0]["tune/validation/win_rate"] == 0.5
    first, second = (abs(line["tune/objective/kl"]) for line in lines[1:])
    assert first < 0.1 < second  # measured before the update: but for bfloat16 nothing, then something
    assert lines[2]["tune/tokens"] == found.tokens == found.facts()["rollout_tokens"]
    assert not any(torch.equal(weight, before[name]) for name, weight in found.policy.top.state_dict().items())


def test_a_reward_that_is_the_same_for_all_answers_stops_with_a_line(tiny_model: Path, tmp_path: Path) -> None:
    found = loop(settings(tmp_path, tiny_model), Recorder(tmp_path / "m.jsonl", "tune"), head=0.0)
    with pytest.raises(StarlingError, match=r"^tune: all 8 ranked answers looked at get the same reward; refit .*$"):
        found.train(Checkpoint(tmp_path / "c.pt", 1e9))


def test_a_policy_that_goes_too_far_is_stopped(tiny_model: Path, tmp_path: Path) -> None:
    changes = {"tune__kl_limit": 1e-6, "tune__learning_rate": 1e-2, "tune__steps": 9, "tune__validate_every": 5}
    found = loop(settings(tmp_path, tiny_model, **changes), Recorder(tmp_path / "m.jsonl", "tune"))
    found.train(Checkpoint(tmp_path / "c.pt", 1e9))
    assert found.facts()["stopped_by"] == "kl_limit"
    assert found.step < 9
    assert found.watch.last_step == found.step


def test_the_token_budget_ends_tuning_with_a_last_look(tiny_model: Path, tmp_path: Path) -> None:
    # at most 4 * 2 * 8 = 64 tokens a step: two fit for sure, nine do not; the ranked step before them costs none
    changes = {"tune__token_budget": 140, "tune__steps": 9, "tune__validate_every": 9}
    found = loop(settings(tmp_path, tiny_model, **changes), Recorder(tmp_path / "m.jsonl", "tune"))
    found.train(Checkpoint(tmp_path / "c.pt", 1e9))
    assert found.facts()["stopped_by"] == "token_budget"
    assert 3 <= found.step < 10
    assert found.tokens <= 140
    assert [look["step"] for look in found.watch.facts()["looks"]] == [0, found.step]
