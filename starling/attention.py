"""How a layer weighs what its tokens see, and that written out, for rules that fused kernels do not know."""

from typing import NamedTuple

import torch
from torch import Tensor


class Rule(NamedTuple):
    """The score of a key is `scaling` times its product with the query, q; a `softcap` of c makes it c tanh(q / c).

    `window` is how many tokens each position sees, itself included. None or 0: no cap (as outside Gemma 2), and all
    tokens before it.
    """

    scaling: float
    window: int | None = None
    softcap: float | None = None


def written_out(query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
    """Causal attention of a conversation's last Q tokens to all of its T: (1, heads, Q, D) from (1, heads, T, D).

    softmax(score) value in float32, under autocast too, with a score for each pair of tokens in memory.
    """
    with torch.autocast(query.device.type, enabled=False):
        return _written_out(query.float(), key.float(), value.float(), rule).to(value.dtype)


def _written_out(query: Tensor, key: Tensor, value: Tensor, rule: Rule) -> Tensor:
    score = query @ key.transpose(2, 3) * rule.scaling
    if rule.softcap:
        score = rule.softcap * torch.tanh(score / rule.softcap)
    position_T = torch.arange(key.shape[2], device=key.device)
    own_Q1 = position_T[-query.shape[2] :, None]
    hidden = position_T > own_Q1
    if rule.window:
        hidden = hidden | (position_T <= own_Q1 - rule.window)
    return score.masked_fill(hidden, -torch.inf).softmax(-1) @ value
