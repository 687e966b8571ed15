"""Likelihood of a ranking where floats come to their limits."""

import math
from collections.abc import Callable

import pytest
import torch
from tolerances import EXACT

from starling.losses import pairs
from starling.losses.ranking import plackett_luce_curvature, plackett_luce_nll

PAIRS = (pairs.all_pairs, pairs.adjacent_pairs, pairs.best_against_rest, pairs.sampled_pair)


@pytest.mark.parametrize("ranks", [(1, 2, 3), (3, 2, 1), (1, 1, 3), (1, 0, 0), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_extreme_rewards_give_finite_value_and_gradient(ranks, dtype: torch.dtype) -> None:
    reward = torch.tensor([[1e4, 0.0, -1e4]], dtype=dtype, requires_grad=True)
    value = plackett_luce_nll(reward, torch.tensor([ranks])).sum()
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(reward.grad).all()


def test_extreme_rewards_by_hand() -> None:
    # in the right order certain; in the reverse order 2e4 + 1e4 short
    reward = torch.tensor([[1e4, 0.0, -1e4]], dtype=torch.float64)
    assert plackett_luce_nll(reward).item() == pytest.approx(0, abs=EXACT)
    assert plackett_luce_nll(reward, torch.tensor([[3, 2, 1]])).item() == pytest.approx(3e4, rel=EXACT)


def test_extreme_gradients_by_hand() -> None:
    # worst first: the last takes both places that the others should have had, so each of them is wanted higher by 1
    reward = torch.tensor([[-1e4, 0.0, 1e4]], requires_grad=True)
    plackett_luce_nll(reward).sum().backward()
    assert reward.grad.tolist() == [[-1.0, -1.0, 2.0]]
    # in the right order there is nothing to learn
    reward = torch.tensor([[1e4, 0.0, -1e4]], requires_grad=True)
    plackett_luce_nll(reward).sum().backward()
    assert reward.grad.tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize("shift", [1e4, -1e4])
@pytest.mark.parametrize("ranks", [(1, 2, 3, 4), (4, 1, 1, 0), (2, 2, 2, 1)], ids=str)
def test_a_shift_costs_no_precision_in_float32(shift: float, ranks) -> None:
    near, far = (torch.tensor([[0.5, 2.0, 1.25, -3.0]]).add(by).requires_grad_() for by in (0.0, shift))
    for reward in (near, far):
        plackett_luce_nll(reward, torch.tensor([ranks])).sum().backward()
    assert plackett_luce_nll(near, torch.tensor([ranks])).item() == plackett_luce_nll(far, torch.tensor([ranks])).item()
    assert torch.equal(near.grad, far.grad)


def test_a_far_best_answer_does_not_blur_the_rest() -> None:
    reward = torch.tensor([[1e4, 0.3, 0.0]], requires_grad=True)
    value = plackett_luce_nll(reward)
    value.sum().backward()
    # 0 for the first place, softplus(-0.3) for the second
    assert value.item() == pytest.approx(math.log1p(math.exp(-0.3)), rel=1e-6)
    assert reward.grad.tolist()[0] == pytest.approx([0, -1 / (1 + math.exp(0.3)), 1 / (1 + math.exp(0.3))], abs=1e-6)


@pytest.mark.parametrize("filler", [math.nan, math.inf, -math.inf])
def test_whatever_stands_behind_the_mask_leaves_no_trace(filler: float) -> None:
    reward = torch.tensor([[1.0, filler, 0.0]], dtype=torch.float64, requires_grad=True)
    value = plackett_luce_nll(reward, None, torch.tensor([[True, False, True]]))
    value.sum().backward()
    assert value.item() == pytest.approx(math.log1p(math.exp(-1)), abs=EXACT)
    assert reward.grad[0, 1].item() == 0
    assert reward.grad[0, 0].item() == pytest.approx(-1 / (1 + math.e), abs=EXACT)


@pytest.mark.parametrize("nll", [plackett_luce_nll, *PAIRS], ids=lambda nll: nll.__name__)
def test_autocast_rounds_no_loss_and_no_gradient(nll: Callable[..., torch.Tensor]) -> None:
    ranks, found = torch.tensor([[2, 1, 3], [1, 3, 2]]), []
    drawn = {"draw_B": torch.tensor([0.1, 0.7])} if nll is pairs.sampled_pair else {}
    for enabled in (False, True):
        reward = torch.tensor([[1e4, 9999.123, -1e4], [0.123456, 0.1234, 3.0]], requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            value = nll(reward, ranks, torch.ones(2, 3, dtype=torch.bool), **drawn)
            value.sum().backward()
        found.append((value.detach(), reward.grad))
    assert torch.isfinite(found[0][0]).all()
    assert all(torch.equal(*both) for both in zip(*found, strict=True))


def test_autocast_rounds_no_curvature() -> None:
    reward = torch.tensor([[1.0, 0.123, -2.0], [1e4, 0.0, -1e4]])
    with torch.autocast("cpu", torch.bfloat16):
        rounded = plackett_luce_curvature(reward)
    assert torch.equal(rounded, plackett_luce_curvature(reward))
    assert torch.isfinite(rounded).all()
