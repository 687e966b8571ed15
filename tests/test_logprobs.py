"""Log-probabilities of given tokens."""

import math

import pytest
import torch
from tolerances import CLOSE

from starling.losses.logprobs import ROWS, head_logprobs, token_logprobs


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


def head(num_rows: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, a head of 37 tokens, and a token for each row."""
    hidden = torch.randn(num_rows, 8, dtype=dtype).requires_grad_()
    return hidden, torch.randn(37, 8, dtype=dtype), torch.randint(37, (num_rows,))


def test_the_heads_gradient_by_hand() -> None:
    # logits = (0, log 3 x): at x = 1 probabilities 1/4 and 3/4;
    # d log p(0) / dx = 0 - 3/4 log 3, d log p(1) / dx = log 3 - 3/4 log 3
    hidden = torch.ones(2, 1, requires_grad=True)
    found = head_logprobs(hidden, torch.tensor([[0.0], [math.log(3)]]), torch.tensor([0, 1]))
    assert found.tolist() == pytest.approx([math.log(1 / 4), math.log(3 / 4)], abs=CLOSE)
    found.sum().backward()
    assert hidden.grad[:, 0].tolist() == pytest.approx([-3 / 4 * math.log(3), math.log(3) / 4], abs=CLOSE)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("num_rows", [1, ROWS, 2 * ROWS + 3])
def test_without_the_logits_values_and_gradients_are_those_of_the_logits(num_rows: int, temperature: float) -> None:
    hidden, weight, token = head(num_rows)
    upstream = torch.randn(num_rows)
    expected = token_logprobs(hidden @ weight.T, token, temperature)
    (of_logits,) = torch.autograd.grad((expected * upstream).sum(), hidden)
    found = head_logprobs(hidden, weight, token, temperature)
    (gradient,) = torch.autograd.grad((found * upstream).sum(), hidden)
    assert found.dtype == torch.float32 and gradient.dtype == torch.float64
    assert torch.allclose(found, expected, atol=CLOSE)
    assert torch.allclose(gradient, of_logits, atol=CLOSE)


def test_in_bfloat16_both_ways_are_as_far_from_the_exact_gradient() -> None:
    hidden, weight, token = head(50)
    (exact,) = torch.autograd.grad(token_logprobs(hidden @ weight.T, token).sum(), hidden)
    low, low_weight = hidden.detach().bfloat16().requires_grad_(), weight.bfloat16()
    (usual,) = torch.autograd.grad(token_logprobs(low @ low_weight.T, token).sum(), low)
    (found,) = torch.autograd.grad(head_logprobs(low, low_weight, token).sum(), low)
    assert (found - exact).norm() < 1.1 * (usual - exact).norm()


@pytest.mark.parametrize("probability", [0.5, 0.9, 0.99, 0.997, 0.999, 0.99999])
def test_in_bfloat16_a_confident_token_keeps_its_gradient(probability: float) -> None:
    torch.manual_seed(0)
    weight = torch.randn(500, 64).bfloat16()
    token = torch.tensor([7])
    others = torch.randn(1, 64).bfloat16()
    low, high = 0.0, 100.0
    for _ in range(60):  # how far along the token's own row the hidden state must be for that probability
        size = (low + high) / 2
        hidden = (others.float() + size * weight[token].float() / weight[token].float().norm()).bfloat16()
        found = token_logprobs(hidden.double() @ weight.double().T, token).exp().item()
        low, high = (size, high) if found < probability else (low, size)
    hidden = hidden.requires_grad_()
    exactly = hidden.detach().double().requires_grad_()
    (exact,) = torch.autograd.grad(token_logprobs(exactly @ weight.double().T, token, 1.0).sum(), exactly)
    (found,) = torch.autograd.grad(head_logprobs(hidden, weight, token).sum(), hidden)
    assert (found.double() - exact).norm() < 0.15 * exact.norm()


def test_large_logits_of_a_head_stay_finite() -> None:
    found = head_logprobs(torch.tensor([[1e4]]), torch.tensor([[1.0], [-1.0]]), torch.tensor([1]))
    assert found.item() == pytest.approx(-2e4)


def test_nothing_of_the_vocabularys_size_is_kept() -> None:
    hidden, weight, token = head(200)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        head_logprobs(hidden, weight, token)
    assert kept == [200 * 8]
