"""Attention written out."""

import math

import pytest
import torch
from tolerances import CLOSE
from torch.nn.functional import scaled_dot_product_attention

from starling.attention import Rule, written_out


def tensors(queries: int, keys: int) -> tuple[torch.Tensor, ...]:
    return torch.randn(1, 2, queries, 4), torch.randn(1, 2, keys, 4), torch.randn(1, 2, keys, 4)


def test_written_out_attention_is_the_fused_one_where_that_knows_the_rule() -> None:
    query, key, value = tensors(6, 6)
    expected = scaled_dot_product_attention(query, key, value, is_causal=True, scale=0.7)
    assert torch.allclose(written_out(query, key, value, Rule(0.7)), expected, atol=CLOSE)
    # the last tokens alone, which see those before them too
    assert torch.allclose(written_out(query[:, :, 4:], key, value, Rule(0.7)), expected[:, :, 4:], atol=CLOSE)


def test_a_window_by_hand() -> None:
    # all scores are 0, so a token takes the mean of what it sees: of values 1, 2, 4, 8 the last two
    zero, value = torch.zeros(1, 1, 4, 1), torch.tensor([1.0, 2.0, 4.0, 8.0]).view(1, 1, 4, 1)
    found = written_out(zero, zero, value, Rule(1.0, window=2))
    assert found.flatten().tolist() == [1.0, 1.5, 3.0, 6.0]
    assert written_out(zero[:, :, 3:], zero, value, Rule(1.0, window=3)).item() == pytest.approx(14 / 3)


def test_a_cap_by_hand() -> None:
    # products 0 and 6, scaled to 0 and 3, capped at 2: 2 tanh(0) = 0 and 2 tanh(3 / 2); values 0 and 1
    query, key = torch.tensor([2.0]).view(1, 1, 1, 1), torch.tensor([0.0, 3.0]).view(1, 1, 2, 1)
    value = torch.tensor([0.0, 1.0]).view(1, 1, 2, 1)
    capped = 2 * math.tanh(3 / 2)
    found = written_out(query, key, value, Rule(0.5, softcap=2.0)).item()
    assert abs(found - 1 / (1 + math.exp(-capped))) < CLOSE


def test_the_result_has_the_type_of_the_values() -> None:
    query, key, value = (tensor.bfloat16() for tensor in tensors(3, 5))
    assert written_out(query, key, value, Rule(1.0)).dtype == torch.bfloat16


def test_autocast_around_it_changes_nothing() -> None:
    given = tensors(3, 5)
    with torch.autocast("cpu", torch.bfloat16):
        within = written_out(*given, Rule(1.0))
    assert torch.equal(within, written_out(*given, Rule(1.0)))
