"""Sums and means over the tokens that count."""

import math

import pytest
import torch
from tolerances import EXACT

from starling.losses import masked

VALUE = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtype=torch.float64)
MASK = torch.tensor([[True, True, False], [True, False, False]])


def test_mean_is_over_the_counted_tokens_only() -> None:
    # (1 + 2 + 4) / 3
    assert masked.mean(VALUE, MASK).item() == pytest.approx(7 / 3, abs=EXACT)


@pytest.mark.parametrize("num_tokens", [10, 10.0, torch.tensor(10)], ids=["int", "float", "tensor"])
def test_mean_divides_by_the_given_number_of_tokens(num_tokens) -> None:
    # (1 + 2 + 4) / 10
    assert masked.mean(VALUE, MASK, num_tokens).item() == pytest.approx(0.7, abs=EXACT)


def test_mean_over_nothing_is_exactly_zero_with_gradient_zero() -> None:
    value = VALUE.clone().requires_grad_()
    mean = masked.mean(value, torch.zeros_like(MASK))
    mean.backward()
    assert mean.item() == 0
    assert torch.equal(value.grad, torch.zeros_like(VALUE))


def test_mean_gives_each_counted_token_the_same_gradient_and_the_others_none() -> None:
    value = VALUE.clone().requires_grad_()
    masked.mean(value, MASK).backward()
    assert torch.allclose(value.grad, MASK.double() / 3, atol=EXACT, rtol=0)


@pytest.mark.parametrize("filler", [1e30, math.inf, math.nan], ids=["huge", "inf", "nan"])
def test_mean_ignores_whatever_stands_where_nothing_counts(filler: float) -> None:
    value = VALUE.masked_fill(~MASK, filler)
    assert masked.mean(value, MASK).item() == pytest.approx(7 / 3, abs=EXACT)


def test_mean_of_microbatches_adds_up_to_the_mean_of_the_batch() -> None:
    parts = sum(masked.mean(VALUE[row : row + 1], MASK[row : row + 1], 3) for row in range(2))
    assert parts.item() == pytest.approx(7 / 3, abs=EXACT)


def test_sums_are_each_answers_own() -> None:
    # 1 + 2 and 4
    assert masked.sums(VALUE, MASK).tolist() == [3.0, 4.0]


def test_sums_ignore_what_is_masked() -> None:
    assert masked.sums(VALUE.masked_fill(~MASK, math.nan)[None], MASK[None]).tolist() == [[3.0, 4.0]]
