"""Norms and MLPs that keep less for the backward pass: the same values, gradients as exact, less memory."""

import copy

import pytest
import torch
from packed_groups import small
from torch import nn
from transformers import (
    AutoModel,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from starling import lean

FAMILIES = {
    "llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config, "gemma": GemmaConfig,
    "gemma 2": Gemma2Config, "gemma 3": Gemma3TextConfig,
}  # fmt: skip
IDS = torch.arange(2, 50).view(2, 24)


def pair(family: str) -> tuple[nn.Module, nn.Module]:
    """A random model as transformers has it, and the same with lean norms and MLPs."""
    plain = AutoModel.from_config(FAMILIES[family](**small()))
    for name, weight in plain.named_parameters():
        if "norm" in name:
            nn.init.uniform_(weight, 0.5, 1.5)
    changed = copy.deepcopy(plain)
    lean.enable(changed)
    return plain.train(), changed.train()


def states(network: nn.Module, autocast: bool = False) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        return network(IDS, use_cache=False).last_hidden_state


def gradients(network: nn.Module, autocast: bool = False) -> dict[str, torch.Tensor]:
    network.zero_grad()
    (states(network, autocast).float() * torch.linspace(-1, 1, 24)[:, None]).sum().backward()
    return {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_forward_pass_gives_the_same_bits(family: str, autocast: bool) -> None:
    plain, changed = pair(family)
    assert torch.equal(states(plain, autocast), states(changed, autocast))


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_transformers(family: str) -> None:
    plain, changed = pair(family)
    expected, found = gradients(plain), gradients(changed)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, rtol=1e-4, atol=1e-4 * gradient.abs().max().item()), name


def test_gradients_under_autocast_are_no_further_from_the_exact_ones() -> None:
    plain, changed = pair("llama")
    exact, usual, found = gradients(plain), gradients(plain, autocast=True), gradients(changed, autocast=True)
    usual_error = sum((usual[name] - exact[name]).norm() / exact[name].norm() for name in exact)
    error = sum((found[name] - exact[name]).norm() / exact[name].norm() for name in exact)
    assert error < 1.1 * usual_error


@pytest.mark.parametrize("frozen", ["weights of the norms", "weights of the MLPs", "all but the last block"])
def test_what_is_frozen_gets_no_gradient_and_what_is_not_the_same(frozen: str) -> None:
    plain, changed = pair("llama")
    for network in (plain, changed):
        for name, weight in network.named_parameters():
            hit = {"weights of the norms": "norm" in name, "weights of the MLPs": "mlp" in name}
            weight.requires_grad_(not hit.get(frozen, "layers.1" not in name))
    expected, found = gradients(plain), gradients(changed)
    assert expected.keys() == found.keys()
    assert all(torch.allclose(found[name], expected[name], rtol=1e-4, atol=1e-5) for name in expected)


def kept_bytes(network: nn.Module) -> int:
    """Bytes of all tensors that the backward pass keeps, weights left out."""
    weights = {weight.untyped_storage().data_ptr() for weight in network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        held = states(network, autocast=True)  # noqa: F841  # what is freed could lend its address to another
    return sum(kept.values())


def test_a_norm_of_more_rows_than_the_cache_holds_gives_the_same_bits_and_gradients() -> None:
    plain, changed = pair("llama")
    width = plain.config.hidden_size
    rows = 2 * lean._CACHED // width + 5  # two full pieces, and a small one
    apart = torch.randn(rows, 2, width)[:, 0]  # its rows do not lie side by side
    inputs = [apart.detach().requires_grad_() for _ in range(2)]
    found = [network.norm(x[None]) for network, x in zip((plain, changed), inputs, strict=True)]
    assert torch.equal(*found)
    for output in found:
        output.square().sum().backward()
    assert torch.allclose(inputs[0].grad, inputs[1].grad, rtol=1e-4, atol=1e-5)
    weight, expected = changed.norm.weight.grad, plain.norm.weight.grad
    assert torch.allclose(weight, expected, rtol=1e-4)


def test_a_third_less_is_kept_for_the_backward_pass() -> None:
    plain, changed = pair("llama")
    assert kept_bytes(changed) < 0.67 * kept_bytes(plain)


def test_an_adapter_in_an_mlp_is_not_passed_over() -> None:
    _, changed = pair("llama")

    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    mlp = changed.layers[0].mlp
    x = torch.randn(3, mlp.gate_proj.in_features)
    before = mlp(x)
    mlp.down_proj.__class__ = Doubled
    assert torch.allclose(mlp(x), 2 * before)


def test_a_copy_of_a_lean_module_is_lean_and_has_its_own_weights() -> None:
    _, changed = pair("llama")
    again = copy.deepcopy(changed.layers[0])
    assert isinstance(again.mlp, lean.LeanMLP) and isinstance(again.input_layernorm, lean.LeanNorm)
    nn.init.zeros_(again.mlp.down_proj.weight)
    assert changed.layers[0].mlp(torch.ones(1, 1, again.mlp.gate_proj.in_features)).abs().max() > 0


def test_other_families_are_left_alone() -> None:
    class OtherRMSNorm(nn.Module):
        pass

    network = nn.Sequential(OtherRMSNorm(), nn.Linear(2, 2))
    lean.enable(network)
    assert [type(module).__name__ for module in network] == ["OtherRMSNorm", "Linear"]
