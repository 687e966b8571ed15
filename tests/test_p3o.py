"""Pairwise proximal policy optimisation."""

import math

import pytest
import torch
from tolerances import EXACT

from starling.losses.advantage import leave_one_out
from starling.losses.p3o import p3o_loss
from starling.losses.rloo import rloo_loss

ONE = torch.ones(1, 2, 1, dtype=torch.bool)


def pair(first: float, second: float) -> torch.Tensor:
    """The log-probabilities of two answers of one token."""
    return torch.tensor([[[first], [second]]], dtype=torch.float64)


def random_batch(noise: float = 0.1) -> tuple[torch.Tensor, ...]:
    old = -torch.rand(6, 2, 4, dtype=torch.float64)
    new = old + noise * torch.randn(6, 2, 4, dtype=torch.float64)
    ref = old + noise * torch.randn(6, 2, 4, dtype=torch.float64)
    return new, old, ref, torch.randn(6, 2, dtype=torch.float64), torch.rand(6, 2, 4) < 0.8


def by_loops(new, old, ref, reward, mask, beta: float, clip: float) -> tuple[float, list]:
    """The loss and its gradient by the log-probability of each answer, pair by pair."""
    terms, gradient = [], []
    for b in range(len(reward)):
        whole = [[part[b, i][mask[b, i]].sum().item() for i in range(2)] for part in (new, old, ref)]
        ratio, old_ratio = ([p - r for p, r in zip(part, whole[2], strict=True)] for part in whole[:2])
        d, old_d = ratio[0] - ratio[1], old_ratio[0] - old_ratio[1]
        q = (reward[b, 0] - reward[b, 1]).item() - beta * d
        w = min(max(math.exp(sum(whole[0]) - sum(whole[1])), 0.1), 10.0)
        held = (q > 0 and d > old_d + clip) or (q < 0 and d < old_d - clip)
        bounded = min(max(d, old_d - clip), old_d + clip) if held else d
        terms.append(-q * w * bounded / 2)
        slope = 0.0 if held else -q * w / 2 / len(reward)
        gradient.append([slope, -slope])
    return sum(terms) / len(terms), gradient


def test_loss_by_hand() -> None:
    # on the policy's own samples: l = (0.5, -0.3), d = 0.8, q = 3 - 1 - 0.5 * 0.8 = 1.6, w = 1; -1.6 * 0.8 / 2
    new = pair(-1.0, -2.0)
    loss = p3o_loss(new, new, pair(-1.5, -1.7), torch.tensor([[3.0, 1.0]]).double(), ONE, beta=0.5, clip=0.2)
    assert loss.value.item() == pytest.approx(-0.64, abs=EXACT)
    assert loss.metrics["reward_margin"].item() == 2
    assert loss.metrics["weight"].item() == 1
    assert loss.metrics["clip_fraction"].item() == 0


def test_gradient_by_hand_raises_the_better_answer_and_lowers_the_worse() -> None:
    new = pair(-1.0, -2.0).requires_grad_()
    reward = torch.tensor([[3.0, 1.0]], dtype=torch.float64)
    p3o_loss(new, new.detach(), pair(-1.5, -1.7), reward, ONE, beta=0.5, clip=0.2).value.backward()
    assert new.grad.flatten().tolist() == pytest.approx([-0.8, 0.8], abs=EXACT)


@pytest.mark.parametrize(
    ("move", "value", "gradient"),
    # the better answer has risen by 0.5 > 0.2: held at 0.2, no gradient. It has fallen by 0.5: free.
    # w = exp(0.5), q = 2; -2 exp(0.5) 0.2 / 2.    w = exp(-0.5); -2 exp(-0.5) (-0.5) / 2
    [(0.5, -0.2 * math.exp(0.5), 0.0), (-0.5, 0.5 * math.exp(-0.5), -math.exp(-0.5))],
    ids=["too far", "the wrong way"],
)
def test_the_clip_by_hand(move: float, value: float, gradient: float) -> None:
    new, old = pair(-1.0 + move, -1.0).requires_grad_(), pair(-1.0, -1.0)
    loss = p3o_loss(new, old, old, torch.tensor([[2.0, 0.0]]).double(), ONE, beta=0.0, clip=0.2)
    loss.value.backward()
    assert loss.value.item() == pytest.approx(value, abs=EXACT)
    assert new.grad.flatten().tolist() == pytest.approx([gradient, -gradient], abs=EXACT)
    assert loss.metrics["clip_fraction"].item() == (gradient == 0)


@pytest.mark.parametrize(("move", "weight"), [(3.0, 10.0), (-3.0, 0.1)])
def test_the_importance_weight_stays_between_a_tenth_and_ten(move: float, weight: float) -> None:
    # both answers move alike, so that d = d_old = 1 and q = 2: -2 w / 2
    old = pair(-1.0, -1.0)
    loss = p3o_loss(old + move, old, pair(-2.0, -1.0), torch.tensor([[2.0, 0.0]]).double(), ONE, beta=0.0, clip=0.2)
    assert loss.metrics["weight"].item() == pytest.approx(weight, abs=EXACT)
    assert loss.metrics["weight_clip_fraction"].item() == 1
    # d = (-1 + move + 2) - (-1 + move + 1) = 1
    assert loss.value.item() == pytest.approx(-weight, abs=EXACT)


@pytest.mark.parametrize(("beta", "clip", "noise"), [(0.0, 0.2, 0.1), (0.3, 0.2, 0.3), (1.0, 5.0, 1.0)])
def test_loss_and_gradient_equal_plain_python(beta: float, clip: float, noise: float) -> None:
    new, *rest = random_batch(noise)
    new.requires_grad_()
    loss = p3o_loss(new, *rest, beta=beta, clip=clip)
    loss.value.backward()
    value, gradient = by_loops(new.detach(), *rest, beta, clip)
    assert loss.value.item() == pytest.approx(value, rel=EXACT)
    expected = torch.tensor(gradient, dtype=torch.float64)[:, :, None] * rest[-1]
    assert torch.allclose(new.grad, expected, atol=EXACT, rtol=0)


def test_a_constant_added_to_every_reward_of_a_prompt_changes_nothing() -> None:
    new, old, ref, reward, mask = random_batch()
    new.requires_grad_()
    shift = torch.tensor([0.0, 1.0, -7.0, 30.0, 2.0, 5.0], dtype=torch.float64)[:, None]
    found, expected = (p3o_loss(new, old, ref, r, mask, beta=0.1, clip=0.2).value for r in (reward + shift, reward))
    assert found.item() == pytest.approx(expected.item(), abs=EXACT)
    gradients = [torch.autograd.grad(value, new)[0] for value in (found, expected)]
    assert torch.allclose(*gradients, atol=EXACT, rtol=0)


def test_which_answer_comes_first_does_not_matter() -> None:
    batch = random_batch()
    swapped = [part.flip(1) for part in batch]
    found, expected = (p3o_loss(*part, beta=0.1, clip=0.2) for part in (swapped, batch))
    assert found.value.item() == pytest.approx(expected.value.item(), abs=EXACT)


def test_without_kl_its_gradient_on_own_samples_is_that_of_rloo_with_two_answers() -> None:
    new, _, ref, reward, mask = random_batch()
    new.requires_grad_()
    found = p3o_loss(new, new.detach(), ref, reward, mask, beta=0.0, clip=0.2).value
    flat = [part.flatten(0, 1) for part in (new, new.detach(), leave_one_out(reward)[..., None], mask)]
    expected = rloo_loss(flat[0], flat[1], flat[2][:, 0], flat[3], clip=0.2).value
    gradients = [torch.autograd.grad(value, new)[0] for value in (found, expected)]
    assert torch.allclose(*gradients, atol=EXACT, rtol=0)


def test_gradient_is_zero_at_the_reference_times_exp_of_reward_over_beta() -> None:
    reward = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    ref = torch.tensor([[0.7, 0.2]], dtype=torch.float64).log()
    new = (ref + reward / 0.5 - 3.0)[..., None].requires_grad_()  # -3 stands for the normaliser
    p3o_loss(new, new.detach(), ref[..., None], reward, ONE, beta=0.5, clip=0.2).value.backward()
    assert new.grad.abs().max().item() == pytest.approx(0, abs=EXACT)


def test_microbatches_add_up_and_their_order_does_not_matter() -> None:
    batch = random_batch()
    whole = p3o_loss(*batch, beta=0.1, clip=0.2)
    rows = ([3, 5], [0], [4, 2, 1])
    parts = [p3o_loss(*(part[row] for part in batch), beta=0.1, clip=0.2, num_pairs=6) for row in rows]
    assert sum(part.value for part in parts).item() == pytest.approx(whole.value.item(), abs=EXACT)
    for name, metric in whole.metrics.items():
        assert sum(part.metrics[name] for part in parts).item() == pytest.approx(metric.item(), abs=EXACT)
        assert not metric.requires_grad


def test_what_stands_in_the_padding_does_not_matter() -> None:
    new, old, ref, reward, mask = random_batch()
    dirty = [part.masked_fill(~mask, math.nan) for part in (new, old, ref)]
    found = p3o_loss(*dirty, reward, mask, beta=0.1, clip=0.2).value.item()
    assert found == pytest.approx(by_loops(new, old, ref, reward, mask, 0.1, 0.2)[0], rel=EXACT)
