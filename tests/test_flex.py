"""Packed attention as one kernel: its mask against the rule written out, its call on CPU; a GPU is not needed."""

import pytest
import torch
from packed_groups import DOCUMENTED, GROUPS, Groups, dense_mask
from tolerances import CLOSE
from torch.nn.attention.flex_attention import create_mask

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


def test_the_mask_is_made_once_for_all_layers() -> None:
    lengths = pack(DOCUMENTED).lengths
    assert flex._block_mask(lengths, 0, CPU) is flex._block_mask(pack(DOCUMENTED).lengths, 0, CPU)
    assert flex._block_mask(lengths, 0, CPU) is not flex._block_mask(lengths, 3, CPU)


def test_a_mask_that_was_made_while_scoring_serves_training_too() -> None:
    flex._block_mask.cache_clear()
    with torch.inference_mode():
        mask = flex._block_mask(pack(DOCUMENTED).lengths, 0, CPU)
    assert not mask.kv_indices.is_inference()
