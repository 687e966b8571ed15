"""Answers that share a prompt as one packed sequence."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from packed_groups import DOCUMENTED, GROUPS, Groups, dense_mask, separately
from tolerances import CLOSE
from transformers import AutoModelForCausalLM, BloomConfig, GPT2Config, LlamaConfig
from transformers.modeling_utils import PreTrainedModel

from starling import packing
from starling.attention import Rule
from starling.errors import ModelError
from starling.packing import Block, Span, pack


def load(folder: Path, attention: str = "sdpa") -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=attention).eval()


@pytest.fixture(scope="module")
def packed_model(tiny_model: Path) -> PreTrainedModel:
    model = load(tiny_model)
    packing.enable(model)
    return model


def test_pack_lays_out_the_documented_example() -> None:
    packed = pack(DOCUMENTED)
    assert packed.ids_1T.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]]
    assert packed.positions_1T.tolist() == [[0, 1, 2, 3, 4, 3, 4, 5, 0, 1, 2, 2, 3]]
    assert packed.blocks == (
        Block(Span(0, 3), (Span(3, 5), Span(5, 8))),
        Block(Span(8, 10), (Span(10, 11), Span(11, 13))),
    )


def test_lengths_of_the_documented_example() -> None:
    packed = pack(DOCUMENTED)
    assert packed.num_tokens == 13
    assert packed.longest == 3 + 3
    assert packed.lengths == ((3, 2, 3), (2, 1, 2))
    assert packing.last_tokens(packed) == [4, 7, 10, 12]
    assert packing.spans(packed.blocks) == [
        ((0, 3), (3, 5)),
        ((0, 3), (5, 8)),
        ((8, 10), (10, 11)),
        ((8, 10), (11, 13)),
    ]
    assert [packing.size(group) for group in DOCUMENTED] == [3 + 2 + 3, 2 + 1 + 2]


def test_a_window_that_a_config_does_not_tell_is_no_traceback() -> None:
    assert packing.window(LlamaConfig(max_position_embeddings=77)) == 77
    with pytest.raises(ModelError, match=r"bloom: its config.json .*max_position_embeddings"):
        packing.window(BloomConfig())


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        pack([([], [[1]])])


def test_microbatches_by_hand() -> None:
    # 4 + 3 = 7; 5 alone since 5 + 9 > 8; 9 alone although larger; 1 + 1
    assert list(packing.consecutive([4, 3, 5, 9, 1, 1], 8)) == [[0, 1], [2], [3], [4, 5]]


def test_a_microbatch_may_be_exactly_full() -> None:
    assert list(packing.consecutive([4, 4, 4], 8)) == [[0, 1], [2]]


def test_nothing_makes_no_microbatch() -> None:
    assert list(packing.consecutive([], 8)) == []


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(1, 60))
def test_microbatches_keep_the_order_and_the_limit(sizes: list[int], tokens: int) -> None:
    batches = list(packing.consecutive(sizes, tokens))
    assert [index for batch in batches for index in batch] == list(range(len(sizes)))
    for batch, following in zip(batches, [*batches, []][1:], strict=True):
        total = sum(sizes[index] for index in batch)
        assert total <= tokens or len(batch) == 1
        assert not following or total + sizes[following[0]] > tokens  # no earlier stop than needed


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS.keys())
def test_packed_hidden_states_equal_separate_forward_passes(tiny_model: Path, packed_model, groups: Groups) -> None:
    with torch.no_grad():
        found = packing.hidden_states(packed_model.model, pack(groups))
        assert torch.allclose(found, separately(load(tiny_model), groups), atol=CLOSE, rtol=0)


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS.keys())
def test_packed_hidden_states_equal_a_dense_mask(tiny_model: Path, packed_model, groups: Groups) -> None:
    packed = pack(groups)
    bias = torch.zeros(dense_mask(groups).shape).masked_fill(~dense_mask(groups), torch.finfo(torch.float32).min)
    with torch.no_grad():
        expected = load(tiny_model, "eager").model(
            packed.ids_1T, attention_mask=bias[None, None], position_ids=packed.positions_1T, use_cache=False
        )
        found = packing.hidden_states(packed_model.model, packed)
    assert torch.allclose(found, expected.last_hidden_state[0], atol=CLOSE, rtol=0)


@pytest.mark.parametrize("window", [None, *range(1, 9)])
def test_attention_within_a_window_equals_a_dense_mask(window: int | None) -> None:
    groups = GROUPS["several groups"]  # the longest conversation has 4 + 3 = 7 tokens
    query, key, value = torch.randn(3, 1, 2, pack(groups).num_tokens, 8)
    seen = dense_mask(groups, window or 0)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=0.5)
    found = pack(groups).attend(torch.nn.Identity(), query, key, value, Rule(0.5, window))
    assert torch.allclose(found, expected.transpose(1, 2), atol=CLOSE)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        (LlamaConfig(attention_dropout=0.25), "fit: attention_dropout = 0.25 of the model's config.json is left off: "),
        (GPT2Config(attn_pdrop=0.1, resid_pdrop=0.0), "fit: attn_pdrop = 0.1 of the model's config.json is left off: "),
        (LlamaConfig(), ""),
    ],
    ids=["llama", "gpt2", "none"],
)
def test_dropout_of_attention_is_told(config, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    packing.tell_dropout(config, "fit")
    said = capsys.readouterr().out
    assert said.startswith(line) and said.count("\n") == bool(line)


def test_gradients_equal_those_of_separate_forward_passes(tiny_model: Path) -> None:
    groups = GROUPS["several groups"]
    plain, packed_model = load(tiny_model), load(tiny_model)
    packing.enable(packed_model)
    states = separately(plain, groups)
    weight = torch.randn(states.shape) / states.numel() ** 0.5
    (states * weight).sum().backward()
    (packing.hidden_states(packed_model.model, pack(groups)) * weight).sum().backward()
    found = dict(packed_model.model.named_parameters())
    for name, parameter in plain.model.named_parameters():
        scale = parameter.grad.abs().max().item()
        assert scale > 0
        assert torch.allclose(found[name].grad, parameter.grad, atol=CLOSE * max(scale, 1), rtol=0), name


@pytest.mark.parametrize("changed", ["own answer", "sibling", "other prompt"])
def test_only_what_an_answer_sees_can_change_it(packed_model, changed: str) -> None:
    base: Groups = [([5, 6, 7], [[8, 9], [10, 11]]), ([12, 13], [[14, 15]])]
    other: Groups = {
        "own answer": [([5, 6, 7], [[99, 9], [10, 11]]), ([12, 13], [[14, 15]])],
        "sibling": [([5, 6, 7], [[8, 9], [99, 11]]), ([12, 13], [[14, 15]])],
        "other prompt": [([5, 6, 7], [[8, 9], [10, 11]]), ([99, 13], [[14, 15]])],
    }[changed]
    with torch.no_grad():
        before, after = (packing.hidden_states(packed_model.model, pack(groups))[3:5] for groups in (base, other))
    assert torch.equal(before, after) == (changed != "own answer")


def test_groups_give_the_same_in_any_company(packed_model) -> None:
    groups = GROUPS["several groups"]
    with torch.no_grad():
        together = packing.hidden_states(packed_model.model, pack(groups))
        alone = [packing.hidden_states(packed_model.model, pack([group])) for group in groups]
    assert torch.allclose(together, torch.cat(alone), atol=CLOSE, rtol=0)
