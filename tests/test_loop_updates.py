"""What a loop's updates learn from: advantages and rates as the settings ask for."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from loops import fresh, loop, settings
from transformers import AutoModelForCausalLM

from starling import metrics, update
from starling.checkpoint import Checkpoint
from starling.config import Config
from starling.metrics import Recorder
from starling.policy import initial_policy


class Step(NamedTuple):
    """What a step of a whole loop learnt from: updates of batches, and the optimiser's rates of policy and critic."""

    updates: list[list[update.Batch]]
    rates: list[float]


def steps_of(cfg: Config, recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    steps = []
    taken = update.taken

    def noted(policy, optimiser, updates, *rest):
        steps.append(Step(updates, [group["lr"] for group in optimiser.param_groups]))
        return taken(policy, optimiser, updates, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(update, "taken", noted)
        loop(cfg, recorder).train(Checkpoint(recorder.path.with_suffix(".pt"), 1e9))
    return steps


def learnt_from(cfg: Config, recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> list[list[list[update.Batch]]]:
    """What each step of a whole loop learns from: updates of batches."""
    return [step.updates for step in steps_of(cfg, recorder, monkeypatch)]


def test_a_running_scale_is_what_fresh_answers_are_learnt_by(tiny_model: Path, tmp_path: Path, monkeypatch) -> None:
    rewards = {}
    for scaling in ("fixed", "running"):
        cfg = settings(tmp_path, tiny_model, tune__steps=1, tune__reward_scaling=scaling)
        steps = learnt_from(cfg, Recorder(tmp_path / f"{scaling}.jsonl", "tune"), monkeypatch)
        rewards[scaling] = [step[0][0].experience.reward_BT for step in (steps[0], steps[-1])]  # ranked, then fresh
    assert torch.equal(rewards["fixed"][0], rewards["running"][0])
    assert not torch.equal(rewards["fixed"][1], rewards["running"][1])


def test_a_shift_is_added_after_whitening_where_an_answer_ends(tiny_model: Path, tmp_path: Path, monkeypatch) -> None:
    plain, shifted = (
        learnt_from(
            settings(tmp_path, tiny_model, tune__steps=0, tune__reward_shift=shift),
            Recorder(tmp_path / f"{shift}.jsonl", "tune"),
            monkeypatch,
        )
        for shift in (0.0, 0.5)
    )
    for before, after in zip(plain[0][0], shifted[0][0], strict=True):
        change_BT = after.advantage_BT - before.advantage_BT
        ends = [answer.finished for group in before.experience.groups for answer in group.answers]
        assert any(ends)
        assert not all(ends)
        assert change_BT.sum(1).tolist() == pytest.approx([0.5 * end for end in ends], abs=1e-6)
        lengths = before.experience.mask_BT.sum(1).tolist()
        rows = [(row, length - 1) for row, (length, end) in enumerate(zip(lengths, ends, strict=True)) if end]
        assert [tuple(at) for at in (change_BT.abs() > 1e-6).nonzero().tolist()] == rows


def test_ranked_answers_are_passed_over_once_a_step_whatever_epochs_fresh_ones_get(
    tiny_model: Path, tmp_path: Path, monkeypatch
) -> None:
    cfg = settings(tmp_path, tiny_model, tune__steps=1, tune__epochs_per_step=3, tune__updates_per_step=1)
    steps = learnt_from(cfg, Recorder(tmp_path / "m.jsonl", "tune"), monkeypatch)
    assert [len(updates) for updates in steps] == [1] * (len(steps) - 1) + [3]


@pytest.mark.parametrize("algorithm", ["apa", "ppo", "reinforce_pp"])
def test_advantages_are_whitened_where_the_settings_say_so(
    algorithm: str, tiny_model: Path, tmp_path: Path, monkeypatch
) -> None:
    for whitened in (True, False):
        changes = {"tune__algorithm": algorithm, "tune__whiten_advantages": whitened, "tune__updates_per_step": 1}
        cfg = settings(tmp_path, tiny_model, **changes)
        for updates in learnt_from(cfg, Recorder(tmp_path / f"{whitened}.jsonl", "tune"), monkeypatch):
            found_N = torch.cat([one.advantage_BT[one.experience.mask_BT] for batches in updates for one in batches])
            mean, spread = found_N.mean().item(), found_N.std(correction=0).item()
            assert ((mean, spread) == pytest.approx((0, 1), abs=1e-5)) is whitened


def test_rates_fall_to_0_in_a_line(tiny_model: Path, tmp_path: Path, monkeypatch) -> None:
    changes = {"tune__algorithm": "ppo", "tune__steps": 4, "tune__token_budget": 0}
    cfg = settings(tmp_path, tiny_model, tune__learning_rate=1e-3, tune__value_learning_rate=4e-3, **changes)
    steps = steps_of(cfg, Recorder(tmp_path / "m.jsonl", "tune"), monkeypatch)
    assert [step.rates for step in steps] == [
        pytest.approx([left * 1e-3, left * 4e-3]) for left in (1.0, 0.75, 0.5, 0.25)
    ]


@pytest.mark.parametrize(("target", "error"), [(1e-3, 0.2), (1e3, -0.2)], ids=["far below", "far above"])
def test_a_kl_far_from_its_target_moves_the_coefficient_the_way_that_the_target_asks_for(
    target: float, error: float, tiny_model: Path, tmp_path: Path
) -> None:
    changes = {"tune__algorithm": "ppo", "tune__kl_control": "adaptive", "tune__kl_target": target}
    cfg = settings(tmp_path, tiny_model, tune__steps=1, tune__kl_horizon=40, **changes)
    found = loop(cfg, Recorder(tmp_path / "m.jsonl", "tune"))
    with torch.no_grad():
        for weight in found.policy.trained.values():
            weight += 0.05 * torch.randn_like(weight)
    found.policy.sync()
    found.train(Checkpoint(tmp_path / "c.pt", 1e9))
    assert 0.01 < metrics.read(tmp_path / "m.jsonl")[-1]["tune/objective/kl"] < 100
    assert found.kl_control.coef == pytest.approx(found.cfg.kl_coef * (1 + error * 8 / 40))  # of eight answers


def test_at_a_temperature_what_samples_and_what_trains_give_a_token_the_same_probability(
    tiny_model: Path, tmp_path: Path
) -> None:
    # with overlap old logprobs are the sampler's own, so that ratio and KL too tell where the two part
    changes = {"tune__algorithm": "grpo", "tune__temperature": 0.7, "tune__overlap": True, "tune__steps": 1}
    cfg = settings(tmp_path, tiny_model, tune__updates_per_step=1, **changes)
    found = loop(cfg, Recorder(tmp_path / "m.jsonl", "tune"), policy=initial_policy(cfg))
    found.train(Checkpoint(tmp_path / "c.pt", 1e9))
    line = metrics.read(tmp_path / "m.jsonl")[-1]
    assert line["tune/sampling/sampling_logp_difference/mean"] < 0.05  # bfloat16
    assert line["tune/val/ratio"] == pytest.approx(1.0, abs=0.05)
    assert line["tune/policy/approxkl_avg"] < 5e-3


def test_a_loop_samples_at_its_temperature(tiny_model: Path, tmp_path: Path) -> None:
    cfg = settings(tmp_path, tiny_model, tune__temperature=0.7)
    network = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    for group in fresh(loop(cfg, Recorder(tmp_path / "m.jsonl", "tune")), 4):
        for answer in group.answers:
            with torch.no_grad():
                logits_1TV = network(torch.tensor([[*group.prompt_ids, *answer.ids]])).logits
            logprob_TV = (logits_1TV[0, len(group.prompt_ids) - 1 : -1] / 0.7).log_softmax(-1)
            expected = logprob_TV.gather(1, torch.tensor(answer.ids)[:, None])[:, 0]
            assert answer.logprobs == pytest.approx(expected.tolist(), abs=1e-4)
