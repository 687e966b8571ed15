"""The rewards of packed conversations, in passes of up to so many tokens."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from starling import balance, heads
from starling.packing import Pack


class Pass(NamedTuple):
    """What one pass through the network finds: of which packs, how many answers each has, and of every answer in order
    the last hidden state (N, H) and the reward (N,)."""

    indices: list[int]
    sizes: list[int]
    hidden_NH: Tensor
    reward_N: Tensor


def passes(network: Any, packs: Sequence[Pack], microbatch_tokens: int, names: Sequence[str]) -> Iterator[Pass]:
    """Every pack once, in microbatches of like size; a reward that is not a number is refused by its pack's name."""
    for indices, packed in balance.batches(packs, microbatch_tokens):
        sizes = [len(packs[index][1]) for index in indices]
        hidden_NH = heads.answer_states(network, packed)
        reward_N = heads.rewards_of(network, hidden_NH)
        heads.require_numbers(reward_N, zip((names[index] for index in indices), sizes, strict=True))
        yield Pass(indices, sizes, hidden_NH, reward_N)


@torch.inference_mode()
def rewards(
    network: Any,
    packs: Sequence[Pack],
    microbatch_tokens: int,
    names: Sequence[str],
    on_answers: Callable[[int], None] = lambda count: None,
) -> list[list[float]]:
    """The raw reward of each pack's answers; `on_answers` hears of each pass how many it scored."""
    found: list[list[float]] = [[]] * len(packs)
    for done in passes(network, packs, microbatch_tokens, names):
        for index, part in zip(done.indices, done.reward_N.split(done.sizes), strict=True):
            found[index] = part.tolist()
        on_answers(len(done.reward_N))
    return found
