"""The loop of tune: every algorithm steps, resumes, learns, and stops where it must."""

import math
from pathlib import Path

import pytest
import torch
from killed import Killed
from loops import loop, settings

from starling import metrics
from starling.checkpoint import Checkpoint
from starling.errors import DataError
from starling.loop import Loop
from starling.metrics import Recorder
from starling.policy import pad
from starling.rewards import by_function


def states_equal(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(states_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(states_equal, one, other))
    return one == other


KILLED = {
    "apa": {},
    "apa at the sampling policy": {"anchor": "sampling", "kl_control": "adaptive", "kl_horizon": 50},
    "ppo": {"algorithm": "ppo", "epochs_per_step": 2, "kl_control": "adaptive", "kl_horizon": 50},
    "awr": {"algorithm": "awr", "steps": 2},
    "p3o": {"algorithm": "p3o"},
    "grpo": {"algorithm": "grpo"},
    "rloo": {"algorithm": "rloo"},
    "reinforce_pp": {"algorithm": "reinforce_pp"},
    "dpo": {"algorithm": "dpo", "ranked_epochs": 4},
    "ipo": {"algorithm": "ipo", "ranked_epochs": 4},
    "listwise_dpo": {"algorithm": "listwise_dpo", "ranked_epochs": 4},
    "sft": {"algorithm": "sft", "ranked_epochs": 4},
    "lora": {"lora_rank": 2},
    "a running scale": {"reward_scaling": "running"},
    "rollouts sampled ahead": {"algorithm": "ppo", "overlap": True, "steps": 4},
}


@pytest.mark.parametrize("changes", KILLED.values(), ids=KILLED)
def test_a_loop_that_was_killed_goes_on_bit_for_bit(changes: dict, tiny_model: Path, tmp_path: Path) -> None:
    cfg = settings(tmp_path, tiny_model, **{f"tune__{key}": value for key, value in changes.items()})
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
    assert whole.facts()["steps"] == whole.curriculum.num_steps > 2
    assert states_equal(again.state_dict(), whole.state_dict())
    assert metrics.read(tmp_path / "cut.jsonl") == metrics.read(tmp_path / "whole.jsonl")
    for line in metrics.read(tmp_path / "whole.jsonl"):
        if coef := line.get("tune/objective/kl_coef"):
            assert line["tune/objective/non_score_reward"] == pytest.approx(-coef * line["tune/objective/kl"], rel=1e-4)
    assert (whole.kl_control.coef != whole.cfg.kl_coef) == (changes.get("kl_control") == "adaptive")
    sampling = zip(again.policy.network.parameters(), whole.policy.network.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in sampling)


LEARNT = {
    "apa": {"lam": 0.3},
    "apa at the sampling policy": {"anchor": "sampling", "lam": 0.1},
    "awr": {"algorithm": "awr"},
    "ppo": {"algorithm": "ppo"},
    "p3o": {"algorithm": "p3o", "clip": 0.9, "beta": 0.01},
    "grpo": {"algorithm": "grpo"},
    "rloo": {"algorithm": "rloo"},
    "reinforce_pp": {"algorithm": "reinforce_pp"},
}


@pytest.mark.parametrize("changes", LEARNT.values(), ids=LEARNT)
def test_rewards_rise_and_nothing_frozen_moves(changes: dict, tiny_model: Path, tmp_path: Path) -> None:
    common = {
        "ranked_prompts": 0, "steps": 9, "prompts_per_step": 12, "rollouts_per_prompt": 4, "updates_per_step": 2,
        "learning_rate": 2e-2, "validate_every": 99, "reward_clip": 100.0,
    }  # fmt: skip
    cfg = settings(tmp_path, tiny_model, **{f"tune__{key}": value for key, value in (common | changes).items()})
    found = loop(cfg, Recorder(tmp_path / "m.jsonl", "tune"), score=by_function("rewarding:letters"))
    frozen = {name: weight.clone() for name, weight in found.policy.network.named_parameters()}
    found.train(Checkpoint(tmp_path / "c.pt", 1e9))
    rewards = [line["tune/reward_raw"] for line in metrics.read(tmp_path / "m.jsonl") if "tune/reward_raw" in line]
    assert len(rewards) == 9
    assert sum(rewards[-2:]) > 1.25 * sum(rewards[:2])
    moved = {name for name, weight in found.policy.network.named_parameters() if not torch.equal(weight, frozen[name])}
    trained = ("model.layers.2.", "model.layers.3.", "model.norm.")
    assert moved == {name for name in frozen if name.startswith(trained)}


@pytest.mark.parametrize("algorithm", ["dpo", "ipo", "listwise_dpo"])
def test_offline_the_better_answer_gains_on_the_worse_one(algorithm: str, tiny_model: Path, tmp_path: Path) -> None:
    changes = {
        "tune__algorithm": algorithm,
        "tune__ranked_epochs": 4,
        "tune__ranked_prompts": 12,
        "tune__validate_every": 99,
    }
    found = loop(settings(tmp_path, tiny_model, **changes), Recorder(tmp_path / "m.jsonl", "tune"))
    found.train(Checkpoint(tmp_path / "c.pt", 1e9))
    lines = metrics.read(tmp_path / "m.jsonl")
    margins = [line["tune/rewards/margins"] for line in lines if "tune/rewards/margins" in line]
    assert len(margins) == found.curriculum.ranked_steps == 12
    assert sum(margins[-3:]) > sum(margins[:3])
    assert lines[-1]["tune/rewards/accuracies"] == 1.0
    assert found.tokens == 0
    assert found.facts()["reward_scale"] == {"mean": 0.0, "spread": 1.0, "answers": 0}  # nothing was rewarded
    assert not any("tune/reward" in line for line in lines)


def test_sft_learns_the_best_answer_and_never_sees_the_others(tiny_model: Path, tmp_path: Path) -> None:
    changes = {"tune__algorithm": "sft", "tune__ranked_epochs": 4, "tune__ranked_prompts": 12}
    found = loop(settings(tmp_path, tiny_model, **changes), Recorder(tmp_path / "m.jsonl", "tune"), ranks=(2.0, 1.0))
    texts = {text for part in found.curriculum.parts for one in part for text in one.texts}
    assert texts == {"a plain in spain the"}  # the longer one, ranked first here
    found.train(Checkpoint(tmp_path / "c.pt", 1e9))
    nll = [
        line["tune/loss/policy_avg"] for line in metrics.read(tmp_path / "m.jsonl") if "tune/loss/policy_avg" in line
    ]
    assert nll[-1] < nll[0] / 2
    assert found.tokens == 0
    assert found.facts()["ranked_tokens"] == 4 * sum(
        group.num_tokens for part in found.curriculum.parts for group in part
    )


def test_ranks_the_other_way_round_teach_the_other_way_round(tiny_model: Path, tmp_path: Path) -> None:
    gains = []
    for ranks in ((1.0, 2.0), (2.0, 1.0)):
        cfg = settings(tmp_path, tiny_model, tune__algorithm="dpo", tune__ranked_prompts=12)
        found = loop(cfg, Recorder(tmp_path / "m.jsonl", "tune"), ranks=ranks)
        part = found.ranked.part(0).experiences[0]
        before = found.policy.logprobs(part.packed, part.features).detach()
        found.train(Checkpoint(tmp_path / "c.pt", 1e9))
        gain_BT, _ = pad(found.policy.logprobs(part.packed, part.features).detach() - before, part.lengths)
        first, second = gain_BT.sum(1)[:2].tolist()
        gains.append(first - second)
    assert gains[0] > 1
    assert gains[1] < -1


def test_the_value_gate_trains_the_critic_alone(tiny_model: Path, tmp_path: Path) -> None:
    moved = []
    for gate in (1e-9, 0.0):
        changes = {"tune__anchor": "sampling", "tune__value_gate": gate, "tune__steps": 1}
        found = loop(settings(tmp_path, tiny_model, **changes), Recorder(tmp_path / "m.jsonl", "tune"))
        first = {name: weight.clone() for name, weight in found.policy.top.state_dict().items()}
        critic = found.policy.critic.up.weight.clone()
        found.train(Checkpoint(tmp_path / "c.pt", 1e9))
        moved.append(not states_equal(found.policy.top.state_dict(), first))
        assert not torch.equal(found.policy.critic.up.weight, critic)
    assert moved == [False, True]


def test_every_epoch_updates_again_on_the_same_rollouts(tiny_model: Path, tmp_path: Path) -> None:
    lines = {}
    for epochs in (1, 3):
        changes = {"tune__algorithm": "ppo", "tune__epochs_per_step": epochs, "tune__updates_per_step": 1}
        cfg = settings(tmp_path, tiny_model, **changes, tune__steps=1)
        found = loop(cfg, Recorder(tmp_path / f"{epochs}.jsonl", "tune"))
        found.train(Checkpoint(tmp_path / "c.pt", 1e9))
        lines[epochs] = metrics.read(tmp_path / f"{epochs}.jsonl")[-1]
        assert {int(state["step"]) for state in found.optimiser.state_dict()["state"].values()} == {epochs}
    assert lines[1]["tune/val/ratio"] == 1.0  # old logprobs are the trainer's own, to the bit
    assert lines[3]["tune/val/ratio"] != 1.0
    assert lines[1]["tune/num_tokens"] == lines[3]["tune/num_tokens"]


def test_one_answer_a_prompt_is_enough_for_a_critic(tiny_model: Path, tmp_path: Path) -> None:
    changes = {"tune__algorithm": "ppo", "tune__rollouts_per_prompt": 1, "tune__reward_baseline": "none"}
    cfg = settings(tmp_path, tiny_model, **changes, tune__steps=1)
    loop(cfg, Recorder(tmp_path / "m.jsonl", "tune")).train(Checkpoint(tmp_path / "c.pt", 1e9))
    lines = metrics.read(tmp_path / "m.jsonl")
    assert all(math.isfinite(value) for line in lines for name, value in line.items() if name != "stage")


def test_a_gap_between_sampler_and_trainer_is_warned_about_once(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = settings(tmp_path, tiny_model, tune__algorithm="grpo", tune__logprob_gap_limit=1e-9)
    loop(cfg, Recorder(tmp_path / "m.jsonl", "tune")).train(Checkpoint(tmp_path / "c.pt", 1e9))
    assert capsys.readouterr().out.count("logprob as sampled and as trained differ by") == 1
    gaps = [line["tune/sampling/sampling_logp_difference/mean"] for line in metrics.read(tmp_path / "m.jsonl")[1:]]
    assert all(0 < gap < 0.1 for gap in gaps)  # bfloat16


def test_what_there_is_nothing_to_learn_from_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    cfg = settings(tmp_path, tiny_model, tune__algorithm="dpo")
    with pytest.raises(DataError, match=r"^tune: in none of 4 rankings is an answer above another, .* nothing to"):
        loop(cfg, Recorder(tmp_path / "m.jsonl", "tune"), ranks=(1.0, 1.0))


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
    assert lines[2]["tune/num_tokens"] == found.tokens == found.facts()["rollout_tokens"]
    assert not any(torch.equal(weight, before[name]) for name, weight in found.policy.top.state_dict().items())


@pytest.mark.parametrize("scaling", ["fixed", "running"])
def test_a_running_scale_counts_the_rollouts_and_what_is_reported_keeps_the_first(
    tiny_model: Path, tmp_path: Path, scaling: str
) -> None:
    cfg = settings(tmp_path, tiny_model, tune__steps=2, tune__ranked_prompts=0, tune__reward_scaling=scaling)
    found = loop(cfg, Recorder(tmp_path / "m.jsonl", "tune"))
    found.train(Checkpoint(tmp_path / "c.pt", 1e9))
    assert found.scale.answers == 8  # two ranked answers to each of four prompts
    assert found.shaping.answers == (8 if scaling == "fixed" else 8 + 2 * 4 * 2)
    assert (found.shaping == found.scale) == (scaling == "fixed")
    again = loop(cfg, Recorder(tmp_path / "again.jsonl", "tune"))
    again.load_state_dict(found.state_dict())
    assert (again.scale, again.shaping) == (found.scale, found.shaping)


def test_the_last_look_is_made_where_others_are_left_out_for_the_budget(tiny_model: Path, tmp_path: Path) -> None:
    def of(budget: int) -> Loop:
        changes = {"tune__validate_every": 1, "tune__steps": 2, "evaluate__token_budget": budget}
        return loop(settings(tmp_path, tiny_model, **changes), Recorder(tmp_path / "m.jsonl", "tune"))

    first = of(0)
    length = first.watch.look(first.policy, 0)["validation/mean_length"]
    # 3 validation prompts, 2 answers of each model to 3 test prompts: two looks and the test take 18 lengths, three 21
    found = of(int(20 * length))
    found.train(Checkpoint(tmp_path / "c.pt", 1e9))
    assert [look["step"] for look in found.watch.facts()["looks"]] == [0, found.step]
    assert found.watch.facts()["looks_left_out"] == found.step - 1 > 1


@pytest.mark.parametrize("own", [{}, {"tune__algorithm": "grpo", "tune__kl_coef": 0.0}], ids=["apa", "grpo"])
def test_a_policy_that_goes_too_far_is_stopped(
    own: dict, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = own | {"tune__kl_limit": 1e-6, "tune__learning_rate": 1e-2, "tune__steps": 9, "tune__validate_every": 5}
    found = loop(settings(tmp_path, tiny_model, **changes), Recorder(tmp_path / "m.jsonl", "tune"))
    found.train(Checkpoint(tmp_path / "c.pt", 1e9))
    assert found.facts()["stopped_by"] == "kl_limit"
    assert found.step < 9
    assert found.watch.facts()["looks"][-1]["step"] == found.step
    assert f"tune: step {found.step}: a KL of " in capsys.readouterr().out


def test_ranked_steps_are_stopped_by_the_kl_of_a_look(tiny_model: Path, tmp_path: Path) -> None:
    changes = {"tune__kl_limit": 1e-6, "tune__ranked_epochs": 9, "tune__validate_every": 2, "tune__steps": 3}
    found = loop(settings(tmp_path, tiny_model, **changes), Recorder(tmp_path / "m.jsonl", "tune"))
    found.train(Checkpoint(tmp_path / "c.pt", 1e9))
    assert (found.step, found.facts()["stopped_by"]) == (2, "kl_limit")
    assert found.step < found.curriculum.ranked_steps


def test_a_kill_after_the_last_look_leaves_its_line_once(tiny_model: Path, tmp_path: Path) -> None:
    cfg = settings(tmp_path, tiny_model, tune__validate_every=99, tune__steps=2)
    checkpoint = Checkpoint(tmp_path / "c.pt", 0)
    loop(cfg, Recorder(tmp_path / "m.jsonl", "tune")).train(checkpoint)
    before = metrics.read(tmp_path / "m.jsonl")
    again = loop(cfg, Recorder(tmp_path / "m.jsonl", "tune"))
    again.train(checkpoint)  # the policy was not written yet
    assert metrics.read(tmp_path / "m.jsonl") == before
    assert [line["step"] for line in before] == list(range(again.step + 1))
    assert [line["step"] for line in before if "tune/validation/win_rate" in line] == [0, again.step]


def test_the_step_that_reaches_the_token_budget_is_the_last_and_learnt_from(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # at most 4 * 2 * 8 = 64 tokens a step: 140 take three or more; the ranked step before them costs none
    changes = {"tune__token_budget": 140, "tune__steps": 9, "tune__validate_every": 9}
    found = loop(settings(tmp_path, tiny_model, **changes), Recorder(tmp_path / "m.jsonl", "tune"))
    found.train(Checkpoint(tmp_path / "c.pt", 1e9))
    assert found.facts()["stopped_by"] == "token_budget"
    assert 4 <= found.step < 10
    assert 140 <= found.tokens < 140 + 64
    assert [line["tune/num_tokens"] for line in metrics.read(tmp_path / "m.jsonl") if "tune/num_tokens" in line][
        -2
    ] < 140
    assert [look["step"] for look in found.watch.facts()["looks"]] == [0, found.step]
    assert f"tune: step {found.step}: tune.token_budget (140) is spent; tuning ends here" in capsys.readouterr().out


def test_rate_and_looks_follow_the_token_budget_where_it_ends_tuning(tiny_model: Path, tmp_path: Path) -> None:
    changes = {"tune__token_budget": 200, "tune__steps": 90, "tune__validate_every": 0, "tune__ranked_prompts": 0}
    found = loop(settings(tmp_path, tiny_model, **changes), Recorder(tmp_path / "m.jsonl", "tune"))
    found.train(Checkpoint(tmp_path / "c.pt", 1e9))
    steps = [line for line in metrics.read(tmp_path / "m.jsonl") if "tune/learning_rate" in line]
    spent = [0.0, *(line["tune/num_tokens"] for line in steps)]
    for line, before, step in zip(steps, spent, range(90), strict=False):
        left = 1 - max(before / 200, step / 90)
        assert line["tune/learning_rate"] == pytest.approx(found.cfg.learning_rate * left)
    quarters = [step for step in range(1, len(spent)) if min(spent[step], 200) // 50 > spent[step - 1] // 50]
    assert [look["step"] for look in found.watch.facts()["looks"]] == [0, *quarters]
    assert quarters[-1] == found.step < 20
