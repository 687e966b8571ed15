"""Norms and MLPs that keep less for the backward pass: what is cheap to make again is made again.

Of a Llama-like block in bfloat16 autocast, norms and MLP keep three quarters of all that the backward pass needs. The
values of the forward pass are the same bit for bit; without gradients, and in families not listed here, transformers'
own code runs.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# Families of transformers whose norm is weight * x / rms(x), and whose MLP is down(act(gate(x)) * up(x)).
_NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")
_MLPS = ("LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP", "GemmaMLP", "Gemma2MLP", "Gemma3MLP")
# Norms whose output is read by linear layers alone, which under autocast round it in any case.
_BEFORE_LINEAR = ("input_layernorm", "post_attention_layernorm")
_CACHED = 2**17  # numbers at a time: of float32 half a MiB


def enable(model: nn.Module) -> None:
    """Let the norms and MLPs of known families keep less; weights, names and copies of modules stay as they are."""
    for name, module in model.named_modules():
        family = type(module).__name__
        if family in _NORMS:
            module.__class__ = _lean(type(module), LeanNorm)
            module._before_linear = name.rpartition(".")[2] in _BEFORE_LINEAR
        elif family in _MLPS:
            module.__class__ = _lean(type(module), LeanMLP)


def _lean(family: type, way: type) -> type:
    return type(f"Lean{family.__name__}", (way, family), {})


class LeanNorm(nn.Module):
    """An RMS norm that keeps its input, and of each row what it was multiplied by."""

    weight: nn.Parameter
    variance_epsilon: float
    _before_linear: bool

    def forward(self, hidden_states: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return super().forward(hidden_states)
        device = hidden_states.device.type
        rounded = self._before_linear and torch.is_autocast_enabled(device)
        low = torch.get_autocast_dtype(device) if rounded else None
        return _RMSNorm.apply(hidden_states, self.weight, self.variance_epsilon, low)


class LeanMLP(nn.Module):
    """A gated MLP that keeps its input, gate and up; not what comes of them, nor a rounded copy of the last weights."""

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module
    act_fn: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        plain = type(self.down_proj) is nn.Linear and self.down_proj.bias is None  # no adapter, nothing else to add
        if not (torch.is_grad_enabled() and plain):
            return super().forward(x)
        return _GatedDown.apply(self.gate_proj(x), self.up_proj(x), self.down_proj.weight, self.act_fn)


class _RMSNorm(torch.autograd.Function):
    """weight * x / sqrt(mean(x^2) + eps) over the last axis, in float32 and given back in `low`, if there is one.

    Some rows at a time, so that what is between input and output stays in the processor's cache.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, low: torch.dtype | None) -> Tensor:
        found = x.new_empty(x.shape, dtype=low or torch.promote_types(x.dtype, weight.dtype))
        scales = x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)
        for rows, out, scale in _some_rows(x, found, scales):
            exact = rows.float()
            torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + eps, out=scale)
            out.copy_(weight * (exact * scale).to(x.dtype))
        ctx.save_for_backward(x, weight, scales)
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scales = ctx.saved_tensors
        exact_weight = weight.float()
        of_x, of_weight = x.new_empty(x.shape), torch.zeros_like(exact_weight)
        for rows, grad, out, scale in _some_rows(x, grads[0], of_x, scales):
            unit = rows.float() * scale
            term = grad * unit
            of_weight += term.sum(0)
            mean = (term @ exact_weight).div_(len(weight)).unsqueeze(-1)
            out.copy_((grad * exact_weight).addcmul_(unit, mean, value=-1).mul_(scale))
        return of_x, of_weight.to(weight.dtype), None, None


def _some_rows(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The same rows of all tensors: as many as a processor's cache holds, all of them elsewhere. Those of a contiguous
    tensor are views."""
    width = tensors[0].shape[-1]
    rows = max(_CACHED // width, 1) if tensors[0].device.type == "cpu" else max(tensors[0].numel() // width, 1)
    return zip(*(tensor.flatten(0, -2).split(rows) for tensor in tensors), strict=True)


class _GatedDown(torch.autograd.Function):
    """(act(gate) * up) times the transposed weight."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, weight: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(gate, up, weight)
        ctx.act = act
        with torch.autocast(gate.device.type, enabled=False):
            return functional.linear(act(gate).mul_(up), weight.to(gate.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gate, up, weight = ctx.saved_tensors
        (grad,) = grads
        of_gate = of_up = of_weight = None
        with torch.enable_grad():
            gate = gate.detach().requires_grad_()
            active = ctx.act(gate)
        if ctx.needs_input_grad[2]:
            inner = (active.detach() * up).flatten(0, -2)
            of_weight = (grad.flatten(0, -2).T @ inner).to(weight.dtype)
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            of_inner = grad @ weight.to(grad.dtype)
            of_up = of_inner * active.detach()
            (of_gate,) = torch.autograd.grad(active, gate, of_inner.mul_(up))
        return of_gate, of_up, of_weight, None
