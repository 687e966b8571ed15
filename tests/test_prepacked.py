"""Linear layers with rearranged weights: the same products, for as long as it is asked for."""

import pytest
import torch
from torch import nn

from starling import prepacked as module
from starling.prepacked import prepacked

needs_kernel = pytest.mark.skipif(not module._has_kernel(), reason="this processor or PyTorch has no bfloat16 kernel")


def layers(dtype: torch.dtype = torch.bfloat16) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 96), nn.SiLU(), nn.Linear(96, 32, bias=False)).to(dtype)


def rows(count: int) -> torch.Tensor:
    return torch.randn(count, 64, generator=torch.Generator().manual_seed(1)).bfloat16()


@needs_kernel
@pytest.mark.parametrize("count", [1, 7, 64, 300])
def test_products_are_the_same_bit_for_bit(count: int) -> None:
    model = layers()
    with torch.inference_mode():
        expected = model(rows(count))
        with prepacked(model):
            assert torch.equal(model(rows(count)), expected)


@needs_kernel
def test_the_weights_at_the_beginning_are_what_multiplies() -> None:
    layer = nn.Linear(64, 8, bias=False).bfloat16()
    with torch.inference_mode():
        before = layer(rows(3))
        with prepacked(layer):
            layer.weight.zero_()
            assert torch.equal(layer(rows(3)), before)
        assert layer(rows(3)).abs().max() == 0


def test_where_a_gradient_is_asked_for_it_flows() -> None:
    model = layers()
    with prepacked(model):
        model(rows(5)).sum().backward()
    assert all(weight.grad is not None for weight in model.parameters())


def test_other_precisions_and_autocast_are_left_alone() -> None:
    model = layers(torch.float32)
    expected = model(rows(5).float())
    with prepacked(model):
        assert all("forward" not in vars(layer) for layer in model)
        assert torch.equal(model(rows(5).float()), expected)


def test_an_error_leaves_the_layers_as_they_were() -> None:
    model = layers()
    with pytest.raises(ZeroDivisionError), prepacked(model):
        raise ZeroDivisionError
    assert all("forward" not in vars(layer) for layer in model)


def test_within_another_nothing_is_done_twice() -> None:
    model = layers()
    with prepacked(model):
        outer = [vars(layer).get("forward") for layer in model]
        with prepacked(model):
            assert [vars(layer).get("forward") for layer in model] == outer
        assert [vars(layer).get("forward") for layer in model] == outer
