"""REINFORCE++: PPO without a critic."""

import math

import pytest
import torch
from tolerances import EXACT

from starling.losses import kl
from starling.losses.advantage import whiten
from starling.losses.ppo import clipped_policy_loss
from starling.losses.reinforce_pp import reinforce_pp_loss, reinforce_pp_return


def test_advantage_by_hand() -> None:
    # gamma 1/2: rewards still to come are 0 + 4/2 = 2, 4 and (second answer) -3; mean 1, variance (1 + 9 + 16) / 3
    reward = torch.tensor([[0.0, 4.0, 9.0], [-3.0, 9.0, 9.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    found = whiten(reinforce_pp_return(reward, mask, gamma=0.5), mask)
    spread = math.sqrt(26 / 3)
    assert found.flatten().tolist() == pytest.approx([1 / spread, 3 / spread, 0, -4 / spread, 0, 0], abs=EXACT)


def test_the_kl_of_later_tokens_counts_against_earlier_ones() -> None:
    # A_t = r - beta sum_{s >= t} log(pi / pi_ref), then whitened: here 2 - 1 (0.5 + 1.5) = 0 and 2 - 1.5 = 0.5
    logprob = torch.tensor([[-1.0, -1.0]], dtype=torch.float64)
    ref = torch.tensor([[-1.5, -2.5]], dtype=torch.float64)
    mask = torch.ones(1, 2, dtype=torch.bool)
    reward = kl.in_reward(torch.tensor([[0.0, 2.0]], dtype=torch.float64), logprob, ref, mask, 1.0)
    found = whiten(reinforce_pp_return(reward, mask, gamma=1.0), mask)
    assert found[0].tolist() == pytest.approx([-1.0, 1.0], abs=EXACT)


def test_a_constant_on_the_last_token_of_every_answer_is_whitened_away() -> None:
    reward = torch.zeros(3, 4, dtype=torch.float64)
    reward[:, -1] = torch.tensor([1.0, -2.0, 0.5])
    mask = torch.ones(3, 4, dtype=torch.bool)
    shifted = reward.clone()
    shifted[:, -1] += 5
    found, expected = (whiten(reinforce_pp_return(part, mask, gamma=1.0), mask) for part in (shifted, reward))
    assert torch.allclose(found, expected, atol=EXACT, rtol=0)


def test_its_loss_is_ppos() -> None:
    old, noise, advantage = torch.randn(3, 4, 5, dtype=torch.float64)
    mask = torch.rand(4, 5) < 0.7
    batch = (old + 0.4 * noise, old, advantage, mask)
    assert reinforce_pp_loss(*batch, clip=0.2, num_tokens=9) == clipped_policy_loss(*batch, clip=0.2, num_tokens=9)
