"""Estimates of KL(policy || reference) from sampled tokens."""

import math

import pytest
import torch
from tolerances import EXACT

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
