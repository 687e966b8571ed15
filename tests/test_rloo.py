"""REINFORCE with a leave-one-out baseline."""

import itertools
import math

import pytest
import torch
from tolerances import EXACT

from starling.losses.advantage import leave_one_out
from starling.losses.rloo import rloo_loss

LOGPROB = torch.tensor([[-1.0, -2.0, 0.0], [-0.5, 0.0, 0.0]], dtype=torch.float64)
MASK = torch.tensor([[True, True, False], [True, False, False]])


def random_batch() -> tuple[torch.Tensor, ...]:
    old, noise = torch.randn(2, 4, 5, dtype=torch.float64)
    return old + 0.2 * noise, old, torch.randn(4, dtype=torch.float64), torch.rand(4, 5) < 0.7


def by_loops(logprob, old, advantage, mask, clip: float) -> float:
    terms = []
    for row in range(len(mask)):
        ratio = math.prod(math.exp(logprob[row, t] - old[row, t]) for t in range(mask.shape[1]) if mask[row, t])
        a = advantage[row].item()
        terms.append(-a * (min(ratio, 1 + clip) if a > 0 else max(ratio, 1 - clip)))
    return sum(terms) / len(terms)


def test_loss_by_hand() -> None:
    # whole answers' ratios 3 / 2 * 2 = 3 and 1/2; -(min(3, 1.2) * 2 + min(-1/2, -0.8)) / 2 = -(2.4 - 0.8) / 2
    old = LOGPROB - torch.tensor([[1.5, 2.0, 7.0], [0.5, 7.0, 7.0]], dtype=torch.float64).log()
    loss = rloo_loss(LOGPROB, old, torch.tensor([2.0, -1.0], dtype=torch.float64), MASK, clip=0.2)
    assert loss.value.item() == pytest.approx(-0.8, abs=EXACT)
    assert loss.metrics["clip_fraction"].item() == 1
    assert loss.metrics["ratio"].item() == pytest.approx(3.5 / 2, abs=EXACT)


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_a_ratio_past_all_numbers_has_a_loss_and_no_gradient(advantage: float) -> None:
    # 1,000 tokens that are each .1 nats likelier: e^100, which float32 does not have
    logprob = torch.full((1, 1000), -0.9, requires_grad=True)
    mask = torch.ones(1, 1000, dtype=torch.bool)
    loss = rloo_loss(logprob, torch.full((1, 1000), -1.0), torch.tensor([advantage]), mask, clip=0.2)
    loss.value.backward()
    assert loss.value.isfinite()
    assert advantage < 0 or loss.value.item() == pytest.approx(-1.2)
    assert logprob.grad.eq(0).all()


def test_of_two_answers_each_token_gets_half_the_difference_of_rewards() -> None:
    logprob = LOGPROB.clone().requires_grad_()
    advantage = leave_one_out(torch.tensor([[3.0, 1.0]], dtype=torch.float64))[0]  # 3 - 1 and 1 - 3
    rloo_loss(logprob, LOGPROB, advantage, MASK, clip=0.2).value.backward()
    assert logprob.grad.flatten().tolist() == pytest.approx([-1.0, -1.0, 0.0, 1.0, 0.0, 0.0], abs=EXACT)


def test_mean_gradient_over_all_samples_is_that_of_the_expected_reward() -> None:
    reward = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    logits = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64, requires_grad=True)
    logprob = logits.log_softmax(0)
    expected = torch.autograd.grad(-(logprob.exp() * reward).sum(), logits, retain_graph=True)[0]
    loss = torch.zeros((), dtype=torch.float64)
    for arms in itertools.product(range(3), repeat=2):
        new = logprob[list(arms)][:, None]
        advantage = leave_one_out(reward[list(arms)][None])[0]
        chance = new.sum().exp().detach()
        loss = loss + chance * rloo_loss(new, new.detach(), advantage, torch.ones(2, 1).bool(), clip=0.2).value
    found = torch.autograd.grad(loss, logits)[0]
    assert found.tolist() == pytest.approx(expected.tolist(), abs=EXACT)


@pytest.mark.parametrize("clip", [0.1, 0.5])
def test_loss_equals_plain_python(clip: float) -> None:
    batch = random_batch()
    assert rloo_loss(*batch, clip=clip).value.item() == pytest.approx(by_loops(*batch, clip), rel=EXACT)


def test_gradient_equals_finite_differences() -> None:
    logprob, *rest = random_batch()
    logprob.requires_grad_()
    rloo_loss(logprob, *rest, clip=0.5).value.backward()
    step = 1e-6
    for row, column in itertools.product(range(4), (0, 3)):
        nudge = torch.zeros_like(logprob)
        nudge[row, column] = step
        up, down = (by_loops(logprob.detach() + sign * nudge, *rest, 0.5) for sign in (1, -1))
        assert logprob.grad[row, column].item() == pytest.approx((up - down) / (2 * step), abs=1e-8)


def test_microbatches_add_up_and_their_order_does_not_matter() -> None:
    batch = random_batch()
    whole = rloo_loss(*batch, clip=0.2)
    parts = [rloo_loss(*(part[i : i + 1] for part in batch), clip=0.2, num_answers=4) for i in (2, 0, 3, 1)]
    assert sum(part.value for part in parts).item() == pytest.approx(whole.value.item(), abs=EXACT)
    for name, metric in whole.metrics.items():
        assert sum(part.metrics[name] for part in parts).item() == pytest.approx(metric.item(), abs=EXACT)


@pytest.mark.parametrize("filler", [1e30, math.nan], ids=["huge", "nan"])
def test_what_stands_in_the_padding_does_not_matter(filler: float) -> None:
    logprob, old, advantage, mask = random_batch()
    dirty = [part.masked_fill(~mask, filler) for part in (logprob, old)]
    found = rloo_loss(*dirty, advantage, mask, clip=0.2).value.item()
    assert found == pytest.approx(by_loops(logprob, old, advantage, mask, 0.2), rel=EXACT)
