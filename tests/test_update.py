"""An update: what precedes it, and its gradient."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from loops import fresh, gathered, loop, settings
from tolerances import CLOSE

from starling.algorithms import ALGORITHMS
from starling.errors import StarlingError
from starling.experience import Batch, Part, gather
from starling.loop import Loop
from starling.metrics import Recorder
from starling.policy import pad
from starling.rollout import Group
from starling.tune_settings import READS, TuneTable
from starling.update import GAP, appraised, gradient, taken

REWARDS = [[1.0, -1.0], [0.5, -0.5], [2.0, -2.0], [-1.0, 1.0]]
FORMS = {
    "apa": {},
    "apa at the sampling policy": {"anchor": "sampling"},
    "awr": {"algorithm": "awr"},
    "ppo": {"algorithm": "ppo"},
    "p3o": {"algorithm": "p3o"},
    "grpo": {"algorithm": "grpo", "clip_high": 0.28},
    "dr_grpo": {"algorithm": "grpo", "normaliser": "dr_grpo"},
    "dapo": {"algorithm": "grpo", "normaliser": "dapo"},
    "rloo": {"algorithm": "rloo"},
    "reinforce_pp": {"algorithm": "reinforce_pp"},
    "dpo": {"algorithm": "dpo"},
    "ipo": {"algorithm": "ipo"},
    "listwise_dpo": {"algorithm": "listwise_dpo"},
}


def made(folder: Path, tiny_model: Path, **changes) -> Loop:
    cfg = settings(folder, tiny_model, **{f"tune__{key}": value for key, value in changes.items()})
    return loop(cfg, Recorder(folder / "m.jsonl", "tune"))


def material(found: Loop) -> Sequence[Group]:
    """Four groups of two answers: the policy's own, or ranked ones."""
    if found.algorithm.online:
        return fresh(found, 4)
    return [group for part in found.curriculum.parts[:4] for group in part]


def batches_of(found: Loop, part: Part, kl_coef: float = 0.0) -> list[Batch]:
    return [appraised(found.policy, one, found.algorithm, found.cfg, kl_coef) for one in part.experiences]


def move(found: Loop) -> None:
    """Change every trained weight a little, the same way each time."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in (*found.policy.top.parameters(), *found.policy.critic.parameters()):
            weight += 0.02 * torch.randn_like(weight)


@pytest.mark.parametrize("changes", FORMS.values(), ids=FORMS)
def test_the_gradient_does_not_depend_on_the_microbatches(
    changes: dict, tiny_model: Path, tmp_path: Path, products: torch.dtype
) -> None:
    near = 1e-4 if products == torch.float32 else 0.03  # of the largest
    grads, figures, sizes = [], [], []
    for tokens in (64, 100_000):
        found = made(tmp_path, tiny_model, **changes, microbatch_tokens=tokens)
        batches = batches_of(found, gathered(found, material(found), REWARDS), 0.01)
        move(found)
        figures.append(gradient(found.policy, batches, found.algorithm, found.cfg))
        critic = found.policy.critic.named_parameters() if found.algorithm.critic else ()
        trained = [*found.policy.top.named_parameters(), *critic]
        grads.append({f"{name}, {at}": weight.grad for at, (name, weight) in enumerate(trained)})
        sizes.append(len(batches))
    assert sizes[0] > sizes[1] == 1
    scale = max(abs(figures[1]["loss/policy_avg"]), 0.05)
    assert figures[0]["loss/policy_avg"] == pytest.approx(figures[1]["loss/policy_avg"], abs=near * scale)
    assert figures[0].keys() == figures[1].keys()
    for name, grad in grads[0].items():
        scale = float(grad.abs().max())
        assert scale > 0
        assert torch.allclose(grads[1][name], grad, atol=near * scale, rtol=0), name


@pytest.mark.parametrize("algorithm", ["grpo", "rloo", "ppo", "p3o", "apa"])
def test_old_logprobs_of_an_only_update_are_those_of_its_own_forward_pass(
    algorithm: str, tiny_model: Path, tmp_path: Path
) -> None:
    found = made(tmp_path, tiny_model, algorithm=algorithm)
    part = gathered(found, fresh(found, 2), REWARDS[:2])
    move(found)
    grads, figures = [], []
    for once in (False, True):
        batches = [
            appraised(found.policy, one, found.algorithm, found.cfg, 0.0, only_update=once) for one in part.experiences
        ]
        assert [batch.on_policy for batch in batches] == [once and algorithm != "apa"] * len(batches)
        found.policy.top.zero_grad()
        figures.append(gradient(found.policy, batches, found.algorithm, found.cfg))
        grads.append([weight.grad for weight in found.policy.top.parameters()])
    assert figures[0] == figures[1]
    assert all(torch.equal(one, other) for one, other in zip(*grads, strict=True))


@pytest.mark.parametrize("name", ["grpo", "rloo", "reinforce_pp"])
def test_without_kl_in_the_reward_the_gradient_needs_no_reference(name: str, tiny_model: Path, tmp_path: Path) -> None:
    found = made(tmp_path, tiny_model, algorithm=name, kl_coef=0.0)
    assert not found.algorithm.compares(found.cfg)
    move(found)
    groups = material(found)
    gradients = []
    for reference in (True, False):
        part = gather(found.policy, groups, REWARDS, found.scale, found.cfg, reference=reference)
        found.policy.top.zero_grad()
        gradient(found.policy, batches_of(found, part), found.algorithm, found.cfg)
        gradients.append([weight.grad.clone() for weight in found.policy.trained.values()])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
    assert max(float(part.abs().max()) for part in gradients[0]) > 0


NEED_NO_REFERENCE = {"grpo", "rloo", "reinforce_pp", "sft"}


@pytest.mark.parametrize("name", READS)
def test_what_compares_with_the_reference(name: str) -> None:
    algorithm = ALGORITHMS[name]
    assert algorithm.compares(TuneTable(kl_coef=0.0)) == (name not in NEED_NO_REFERENCE)
    assert algorithm.compares(TuneTable(kl_coef=0.01))


@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
def test_with_kl_in_the_reward_old_logprobs_come_first(kl_coef: float, tiny_model: Path, tmp_path: Path) -> None:
    found = made(tmp_path, tiny_model, algorithm="rloo")
    part = gathered(found, fresh(found, 2), REWARDS[:2])
    batch = appraised(found.policy, part.experiences[0], found.algorithm, found.cfg, kl_coef, only_update=True)
    assert batch.on_policy == (kl_coef == 0)


def test_the_anchor_is_the_reference_or_the_policy_that_sampled(tiny_model: Path, tmp_path: Path) -> None:
    for anchor in ("initial", "sampling"):
        found = made(tmp_path, tiny_model, anchor=anchor)
        part = gathered(found, fresh(found, 2), REWARDS[:2])
        move(found)
        (batch,) = batches_of(found, part)
        reference = torch.equal(batch.anchor_logprob_BT, batch.experience.ref_logprob_BT)
        assert reference == (anchor == "initial")


def test_the_kl_stands_in_the_reward_of_each_token(tiny_model: Path, tmp_path: Path) -> None:
    found = made(tmp_path, tiny_model, algorithm="reinforce_pp", reward_baseline="none")
    part = gathered(found, fresh(found, 2), REWARDS[:2])
    move(found)
    (batch,) = batches_of(found, part, 0.1)
    for row, length in enumerate(batch.experience.lengths):
        kl_T = (batch.anchor_logprob_BT - batch.experience.ref_logprob_BT)[row, :length]
        assert kl_T.abs().max() > 0.01
        rewards = [-0.1 * float(kl) for kl in kl_T]
        rewards[-1] += [reward for pair in REWARDS[:2] for reward in pair][row]
        to_come = [sum(rewards[at:]) for at in range(length)]
        assert batch.return_BT[row, :length].tolist() == pytest.approx(to_come, abs=CLOSE)


def test_the_gap_between_sampler_and_trainer_by_hand(tiny_model: Path, tmp_path: Path) -> None:
    found = made(tmp_path, tiny_model)
    groups = fresh(found, 2)
    for group in groups:
        for answer in group.answers:
            answer.logprobs = [logprob - 0.5 for logprob in answer.logprobs]  # as if another policy had sampled
    batches = batches_of(found, gathered(found, groups, REWARDS[:2]))
    figures = gradient(found.policy, batches, found.algorithm, found.cfg)
    assert figures[GAP] == pytest.approx(0.5, abs=0.03)  # bfloat16


def test_an_optimiser_step_is_taken_for_each_update_and_metrics_are_their_means(
    tiny_model: Path, tmp_path: Path
) -> None:
    def take(*sizes: int) -> list[dict[str, float]]:
        """The metrics of calls with so many updates each."""
        found = made(tmp_path, tiny_model, algorithm="ppo")
        batches = batches_of(found, gathered(found, fresh(found, 4), REWARDS))
        return [taken(found.policy, found.optimiser, [batches] * size, found.algorithm, found.cfg, 7) for size in sizes]

    (both,), (one, other) = take(2), take(1, 1)
    assert one["loss/policy_avg"] > other["loss/policy_avg"]
    assert both.pop(GAP) == one.pop(GAP) != other.pop(GAP)  # after the first step another policy is compared
    assert both == {name: pytest.approx((one[name] + other[name]) / 2, rel=1e-6) for name in one}
    assert one["grad_norm"] > 0


def test_the_critic_learns_the_returns(tiny_model: Path, tmp_path: Path) -> None:
    found = made(tmp_path, tiny_model, algorithm="ppo", value_learning_rate=1e-2, value_clip=0.0, learning_rate=1e-6)
    batches = batches_of(found, gathered(found, fresh(found, 4), REWARDS))
    loss = [
        taken(found.policy, found.optimiser, [batches], found.algorithm, found.cfg, 1)["loss/value_avg"]
        for _ in range(50)
    ]
    assert loss[-1] < loss[0] / 2
    value_BT, mask_BT = pad(found.policy.values(batches[0].experience.features), batches[0].experience.lengths)
    off = [(goal_BT - value_BT)[mask_BT].square().mean() for goal_BT in (batches[0].return_BT, -batches[0].return_BT)]
    assert off[0] < off[1]


def test_the_gradient_of_the_policy_is_no_longer_than_it_may_be(tiny_model: Path, tmp_path: Path) -> None:
    def step(grad_clip: float) -> tuple[float, float]:
        """The gradient's norm before it is clipped, and how far a plain step of rate 1 moved the policy."""
        found = made(tmp_path, tiny_model, algorithm="reinforce_pp", grad_clip=grad_clip)
        batches = batches_of(found, gathered(found, fresh(found, 4), REWARDS))
        before = [weight.detach().clone() for weight in found.policy.trained.values()]
        plain = torch.optim.SGD(found.policy.trained.values(), lr=1.0)
        norm = taken(found.policy, plain, [batches], found.algorithm, found.cfg, 1)["grad_norm"]
        moved = [weight.detach() - old for old, weight in zip(before, found.policy.trained.values(), strict=True)]
        return norm, math.sqrt(sum(float(change.square().sum()) for change in moved))

    norm, moved = step(1e6)
    assert moved == pytest.approx(norm, rel=1e-3)
    assert step(norm / 4)[1] == pytest.approx(norm / 4, rel=1e-3)


def test_a_loss_that_is_no_number_ends_tuning_and_changes_no_weight(tiny_model: Path, tmp_path: Path) -> None:
    found = made(tmp_path, tiny_model)
    part = gathered(found, fresh(found, 2), [[math.nan, 1.0], [0.0, 1.0]])
    before = {name: weight.detach().clone() for name, weight in found.policy.trained.items()}
    with pytest.raises(StarlingError, match="tune: step 7: loss or gradient is not a number"):
        taken(found.policy, found.optimiser, [batches_of(found, part)], found.algorithm, found.cfg, 7)
    assert all(torch.equal(before[name], weight) for name, weight in found.policy.trained.items())


def test_ranked_answers_have_no_gap_and_online_ones_have_names_that_trl_gives(tiny_model: Path, tmp_path: Path) -> None:
    names = {}
    for algorithm in ("dpo", "ppo"):
        found = made(tmp_path, tiny_model, algorithm=algorithm)
        batches = batches_of(found, gathered(found, material(found), REWARDS))
        names[algorithm] = set(gradient(found.policy, batches, found.algorithm, found.cfg))
    assert names["dpo"] == {"loss/policy_avg", "rewards/accuracies", "rewards/margins"}
    assert names["ppo"] == {
        "loss/policy_avg", "loss/value_avg", "value/explained_variance", "val/clipfrac_avg", "policy/clipfrac_avg",
        "policy/approxkl_avg", "val/ratio", GAP,
    }  # fmt: skip


def test_with_overlap_the_sampler_is_what_the_ratio_is_to_even_in_the_only_update(
    tiny_model: Path, tmp_path: Path
) -> None:
    found = made(tmp_path, tiny_model, algorithm="grpo", kl_coef=0.0, overlap=True)
    part = gathered(found, fresh(found, 4), REWARDS)
    move(found)
    for one in part.experiences:
        batch = appraised(found.policy, one, found.algorithm, found.cfg, 0.0, only_update=True)
        assert not batch.on_policy
        assert torch.equal(batch.anchor_logprob_BT[one.mask_BT], one.sampled_N)


def test_the_critics_gradient_is_no_part_of_the_norm_that_is_clipped(tiny_model: Path, tmp_path: Path) -> None:
    changes = {"grad_clip": 1e6, "value_clip": 0.0, "reward_clip": 1e9, "whiten_advantages": False}
    found = made(tmp_path, tiny_model, algorithm="ppo", **changes)
    move(found)
    large = [[100 * reward for reward in row] for row in REWARDS]
    batches = batches_of(found, gathered(found, fresh(found, 4), large))
    gradient(found.policy, batches, found.algorithm, found.cfg)
    norm = math.sqrt(sum(float(weight.grad.square().sum()) for weight in found.policy.trained.values()))
    assert any(float(weight.grad.abs().max()) > 1 for weight in found.policy.critic.parameters())
    found.optimiser.zero_grad(set_to_none=True)
    plain = torch.optim.SGD(found.policy.trained.values(), lr=0.0)
    told = taken(found.policy, plain, [batches], found.algorithm, found.cfg, 1)["grad_norm"]
    assert told == pytest.approx(norm, rel=1e-3)


def test_metrics_do_not_grow_with_the_number_of_microbatches(tiny_model: Path, tmp_path: Path) -> None:
    found = made(tmp_path, tiny_model, algorithm="ppo")
    part = gathered(found, fresh(found, 4), REWARDS)
    move(found)
    (batch,) = batches_of(found, part)
    once, twice = (gradient(found.policy, [batch] * times, found.algorithm, found.cfg) for times in (1, 2))
    assert twice == {name: pytest.approx(value, rel=1e-4, abs=1e-6) for name, value in once.items()}
