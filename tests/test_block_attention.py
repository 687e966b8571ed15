"""Attention within packed blocks, held against a dense mask in float64."""

import pytest
import torch
from tolerances import CLOSE
from torch import Tensor

from starling.block_attention import ROWS, Block, BlockAttention, Span

HEADS, KEY_HEADS, WIDTH = 4, 2, 8
SCALE = 0.3


def laid_out(*groups: tuple[int, list[int]]) -> tuple[Block, ...]:
    """Blocks of prompts and answers of these lengths, one after the other."""
    blocks, at = [], 0
    for prompt, answers in groups:
        spans = []
        for length in (prompt, *answers):
            spans.append(Span(at, at + length))
            at += length
        blocks.append(Block(spans[0], tuple(spans[1:])))
    return tuple(blocks)


LAYOUTS = {
    "short": laid_out((3, [2, 1]), (1, [4])),
    "a prompt alone": laid_out((5, []), (2, [3])),
    "pieces of full rows": laid_out((ROWS, [ROWS, 2 * ROWS])),
    "pieces of one row more": laid_out((ROWS + 1, [ROWS + 1, 2 * ROWS + 1, 1])),
}


def inputs(length: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Query, key and value, laid out in memory as projections give them."""
    heads = (HEADS, KEY_HEADS, KEY_HEADS)
    return [torch.randn(1, length, n, WIDTH).to(dtype).transpose(1, 2).requires_grad_() for n in heads]


def dense(query: Tensor, key: Tensor, value: Tensor, blocks: tuple[Block, ...]) -> Tensor:
    """Softmax over everything, what a position must not see masked out; written from the rule in float64."""
    seen = torch.zeros(query.shape[2], query.shape[2], dtype=torch.bool)
    for block in blocks:
        for span in (block.prompt, *block.answers):
            for row in range(*span):
                seen[row, span.start : row + 1] = True
                if span is not block.prompt:
                    seen[row, slice(*block.prompt)] = True
    repeats = HEADS // KEY_HEADS
    key, value = key.double().repeat_interleave(repeats, 1), value.double().repeat_interleave(repeats, 1)
    score = (query.double() @ key.transpose(2, 3) * SCALE).masked_fill(~seen, -torch.inf)
    return score.softmax(-1) @ value


def test_two_keys_by_hand() -> None:
    # The second token sees two keys with scores 0 and log 3, so weights 1/4 and 3/4: 4 * 1/4 + 8 * 3/4 = 7.
    query = torch.ones(1, 1, 2, 1)
    key = torch.tensor([1.0, 3.0]).log().view(1, 1, 2, 1)
    value = torch.tensor([4.0, 8.0]).view(1, 1, 2, 1)
    found = BlockAttention.apply(query, key, value, laid_out((2, [])), 1.0, torch.float32)
    assert torch.allclose(found.flatten(), torch.tensor([4.0, 7.0]))


@pytest.mark.parametrize("blocks", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_output_and_gradients_equal_those_under_a_dense_mask(blocks: tuple[Block, ...]) -> None:
    length = max(span.stop for block in blocks for span in (block.prompt, *block.answers))
    given = inputs(length)
    weight = torch.randn(1, HEADS, length, WIDTH)
    found = BlockAttention.apply(*given, blocks, SCALE, torch.float32)
    expected = dense(*given, blocks)
    assert torch.allclose(found.double(), expected, atol=CLOSE, rtol=0)
    gradients = torch.autograd.grad((found * weight).sum(), given)
    for name, mine, oracle in zip("qkv", gradients, torch.autograd.grad((expected * weight).sum(), given), strict=True):
        assert torch.allclose(mine.double(), oracle.double(), atol=CLOSE, rtol=0), name


def test_bfloat16_is_as_close_as_its_products_allow() -> None:
    # bfloat16 keeps 8 bits: 2^-8 = 0.4 % an input, and a few such errors in a row
    blocks = LAYOUTS["pieces of one row more"]
    given = inputs(blocks[-1].answers[-1].stop, torch.bfloat16)
    found = BlockAttention.apply(*given, blocks, SCALE, torch.bfloat16)
    expected = dense(*given, blocks)
    assert found.dtype == torch.bfloat16
    assert (found.double() - expected).norm() < 0.01 * expected.norm()
    weight = torch.randn(found.shape)
    gradients = torch.autograd.grad((found * weight).sum(), given)
    for mine, oracle in zip(gradients, torch.autograd.grad((expected * weight).sum(), given), strict=True):
        assert mine.dtype == torch.bfloat16
        assert (mine.double() - oracle.double()).norm() < 0.015 * oracle.double().norm()


def test_autocast_around_it_changes_nothing() -> None:
    blocks = LAYOUTS["pieces of one row more"]
    given = inputs(blocks[-1].answers[-1].stop, torch.bfloat16)
    alone = BlockAttention.apply(*given, blocks, SCALE, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        within = BlockAttention.apply(*given, blocks, SCALE, torch.bfloat16)
    assert torch.equal(within, alone)


def test_inputs_output_and_a_number_a_row_are_kept_for_backward() -> None:
    kept: list[int] = []
    given = inputs(3 * ROWS)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t):
        found = BlockAttention.apply(*given, laid_out((ROWS, [ROWS, ROWS])), SCALE, torch.float32)
    assert sum(kept) == sum(tensor.numel() for tensor in given) + found.numel() + HEADS * 3 * ROWS


def test_what_was_first_made_while_scoring_serves_training() -> None:
    blocks = laid_out((7, [9]))
    with torch.inference_mode():
        BlockAttention.apply(*inputs(16), blocks, SCALE, torch.float32)
    given = inputs(16)
    BlockAttention.apply(*given, blocks, SCALE, torch.float32).sum().backward()
    assert all(tensor.grad is not None for tensor in given)
