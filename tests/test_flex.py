"""Packed attention as one kernel: its mask against the rule written out, its call on CPU; a GPU is not needed."""

from typing import Any

import pytest
import torch
from packed_groups import DOCUMENTED, GROUPS, Groups, dense_mask
from tolerances import CLOSE
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, create_mask

from starling import flex
from starling.attention import Rule
from starling.packing import pack

CPU = torch.device("cpu")
LAYOUTS = GROUPS | {"documented": DOCUMENTED}
layouts = pytest.mark.parametrize("groups", LAYOUTS.values(), ids=LAYOUTS.keys())


@layouts
@pytest.mark.parametrize("window", [0, 1, 2, 4, 100])
def test_a_token_sees_what_the_rule_says(groups: Groups, window: int) -> None:
    packed = pack(groups)
    found = create_mask(flex.sees(packed.lengths, window, CPU), None, None, packed.num_tokens, packed.num_tokens, CPU)
    assert torch.equal(found[0, 0], dense_mask(groups, window))


@layouts
@pytest.mark.parametrize("rule", [Rule(0.5), Rule(0.5, window=3), Rule(0.5, softcap=0.3), Rule(0.5, 3, 0.3)])
def test_the_kernel_gives_what_the_blocks_give_one_by_one(groups: Groups, rule: Rule) -> None:
    packed = pack(groups)
    query = torch.randn(1, 4, packed.num_tokens, 8)
    key, value = torch.randn(2, 1, 2, packed.num_tokens, 8)
    found = flex.attend(packed.lengths, query, key, value, rule)
    assert torch.allclose(found, packed.attend(torch.nn.Identity(), query, key, value, rule), atol=CLOSE)


LONG = ((70, 200, 128), (256, 300, 1), (128,), (3, 2))  # tiles seen whole, in part and not at all


@pytest.mark.parametrize("window", [0, 300])
def test_tiles_are_those_that_all_pairs_at_once_give(window: int) -> None:
    tokens = sum(map(sum, LONG))
    whole = create_block_mask(flex.sees(LONG, window, CPU), None, None, tokens, tokens, CPU)
    found = flex._block_mask(LONG, window, CPU)
    for mine, oracle in (
        (found.kv_num_blocks, whole.kv_num_blocks),
        (found.full_kv_num_blocks, whole.full_kv_num_blocks),
    ):
        assert torch.equal(mine, oracle)
        assert mine.sum() > 0
    assert torch.equal(found.to_dense(), whole.to_dense())
    query, key, value = torch.randn(3, 1, 2, tokens, 8)
    rule, packed = Rule(0.5, window=window or None), pack([([0] * one, [[0] * n for n in rest]) for one, *rest in LONG])
    expected = packed.attend(torch.nn.Identity(), query, key, value, rule)
    assert torch.allclose(flex.attend(LONG, query, key, value, rule), expected, atol=CLOSE)


def test_no_more_than_a_row_of_tiles_is_looked_at_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    flex._block_mask.cache_clear()
    asked: list[int] = []
    inner = flex.sees

    def noted(*given: Any) -> flex.Sees:
        rule = inner(*given)

        def counting(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            seen = rule(batch, head, query, key)
            asked.append(seen.numel())
            return seen

        return counting

    monkeypatch.setattr(flex, "sees", noted)
    flex._block_mask(LONG, 0, CPU)
    tokens = sum(map(sum, LONG))
    assert max(asked) == flex.TILE * tokens < tokens**2 / 8
    assert sum(asked) == tokens**2


def test_the_mask_is_made_once_for_all_layers() -> None:
    lengths = pack(DOCUMENTED).lengths
    assert flex._block_mask(lengths, 0, CPU) is flex._block_mask(pack(DOCUMENTED).lengths, 0, CPU)
    assert flex._block_mask(lengths, 0, CPU) is not flex._block_mask(lengths, 3, CPU)


def test_a_mask_that_was_made_while_scoring_serves_training_too() -> None:
    flex._block_mask.cache_clear()
    with torch.inference_mode():
        mask = flex._block_mask(pack(DOCUMENTED).lengths, 0, CPU)
    assert not mask.kv_indices.is_inference()
