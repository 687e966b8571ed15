"""Keys and values of the answers under way."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tolerances import CLOSE

from starling.attention import Rule, written_out
from starling.slots import Decoding, Slots, Store

HEADS, KEY_HEADS, WIDTH = 4, 2, 3
MODEL: Any = SimpleNamespace(
    config=SimpleNamespace(
        num_hidden_layers=1, num_key_value_heads=KEY_HEADS, head_dim=WIDTH, num_attention_heads=HEADS
    ),
    dtype=torch.float32,
    device=torch.device("cpu"),
)
LAYER: Any = SimpleNamespace(layer_idx=0)


def random(tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(KEY_HEADS, tokens, WIDTH), torch.randn(KEY_HEADS, tokens, WIDTH)


@pytest.mark.parametrize("rule", [Rule(0.5), Rule(0.5, window=3), Rule(0.5, window=6), Rule(2.0, softcap=1.5)], ids=str)
def test_decoding_sees_beginning_and_own_tokens_as_one_row(rule: Rule) -> None:
    # rows: own tokens after a beginning of 5, own alone, own after a beginning of 2, after that of 5 again
    begins = {5: Store(MODEL, 1, 5), 2: Store(MODEL, 1, 2)}
    held = {tokens: random(tokens) for tokens in begins}
    slots = Slots(MODEL, 4)
    slots.make_room(4)
    whole = []
    for tokens, store in begins.items():
        store.file(0, [0], *held[tokens])
    for row, (start, count) in enumerate([(5, 3), (0, 4), (2, 0), (5, 1)]):
        own = random(count)
        slots.file(0, [row], *own)
        slots.rows.append(row)
        slots.begins.append(begins.get(start))
        slots.before[row], slots.lengths[row] = start, count
        parts = [held[start], own] if start else [own]
        whole.append([torch.cat([part[side] for part in parts], 1) for side in (0, 1)])
    query, key, value = (torch.randn(4, heads, 1, WIDTH) for heads in (HEADS, KEY_HEADS, KEY_HEADS))
    found = Decoding(slots).attend(LAYER, query, key, value, rule)
    for row, (keys, values) in enumerate(whole):
        seen, given = (
            torch.cat([old, new[row]], 1).repeat_interleave(HEADS // KEY_HEADS, 0)[None]
            for old, new in ((keys, key), (values, value))
        )
        expected = written_out(query[row : row + 1], seen, given, rule)[0, :, 0]
        assert torch.allclose(found[row, 0], expected, atol=CLOSE), row


def test_rows_that_stay_keep_what_they_hold_and_begin_with() -> None:
    slots, store = Slots(MODEL, 3), Store(MODEL, 1, 1)
    slots.resize(2)
    slots.rows, slots.begins = [10, 11, 12], [None, None, store]
    slots.lengths[:], slots.before[:] = torch.tensor([1, 2, 2]), torch.tensor([0, 0, 1])
    for row in range(3):
        slots.file(0, [row], *(torch.full((KEY_HEADS, 2, WIDTH), float(row)),) * 2)
    tokens = slots.retain([1, 2], torch.tensor([7, 8, 9]))
    assert (slots.rows, slots.begins, tokens.tolist()) == ([12, 11], [store, None], [9, 8])
    assert (slots.lengths[:2].tolist(), slots.before[:2].tolist()) == ([2, 2], [1, 0])
    assert slots.values[0][:2, 0, 1, 0].tolist() == slots.keys[0][:2, 0, 0, 1].tolist() == [2.0, 1.0]


def test_rows_keep_what_they_hold_while_their_room_follows_what_is_needed() -> None:
    slots = Slots(MODEL, 2)
    lengths = []
    key, value = random(3)
    for needed in (3, 4, 36, 300, 200, 20, 3):
        slots.make_room(needed)
        if not lengths:
            slots.file(0, [1], key, value)
        lengths.append(slots.length)
        assert torch.equal(slots.keys[0][1, ..., :3], key.transpose(-1, -2))
        assert torch.equal(slots.values[0][1, :, :3], value)
        assert not slots.keys[0][..., 3:].any()
    # 32 more than needed, or an eighth; shorter again once twice what is needed would do
    assert lengths == [35, 35, 68, 337, 337, 52, 52]
