"""A bandit and a small decision process whose best policy is known: where each loss of a policy ends."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from starling.losses import advantage, kl
from starling.losses.apa import apa_loss
from starling.losses.awr import awr_loss
from starling.losses.dpo import dpo_loss
from starling.losses.grpo import grpo_loss
from starling.losses.p3o import p3o_loss
from starling.losses.ppo import clipped_policy_loss
from starling.losses.reinforce_pp import reinforce_pp_loss, reinforce_pp_return
from starling.losses.rloo import rloo_loss

INITIAL = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
LAM = 0.7


def ends_at(logits: Tensor, loss_of: Callable[[], Tensor], steps: int = 400, rate: float = 1.0) -> Tensor:
    """Plain gradient descent; the policy after it."""
    for _ in range(steps):
        (gradient,) = torch.autograd.grad(loss_of(), logits)
        with torch.no_grad():
            logits -= rate * gradient
    return logits.detach().softmax(-1)


def tilted(initial: Tensor, exponent: Tensor) -> Tensor:
    weight = initial * exponent.exp()
    return weight / weight.sum(-1, keepdim=True)


def apa_over_arms(logits: Tensor, sampler: Tensor | None, advantage_V: Tensor) -> Tensor:
    """APA's expected loss, arm by arm; the sampler is the policy itself where none is given."""
    logprob = logits.log_softmax(-1)
    chance = logprob.detach().exp() if sampler is None else sampler
    arms = torch.ones(1, 1, dtype=torch.bool)
    losses = [
        apa_loss(logprob[None, None, v], INITIAL.log()[None, None, v], advantage_V[None, None, v], arms, lam=LAM).value
        for v in range(3)
    ]
    return (chance * torch.stack(losses)).sum()


# exp(A / lam) averages 3/2 under the initial policy in the first, 1 in the second
UNNORMALISED = LAM * torch.tensor([0.5, 1.0, 4.75], dtype=torch.float64).log()
NORMALISED = LAM * torch.tensor([0.4, 1.0, 2.5], dtype=torch.float64).log()
SAMPLERS = {"initial": INITIAL, "another": torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64)}


@pytest.mark.parametrize("advantage_V", [UNNORMALISED, NORMALISED], ids=["Z = 3/2", "Z = 1"])
def test_apa_on_its_own_samples_ends_at_the_tilted_initial_policy_whatever_its_normaliser(advantage_V) -> None:
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    found = ends_at(logits, lambda: apa_over_arms(logits, None, advantage_V))
    assert found.tolist() == pytest.approx(tilted(INITIAL, advantage_V / LAM).tolist(), abs=1e-8)


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_apa_on_any_fixed_samples_ends_there_too_where_the_normaliser_is_one(sampler) -> None:
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    found = ends_at(logits, lambda: apa_over_arms(logits, sampler, NORMALISED))
    assert found.tolist() == pytest.approx(tilted(INITIAL, NORMALISED / LAM).tolist(), abs=1e-8)


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
def test_apa_on_fixed_samples_ends_elsewhere_where_the_normaliser_is_not_one(sampler) -> None:
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    found = ends_at(logits, lambda: apa_over_arms(logits, sampler, UNNORMALISED))
    # stationary there: mu_v e_v is the policy's share of sum mu e, with e = log pi - log pi_init - A / lam
    pull = sampler * (found.log() - INITIAL.log() - UNNORMALISED / LAM)
    assert pull.tolist() == pytest.approx((found * pull.sum()).tolist(), abs=1e-6)
    assert (found - tilted(INITIAL, UNNORMALISED / LAM)).abs().max().item() > 0.01


def test_apa_in_a_decision_process_ends_at_the_tilted_initial_policy_in_every_state() -> None:
    # state 0, then state 1 + action: three actions in each of four states, the advantage of each held fixed
    initial = torch.rand(4, 3, dtype=torch.float64).softmax(-1)
    advantage_SV = 0.3 * torch.randn(4, 3, dtype=torch.float64)
    logits = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    pairs = list(itertools.product(range(3), repeat=2))
    state = torch.tensor([[0, 1 + first] for first, _ in pairs])
    action = torch.tensor(pairs)
    mask = torch.ones(1, 2, dtype=torch.bool)

    def loss() -> Tensor:
        logprob = logits.log_softmax(-1)[state, action]
        fixed = initial.log()[state, action], advantage_SV[state, action]
        chance = logprob.detach().sum(1).exp()
        rows = [
            apa_loss(logprob[row, None], *(part[row, None] for part in fixed), mask, lam=LAM).value
            for row in range(len(pairs))
        ]
        return (chance * torch.stack(rows)).sum()

    found = ends_at(logits, loss, steps=500, rate=2.0)
    assert torch.allclose(found, tilted(initial, advantage_SV / LAM), atol=1e-6, rtol=0)


def test_awr_on_fixed_samples_ends_at_the_sampler_tilted_and_normalised() -> None:
    draws = torch.tensor([[0] * 5 + [1] * 3 + [2] * 2])  # the initial policy's own
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)

    def loss() -> Tensor:
        logprob = logits.log_softmax(-1)[draws]
        return awr_loss(logprob, UNNORMALISED[draws], torch.ones(1, 10).bool(), lam=LAM, clip=20.0).value

    assert ends_at(logits, loss).tolist() == pytest.approx(tilted(INITIAL, UNNORMALISED / LAM).tolist(), abs=1e-8)


def test_p3o_ends_at_the_reference_tilted_by_reward_over_beta() -> None:
    reward, beta = torch.tensor([0.3, -0.2, 0.6], dtype=torch.float64), 0.5
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    pairs = torch.tensor(list(itertools.combinations(range(3), 2)))  # (3, 2)
    mask = torch.ones(1, 2, 1, dtype=torch.bool)

    def loss() -> Tensor:
        logprob = logits.log_softmax(-1)[pairs][..., None]
        chance = logprob.detach().sum((1, 2)).exp()
        rows = [
            p3o_loss(
                logprob[row, None], logprob.detach()[row, None], INITIAL.log()[pairs[row], None][None],
                reward[pairs[row]][None], mask, beta=beta, clip=0.2,
            ).value
            for row in range(3)
        ]  # fmt: skip
        return (chance * torch.stack(rows)).sum()

    found = ends_at(logits, loss, steps=300, rate=8.0)
    assert found.tolist() == pytest.approx(tilted(INITIAL, reward / beta).tolist(), abs=1e-6)


def test_dpo_on_all_pairs_of_a_bradley_terry_judge_ends_at_the_reference_tilted_by_reward_over_beta() -> None:
    reward, beta = torch.tensor([0.3, -0.2, 0.6], dtype=torch.float64), 0.5
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)

    def loss() -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for pair in itertools.permutations(range(3), 2):
            better, worse = reward[list(pair)].tolist()
            here = list(pair)
            found = dpo_loss(logits.log_softmax(-1)[None, here], INITIAL.log()[None, here], beta=beta).value
            total = total + found / (1 + math.exp(worse - better))
        return total

    found = ends_at(logits, loss, steps=100, rate=5.0)
    assert found.tolist() == pytest.approx(tilted(INITIAL, reward / beta).tolist(), abs=1e-6)


# Arm 1 pays best. Every online loss has to find that out from draws alone.
PAYS = torch.tensor([0.0, 1.0, 0.4], dtype=torch.float64)
NUM_PROMPTS, GROUP = 8, 4


def update_by(name: str, logprob: Tensor, old: Tensor, reward_BG: Tensor) -> Tensor:
    """The loss of one update on one-token answers; all tensors (B, G)."""
    new_BT, old_BT = logprob.flatten()[:, None], old.flatten()[:, None]
    mask_BT = torch.ones_like(new_BT, dtype=torch.bool)
    centred_BT = advantage.group(reward_BG).flatten()[:, None]
    if name == "ppo":
        return clipped_policy_loss(new_BT, old_BT, centred_BT, mask_BT, clip=0.2).value
    if name in ("grpo", "dr_grpo", "dapo"):
        normalised = advantage.group if name == "dr_grpo" else advantage.normalised_group
        advantage_BT = normalised(reward_BG).flatten()[:, None]
        return grpo_loss(
            new_BT, old_BT, advantage_BT, mask_BT, clip_low=0.2, clip_high=0.28, normaliser=name
        ).value  # fmt: skip
    if name == "rloo":
        return rloo_loss(new_BT, old_BT, advantage.leave_one_out(reward_BG).flatten(), mask_BT, clip=0.2).value
    if name == "reinforce_pp":
        advantage_BT = advantage.whiten(reinforce_pp_return(reward_BG.flatten()[:, None], mask_BT, gamma=1.0), mask_BT)
        return reinforce_pp_loss(new_BT, old_BT, advantage_BT, mask_BT, clip=0.2).value
    if name == "awr":
        return awr_loss(new_BT, centred_BT, mask_BT, lam=0.5, clip=20.0).value
    pairs = [part.reshape(-1, 2, 1) for part in (logprob, old, torch.full_like(old, math.log(1 / 3)))]
    return p3o_loss(*pairs, reward_BG.reshape(-1, 2), mask_BT.view(-1, 2, 1), beta=0.01, clip=0.2).value


@pytest.mark.parametrize("name", ["ppo", "grpo", "dr_grpo", "dapo", "rloo", "reinforce_pp", "awr", "p3o"])
def test_every_online_loss_finds_the_best_arm_from_draws(name: str) -> None:
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    for _ in range(100):
        sampled = logits.detach().log_softmax(-1)
        draws = torch.multinomial(sampled.exp(), NUM_PROMPTS * GROUP, replacement=True).view(NUM_PROMPTS, GROUP)
        for _ in range(2):  # two updates from the same draws
            loss = update_by(name, logits.log_softmax(-1)[draws], sampled[draws], PAYS[draws])
            (gradient,) = torch.autograd.grad(loss, logits)
            with torch.no_grad():
                logits -= gradient
    assert logits.softmax(-1)[1].item() > 0.9


def test_the_kl_in_the_reward_stops_ppo_at_the_reference_tilted_by_reward_over_coefficient() -> None:
    # on all arms with their exact chances: A = r - coef log(pi / pi_ref) less its mean
    coef = 0.5
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, 1, dtype=torch.bool)

    def loss() -> Tensor:
        logprob = logits.log_softmax(-1)
        chance = logprob.detach().exp()
        reward = kl.in_reward(PAYS[None], logprob[None], INITIAL.log()[None], torch.ones(1, 3).bool(), coef)[0]
        better = reward - (chance * reward).sum()
        rows = [
            clipped_policy_loss(
                logprob[v].view(1, 1), logprob.detach()[v].view(1, 1), better[v].view(1, 1), one, clip=0.2
            ).value
            for v in range(3)
        ]  # fmt: skip
        return (chance * torch.stack(rows)).sum()

    found = ends_at(logits, loss, steps=200, rate=5.0)
    assert found.tolist() == pytest.approx(tilted(INITIAL, PAYS / coef).tolist(), abs=1e-6)


@pytest.mark.parametrize("updates", [1, 8], ids=["one update", "eight updates"])
@pytest.mark.parametrize("lam", [0.5, 2.0])
def test_apa_anchored_at_what_sampled_ends_at_the_reference_tilted_by_reward_over_coefficient(
    lam: float, updates: int
) -> None:
    # A = r - coef log(pi_old / pi_ref) less its mean: all 0 there, so that the target is pi_old, whose normaliser is 1;
    # were each target reached, log pi would be (1 - coef / lam) log pi_old + (r + coef log pi_ref) / lam + const
    coef = 0.5
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, 1, dtype=torch.bool)
    for _ in range(150):
        old = logits.detach().log_softmax(-1)
        reward = kl.in_reward(PAYS[None], old[None], INITIAL.log()[None], torch.ones(1, 3).bool(), coef)[0]
        better = reward - (old.exp() * reward).sum()

        def loss(old: Tensor = old, better: Tensor = better) -> Tensor:
            rows = [
                apa_loss(*(part[v].view(1, 1) for part in (logits.log_softmax(-1), old, better)), one, lam=lam).value
                for v in range(3)
            ]
            return (old.exp() * torch.stack(rows)).sum()

        ends_at(logits, loss, steps=updates, rate=lam / updates)
    found = logits.detach().softmax(-1)
    assert found.tolist() == pytest.approx(tilted(INITIAL, PAYS / coef).tolist(), abs=1e-6)


def test_listwise_dpo_on_a_plackett_luce_judge_ends_at_the_reference_tilted_by_reward_over_beta() -> None:
    reward, beta = torch.tensor([0.3, -0.2, 0.6], dtype=torch.float64), 0.5
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    orders = list(itertools.permutations(range(3)))
    weight = reward.exp().tolist()
    chance = [
        math.prod(weight[arm] / sum(weight[rest] for rest in order[place:]) for place, arm in enumerate(order))
        for order in orders
    ]

    def loss() -> Tensor:
        logprob = logits.log_softmax(-1)
        rows = [dpo_loss(logprob[None, list(o)], INITIAL.log()[None, list(o)], beta=beta).value for o in orders]
        return (torch.tensor(chance, dtype=torch.float64) * torch.stack(rows)).sum()

    assert sum(chance) == pytest.approx(1.0, abs=1e-12)
    found = ends_at(logits, loss, steps=80, rate=5.0)
    assert found.tolist() == pytest.approx(tilted(INITIAL, reward / beta).tolist(), abs=1e-6)
