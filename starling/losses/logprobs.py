"""Log-probabilities of given tokens."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 128  # of the vocabulary's logits at a time, in buffers used again: on CPU, memory costs more to map than to fill


def token_logprobs(logits_NV: Tensor, token_N: Tensor, temperature: float = 1.0) -> Tensor:
    """log p(token) for each row under softmax(logits / temperature), in float32: (N, V), (N,) -> (N,)."""
    scaled_NV = logits_NV.float()
    if temperature != 1.0:
        scaled_NV = scaled_NV / temperature
    return -F.cross_entropy(scaled_NV, token_N, reduction="none")


def head_logprobs(hidden_NH: Tensor, weight_VH: Tensor, token_N: Tensor, temperature: float = 1.0) -> Tensor:
    """`token_logprobs` of the logits hidden @ weight^T, of which never more than `ROWS` rows exist: -> (N,).

    The products are in the weight's dtype, the softmax in float32. The weight is frozen: only the hidden states get a
    gradient. It is known in the forward pass already, so that in place of the logits only its slope is kept, (N, H):

        d log p(token) / d hidden = sum_v ([v = token] - p(v)) weight[v] / temperature

    The 1 is taken off before anything is rounded: of a token whose p is near 1, the rest is all that is learnt.
    """
    return _HeadLogprobs.apply(hidden_NH, weight_VH, token_N, temperature)


class _HeadLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, token_N: Tensor, temperature: float) -> Tensor:
        assert not ctx.needs_input_grad[1], "the head is frozen"
        rows = min(ROWS, len(hidden_NH))
        logits_RV = weight_VH.new_empty(rows, len(weight_VH))
        exact_RV = torch.empty(logits_RV.shape, dtype=torch.float32, device=weight_VH.device)
        logprob_N = hidden_NH.new_empty(len(hidden_NH), dtype=torch.float32)
        slope_NH = torch.empty_like(hidden_NH, dtype=torch.float32) if ctx.needs_input_grad[0] else None
        with torch.autocast(hidden_NH.device.type, enabled=False):
            for start in range(0, len(hidden_NH), ROWS):
                own = slice(start, start + ROWS)
                token_R = token_N[own]
                low, exact = logits_RV[: len(token_R)], exact_RV[: len(token_R)]
                torch.mm(hidden_NH[own].to(low.dtype), weight_VH.T, out=low)
                exact.copy_(low)
                if temperature != 1.0:
                    exact.div_(temperature)
                exact.sub_(exact.amax(1, keepdim=True))
                chosen_R = exact.gather(1, token_R[:, None])[:, 0]
                total_R1 = exact.exp_().sum(1, keepdim=True)
                logprob_N[own] = chosen_R - total_R1[:, 0].log()
                if slope_NH is not None:
                    exact.div_(total_R1).scatter_add_(1, token_R[:, None], exact.new_full((len(token_R), 1), -1.0))
                    low.copy_(exact)
                    slope_NH[own] = (low @ weight_VH).float() / -temperature
        if slope_NH is not None:
            ctx.save_for_backward(slope_NH)
            ctx.dtype = hidden_NH.dtype
        return logprob_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (slope_NH,) = ctx.saved_tensors
        return (grads[0][:, None] * slope_NH).to(ctx.dtype), None, None, None
