"""Log-probabilities of given tokens."""

import torch.nn.functional as F
from torch import Tensor


def token_logprobs(logits_NV: Tensor, token_N: Tensor, temperature: float = 1.0) -> Tensor:
    """log p(token) for each row under softmax(logits / temperature), in float32: (N, V), (N,) -> (N,)."""
    scaled_NV = logits_NV.float()
    if temperature != 1.0:
        scaled_NV = scaled_NV / temperature
    return -F.cross_entropy(scaled_NV, token_N, reduction="none")
