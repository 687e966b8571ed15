"""Estimates of KL(policy || reference) from sampled tokens."""

import math

import pytest
import torch
from tolerances import CLOSE, EXACT

from starling.losses import kl

POLICY = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
REFERENCE = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)


def row(*probabilities: float) -> torch.Tensor:
    return torch.tensor([probabilities], dtype=torch.float64).log()


def test_k1_by_hand() -> None:
    # log(1/2) - log(1/4) = log 2; log(1/4) - log(1/2) = -log 2
    assert kl.k1(row(0.5, 0.25), row(0.25, 0.5))[0].tolist() == pytest.approx([math.log(2), -math.log(2)], abs=EXACT)


def test_k3_by_hand() -> None:
    # r = (1/4) / (1/2) = 1/2: 1/2 - 1 - log(1/2) = log 2 - 1/2;  r = 2: 2 - 1 - log 2 = 1 - log 2
    expected = [math.log(2) - 0.5, 1 - math.log(2)]
    assert kl.k3(row(0.5, 0.25), row(0.25, 0.5))[0].tolist() == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize("estimate", [kl.k1, kl.k3], ids=["k1", "k3"])
def test_mean_under_the_policy_is_the_exact_divergence(estimate) -> None:
    exact = sum(p * math.log(p / q) for p, q in zip(POLICY.tolist(), REFERENCE.tolist(), strict=True))
    mean = (POLICY * estimate(POLICY.log()[None], REFERENCE.log()[None])[0]).sum().item()
    assert mean == pytest.approx(exact, abs=EXACT)


@pytest.mark.parametrize("estimate", [kl.k1, kl.k3], ids=["k1", "k3"])
def test_equal_policies_give_zero(estimate) -> None:
    assert estimate(POLICY.log()[None], POLICY.log()[None]).tolist() == [[0.0, 0.0, 0.0]]


def test_k3_is_never_negative() -> None:
    assert kl.k3(torch.randn(50, 40) * 3, torch.randn(50, 40) * 3).min().item() >= 0


def test_k3_keeps_its_digits_where_the_policies_nearly_agree() -> None:
    # k3(d) = d^2 / 2 + d^3 / 6 + ...; exp(d) - 1 - d would keep no digit here
    difference = 1e-7
    found = kl.k3(torch.zeros(1, 1, dtype=torch.float64), torch.full((1, 1), difference, dtype=torch.float64)).item()
    assert found == pytest.approx(difference**2 / 2, rel=1e-6, abs=0)


@pytest.mark.parametrize("estimate", [kl.k1, kl.k3], ids=["k1", "k3"])
def test_a_common_shift_of_both_logprobs_changes_nothing(estimate) -> None:
    policy, reference = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    shifted = estimate(policy + 0.5, reference + 0.5)
    assert torch.allclose(shifted, estimate(policy, reference), atol=EXACT, rtol=0)


def test_gradient_of_k3_pulls_the_policy_towards_the_reference() -> None:
    policy = row(0.5, 0.25).requires_grad_()
    kl.k3(policy, row(0.25, 0.5)).sum().backward()
    # d/d log pi of (r - 1 - log r) = 1 - r: 1 - 1/2 and 1 - 2
    assert policy.grad[0].tolist() == pytest.approx([0.5, -1.0], abs=EXACT)


def test_exact_divergence_by_hand() -> None:
    # (1/2) log(1/2 / 1/4) + (1/2) log(1/2 / 3/4) = log 2 - log(3) / 2;  nothing between equal rows
    policy = torch.tensor([[0.5, 0.5], [0.5, 0.5]], dtype=torch.float64).log() + 3
    reference = torch.tensor([[0.25, 0.75], [0.5, 0.5]], dtype=torch.float64).log() - 2
    assert kl.exact(policy, reference).tolist() == pytest.approx([math.log(2) - math.log(3) / 2, 0.0], abs=EXACT)


def test_exact_divergence_is_that_of_torch_and_its_gradient_too() -> None:
    policy, reference = torch.randn(2, 6, 9, dtype=torch.float64)
    policy.requires_grad_()
    found = kl.exact(policy, reference)
    normal = [torch.distributions.Categorical(logits=part) for part in (policy, reference)]
    expected = torch.distributions.kl_divergence(*normal)
    assert found.tolist() == pytest.approx(expected.tolist(), abs=EXACT)
    gradients = [torch.autograd.grad(value.sum(), policy)[0] for value in (found, expected)]
    assert torch.allclose(*gradients, atol=EXACT, rtol=0)


def test_a_token_that_the_policy_never_gives_adds_nothing_to_the_exact_divergence() -> None:
    policy = torch.tensor([[0.0, 0.0, -torch.inf, -torch.inf]], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([[0.0, 0.0, 0.0, -torch.inf]], dtype=torch.float64)
    found = kl.exact(policy, reference)  # 1/2 against 1/3 twice
    found.sum().backward()
    assert found.item() == pytest.approx(math.log(3 / 2), abs=EXACT)
    assert policy.grad.isfinite().all()


def test_exact_divergence_of_half_precision_logits_is_computed_wider() -> None:
    policy, reference = torch.randn(2, 4, 50).bfloat16()
    found = kl.exact(policy, reference)
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(kl.exact(policy.double(), reference.double()).tolist(), rel=CLOSE)


def test_kl_in_the_reward_by_hand() -> None:
    # 0 - 0.1 (-1 + 3) and 2 - 0.1 (-2 + 1); the padding is 0
    mask = torch.tensor([[True, True, False]])
    reward, logprob, reference = (
        torch.tensor([values]) for values in ([0.0, 2.0, 5.0], [-1.0, -2.0, math.nan], [-3.0, -1.0, 7.0])
    )
    found = kl.in_reward(reward, logprob.requires_grad_(), reference, mask, 0.1)
    assert found[0].tolist() == pytest.approx([-0.2, 2.1, 0.0], abs=CLOSE)
    assert not found.requires_grad


def test_without_a_coefficient_the_reward_stays_as_it_was() -> None:
    reward, logprob, reference = torch.randn(3, 2, 4)
    assert torch.equal(kl.in_reward(reward, logprob, reference, torch.ones(2, 4).bool(), 0.0), reward)
