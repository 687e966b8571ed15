"""Advantage-weighted regression."""

import math

import pytest
import torch
from tolerances import EXACT

from starling.losses.awr import awr_loss

LOGPROB = torch.tensor([[-1.0, -0.5, -3.0]], dtype=torch.float64)
ADVANTAGE = torch.tensor([[2.0, -4.0, 50.0]], dtype=torch.float64) * math.log(2)
MASK = torch.tensor([[True, True, False]])


def random_batch() -> tuple[torch.Tensor, ...]:
    logprob, advantage = torch.randn(2, 4, 5, dtype=torch.float64)
    return -logprob.abs(), advantage, torch.rand(4, 5) < 0.7


def by_loops(logprob, advantage, mask, lam: float, clip: float) -> float:
    rows = zip(logprob[mask].tolist(), advantage[mask].tolist(), strict=True)
    terms = [min(math.exp(a / lam), clip) * -new for new, a in rows]
    return sum(terms) / len(terms)


def test_loss_by_hand() -> None:
    # lam 2: weights exp(log 2) = 2 and exp(-2 log 2) = 1/4; (2 * 1 + 1/4 * 1/2) / 2 = 17/16
    loss = awr_loss(LOGPROB, ADVANTAGE, MASK, lam=2.0, clip=20.0)
    assert loss.value.item() == pytest.approx(17 / 16, abs=EXACT)
    assert loss.metrics["weight"].item() == pytest.approx(9 / 8, abs=EXACT)
    assert loss.metrics["weight_clip_fraction"].item() == 0


def test_a_clipped_weight_by_hand() -> None:
    # lam 1: weights exp(2 log 2) = 4 -> 3 and 1/16; (3 * 1 + 1/16 * 1/2) / 2 = 97/64; half of the tokens are clipped
    loss = awr_loss(LOGPROB, ADVANTAGE, MASK, lam=1.0, clip=3.0)
    assert loss.value.item() == pytest.approx(97 / 64, abs=EXACT)
    assert loss.metrics["weight"].item() == pytest.approx((3 + 1 / 16) / 2, abs=EXACT)
    assert loss.metrics["weight_clip_fraction"].item() == pytest.approx(0.5, abs=EXACT)


def test_gradient_is_minus_the_weight_over_the_number_of_tokens() -> None:
    logprob = LOGPROB.clone().requires_grad_()
    awr_loss(logprob, ADVANTAGE, MASK, lam=2.0, clip=20.0).value.backward()
    assert logprob.grad[0].tolist() == pytest.approx([-1.0, -1 / 8, 0.0], abs=EXACT)


def test_without_advantage_it_is_the_likelihood_of_the_samples() -> None:
    logprob, advantage, mask = random_batch()
    found = awr_loss(logprob, torch.zeros_like(advantage), mask, lam=0.3, clip=20.0).value.item()
    assert found == pytest.approx(-logprob[mask].mean().item(), abs=EXACT)


@pytest.mark.parametrize(("lam", "clip"), [(0.5, 20.0), (2.0, 1.5), (1.0, math.inf)])
def test_loss_equals_plain_python(lam: float, clip: float) -> None:
    batch = random_batch()
    assert awr_loss(*batch, lam=lam, clip=clip).value.item() == pytest.approx(by_loops(*batch, lam, clip), rel=EXACT)


def test_the_advantage_gets_no_gradient() -> None:
    logprob, advantage, mask = random_batch()
    awr_loss(logprob.requires_grad_(), advantage.requires_grad_(), mask, lam=1.0, clip=20.0).value.backward()
    assert advantage.grad is None


def test_microbatches_add_up_and_their_order_does_not_matter() -> None:
    batch = random_batch()
    total = batch[-1].sum()
    whole = awr_loss(*batch, lam=0.5, clip=3.0)
    parts = [awr_loss(*(part[i : i + 1] for part in batch), lam=0.5, clip=3.0, num_tokens=total) for i in (2, 0, 3, 1)]
    assert sum(part.value for part in parts).item() == pytest.approx(whole.value.item(), abs=EXACT)
    for name, metric in whole.metrics.items():
        assert sum(part.metrics[name] for part in parts).item() == pytest.approx(metric.item(), abs=EXACT)


@pytest.mark.parametrize("filler", [1e30, math.inf, math.nan], ids=["huge", "inf", "nan"])
def test_what_stands_in_the_padding_does_not_matter(filler: float) -> None:
    logprob, advantage, mask = random_batch()
    dirty = [part.masked_fill(~mask, filler).requires_grad_() for part in (logprob, advantage)]
    loss = awr_loss(*dirty, mask, lam=0.5, clip=3.0)
    loss.value.backward()
    assert loss.value.item() == pytest.approx(by_loops(logprob, advantage, mask, 0.5, 3.0), rel=EXACT)
    assert dirty[0].grad.isfinite().all()
