"""Linear layers that multiply with weights laid out as the processor's kernel reads them.

In bfloat16 on CPU oneDNN rearranges a layer's weight at every call, which for the few rows of a decoding step costs as
much as the product itself. Here that happens once. The products are the same bit for bit.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

_ROWS = 64  # the layout is chosen for about so many; it serves any number


@contextmanager
def prepacked(model: nn.Module) -> Iterator[None]:
    """For as long as it lasts, and where no gradient is asked for, the model's linear layers use rearranged copies of
    their weights as they are now; where there is no such kernel nothing changes."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear) and _fits(layer)]
    try:
        for layer in layers:
            vars(layer)["forward"] = _forward(layer)  # of this module alone
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def _has_kernel() -> bool:
    """Whether PyTorch was built with the operators that its own compiler uses for this."""
    kernels = torch.ops.mkldnn
    wanted = ("_is_mkldnn_bf16_supported", "_reorder_linear_weight", "_linear_pointwise")
    return all(hasattr(kernels, name) for name in wanted) and kernels._is_mkldnn_bf16_supported()


def _fits(layer: nn.Linear) -> bool:
    own = type(layer) is nn.Linear and "forward" not in vars(layer)
    return own and layer.weight.dtype == torch.bfloat16 and layer.weight.device.type == "cpu" and _has_kernel()


def _forward(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), _ROWS)

    def forward(x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or x.dtype != torch.bfloat16:
            return functional.linear(x, layer.weight, layer.bias)
        return torch.ops.mkldnn._linear_pointwise(x, weight, layer.bias, "none", [], "")

    return forward
