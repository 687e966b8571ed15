"""Log-probabilities of given tokens."""

import math

import pytest
import torch
from tolerances import CLOSE

from starling.losses.logprobs import token_logprobs


def test_logprob_by_hand() -> None:
    # exp(logits) = 1, 3: probabilities 1/4 and 3/4
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
    expected = [math.log(1 / 4), math.log(3 / 4)]
    assert token_logprobs(logits, torch.tensor([0, 1])).tolist() == pytest.approx(expected, abs=CLOSE)


def test_temperature_divides_the_logits() -> None:
    # exp(2 log 3 / 2) = 3: probability 3/4 at temperature 2; 9/10 at temperature 1
    logits, token = torch.tensor([[0.0, 2 * math.log(3)]]), torch.tensor([1])
    assert token_logprobs(logits, token, 2.0).item() == pytest.approx(math.log(3 / 4), abs=CLOSE)
    assert token_logprobs(logits, token, 1.0).item() == pytest.approx(math.log(9 / 10), abs=CLOSE)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_probabilities_of_all_tokens_sum_to_one(temperature: float) -> None:
    logits = torch.randn(1, 11).expand(11, 11) * 4
    assert token_logprobs(logits, torch.arange(11), temperature).exp().sum().item() == pytest.approx(1, abs=CLOSE)


def test_a_constant_added_to_the_logits_changes_nothing() -> None:
    logits, token = torch.randn(6, 9), torch.randint(9, (6,))
    assert torch.allclose(token_logprobs(logits + 5, token), token_logprobs(logits, token), atol=CLOSE)


def test_rows_are_independent_of_each_other() -> None:
    logits, token, order = torch.randn(6, 9), torch.randint(9, (6,)), torch.randperm(6)
    assert torch.equal(token_logprobs(logits[order], token[order]), token_logprobs(logits, token)[order])


def test_large_logits_stay_finite() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0]])
    assert token_logprobs(logits, torch.tensor([0])).item() == pytest.approx(0, abs=CLOSE)
    assert token_logprobs(logits, torch.tensor([1])).item() == pytest.approx(-2e4)


def test_bfloat16_logits_are_computed_in_float32() -> None:
    logits, token = (torch.randn(20, 300) * 3).bfloat16(), torch.randint(300, (20,))
    result = token_logprobs(logits, token, 0.7)
    wide = logits.double() / 0.7
    expected = [
        math.log(math.exp(row[t]) / sum(map(math.exp, row))) for row, t in zip(wide.tolist(), token, strict=True)
    ]
    assert result.dtype == torch.float32
    assert result.tolist() == pytest.approx(expected, abs=CLOSE)


def test_gradient_is_one_for_the_token_less_the_probabilities() -> None:
    logits = torch.tensor([[0.0, math.log(3)]], requires_grad=True)
    token_logprobs(logits, torch.tensor([1])).sum().backward()
    # d log p_1 / d logits = (0, 1) - (1/4, 3/4)
    assert logits.grad[0].tolist() == pytest.approx([-0.25, 0.25], abs=CLOSE)
