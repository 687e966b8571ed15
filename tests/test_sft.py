"""Supervised tuning on the best answers."""

import math

import pytest
import torch
from tolerances import EXACT

from starling.losses.awr import awr_loss
from starling.losses.sft import sft_loss

LOGPROB = torch.tensor([[-1.0, -0.5, -9.0], [-3.0, -9.0, -9.0]], dtype=torch.float64)
MASK = torch.tensor([[True, True, False], [True, False, False]])


def random_batch() -> tuple[torch.Tensor, torch.Tensor]:
    return -torch.randn(4, 5, dtype=torch.float64).abs(), torch.rand(4, 5) < 0.7


def test_loss_by_hand() -> None:
    # (1 + 1/2 + 3) / 3 tokens, not the mean of the answers' means (3/4 + 3) / 2
    assert sft_loss(LOGPROB, MASK).value.item() == pytest.approx(1.5, abs=EXACT)


def test_every_token_that_counts_is_pushed_up_alike() -> None:
    logprob = LOGPROB.clone().requires_grad_()
    sft_loss(logprob, MASK).value.backward()
    assert logprob.grad.flatten().tolist() == pytest.approx([-1 / 3, -1 / 3, 0, -1 / 3, 0, 0], abs=EXACT)


def test_it_is_awr_without_advantages() -> None:
    logprob, mask = random_batch()
    other = awr_loss(logprob, torch.zeros_like(logprob), mask, lam=0.3, clip=20.0)
    assert sft_loss(logprob, mask).value.item() == pytest.approx(other.value.item(), abs=EXACT)


def test_loss_equals_plain_python() -> None:
    logprob, mask = random_batch()
    counted = logprob[mask].tolist()
    assert sft_loss(logprob, mask).value.item() == pytest.approx(-sum(counted) / len(counted), rel=EXACT)


def test_microbatches_add_up_and_their_order_does_not_matter() -> None:
    logprob, mask = random_batch()
    parts = [sft_loss(logprob[i : i + 1], mask[i : i + 1], num_tokens=mask.sum()).value for i in (2, 0, 3, 1)]
    assert sum(parts).item() == pytest.approx(sft_loss(logprob, mask).value.item(), abs=EXACT)


@pytest.mark.parametrize("filler", [1e30, -math.inf, math.nan], ids=["huge", "inf", "nan"])
def test_what_stands_in_the_padding_does_not_matter(filler: float) -> None:
    logprob, mask = random_batch()
    dirty = logprob.masked_fill(~mask, filler).requires_grad_()
    loss = sft_loss(dirty, mask)
    loss.value.backward()
    assert loss.value.item() == pytest.approx(sft_loss(logprob, mask).value.item(), rel=EXACT)
    assert dirty.grad.isfinite().all()


def test_on_samples_of_a_distribution_the_minimiser_is_that_distribution() -> None:
    share = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)  # of ten answers: 5, 3 and 2
    tokens = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)
    logit = share.log().requires_grad_()
    logprob = logit.log_softmax(-1)[tokens][:, None]
    sft_loss(logprob, torch.ones_like(logprob, dtype=torch.bool)).value.backward()
    assert logit.grad.abs().max().item() < EXACT
