"""A decoder split into a trunk that stays and a top that is trained."""

from pathlib import Path

import pytest
import torch
from tolerances import CLOSE
from transformers import (
    GemmaConfig,
    GemmaModel,
    GPT2Config,
    GPT2Model,
    GPTNeoXConfig,
    GPTNeoXModel,
    NanoChatConfig,
    NanoChatModel,
    Olmo3Config,
    Olmo3Model,
)

from starling import decoder_parts, models, packing
from starling.errors import ModelError
from starling.packing import pack

GROUPS = [([5, 6, 7, 8], [[20, 21], [30, 31, 32]]), ([40, 41], [[50, 51, 52]])]


@pytest.fixture
def decoder(tiny_model: Path):
    return models.load_policy(str(tiny_model), torch.float32).network.get_decoder()


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_trunk_and_top_make_the_whole_decoder(decoder, layers: int) -> None:
    packed = pack(GROUPS)
    trunk, top = decoder_parts.trunk_of(decoder, layers), decoder_parts.top_of(decoder, layers)
    with torch.no_grad():
        whole = packing.hidden_states(decoder, packed)
        middle = packing.hidden_states(trunk, packed)
        assert torch.allclose(packing.hidden_states(top, packed, middle[None]), whole, atol=CLOSE)
        assert not torch.allclose(middle, whole, atol=0.1)
    assert (len(trunk.layers), len(top.layers), len(decoder.layers)) == (4 - layers, layers, 4)
    assert decoder.config.num_hidden_layers == 4


SHAPE = {
    "vocab_size": 60, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2,
    "num_key_value_heads": 2, "initializer_range": 0.2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def test_each_block_keeps_the_rotation_of_its_kind() -> None:
    """Olmo 3 turns by another rule in its full layers, and looks the kind up by the block's number."""
    yarn = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "rope_theta": 1e4}
    kinds = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
    network = Olmo3Model(Olmo3Config(**SHAPE, layer_types=kinds, rope_parameters=yarn, sliding_window=64)).eval()
    packing.enable(network)
    packed = pack(GROUPS)
    for layers in (1, 2, 3):
        trunk, top = decoder_parts.trunk_of(network, layers), decoder_parts.top_of(network, layers)
        decoder_parts.require_apart(network, trunk, top, packed)
        with torch.no_grad():
            parts = packing.hidden_states(top, packed, packing.hidden_states(trunk, packed)[None])
            assert torch.allclose(parts, packing.hidden_states(network, packed), atol=CLOSE)
    assert network.config.layer_types == kinds


def test_a_family_that_does_more_than_its_blocks_is_refused() -> None:
    network = NanoChatModel(NanoChatConfig(**SHAPE)).eval()  # norms the embeddings before the first block
    packing.enable(network)
    trunk, top = decoder_parts.trunk_of(network, 2), decoder_parts.top_of(network, 2)
    with pytest.raises(
        ModelError, match=r"^tune.layers: NanoChatModel does more between its blocks than one after the"
    ):
        decoder_parts.require_apart(network, trunk, top, pack(GROUPS))


def test_trunk_shares_the_weights_and_top_is_a_copy(decoder) -> None:
    trunk, top = decoder_parts.trunk_of(decoder, 1), decoder_parts.top_of(decoder, 1)
    assert trunk.layers[0].mlp.up_proj.weight is decoder.layers[0].mlp.up_proj.weight
    before = decoder.layers[3].mlp.up_proj.weight.clone()
    with torch.no_grad():
        for parameter in decoder_parts.trainable(top).values():
            parameter.add_(1)
    assert torch.equal(decoder.layers[3].mlp.up_proj.weight, before)


def test_top_is_float32_and_has_blocks_and_norm_only(tiny_model: Path) -> None:
    top = decoder_parts.top_of(models.load_policy(str(tiny_model), torch.bfloat16).network.get_decoder(), 2)
    parameters = decoder_parts.trainable(top)
    assert {name.split(".")[0] for name in parameters} == {"layers", "norm"}
    assert {name.split(".")[1] for name in parameters if name.startswith("layers")} == {"0", "1"}
    assert {parameter.dtype for parameter in parameters.values()} == {torch.float32}


def test_a_top_is_written_back_and_read_again(decoder) -> None:
    initial, top = decoder_parts.top_of(decoder, 2), decoder_parts.top_of(decoder, 2)
    lower = [parameter.clone() for layer in decoder.layers[:2] for parameter in layer.parameters()]
    with torch.no_grad():
        for parameter in decoder_parts.trainable(top).values():
            parameter.add_(torch.randn_like(parameter))
    decoder_parts.copy_top_into(decoder, top, initial, 1.0)
    again = decoder_parts.trainable(decoder_parts.top_of(decoder, 2))
    for name, parameter in decoder_parts.trainable(top).items():
        assert torch.equal(again[name], parameter)
    untouched = [parameter for layer in decoder.layers[:2] for parameter in layer.parameters()]
    assert all(torch.equal(old, new) for old, new in zip(lower, untouched, strict=True))


def test_a_top_is_written_back_in_the_decoders_dtype(tiny_model: Path) -> None:
    decoder = models.load_policy(str(tiny_model), torch.bfloat16).network.get_decoder()
    initial, top = decoder_parts.top_of(decoder, 1), decoder_parts.top_of(decoder, 1)
    with torch.no_grad():
        top.norm.weight.fill_(1 / 3)
    decoder_parts.copy_top_into(decoder, top, initial, 1.0)
    assert decoder.norm.weight.dtype == torch.bfloat16
    assert torch.equal(decoder.norm.weight, torch.full((32,), 1 / 3).bfloat16())


def test_a_share_of_the_tuned_weights_is_written_by_hand(decoder) -> None:
    initial, top = decoder_parts.top_of(decoder, 1), decoder_parts.top_of(decoder, 1)
    with torch.no_grad():
        initial.norm.weight.fill_(1.0)
        top.norm.weight.fill_(5.0)
    decoder_parts.copy_top_into(decoder, top, initial, 0.75)
    assert decoder.norm.weight.tolist() == [4.0] * 32  # a quarter of 1 and three quarters of 5


@pytest.mark.parametrize("part", [decoder_parts.trunk_of, decoder_parts.top_of], ids=["trunk", "top"])
def test_more_blocks_than_there_are_cannot_be_trained(decoder, part) -> None:
    with pytest.raises(ModelError, match=r"^tune\.layers = 5: the model has 4 blocks; 0 is all of them$"):
        part(decoder, 5)


def test_a_family_that_calls_its_final_norm_or_blocks_otherwise_is_refused() -> None:
    small = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    neox = GPTNeoXModel(GPTNeoXConfig(**small, intermediate_size=16))
    gpt2 = GPT2Model(GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2))
    with pytest.raises(ModelError, match=r"^tune\.layers: GPTNeoXModel has no part called `norm`.*; use another"):
        decoder_parts.top_of(neox, 1)
    with pytest.raises(ModelError, match=r"^tune\.layers: GPT2Model has no part called `layers`"):
        decoder_parts.trunk_of(gpt2, 0)
    assert list(decoder_parts.last_blocks(neox, 1, "fit.layers")) == [neox.layers[1]]


@pytest.mark.parametrize("layers", [0, 4])
def test_of_a_decoder_that_is_trained_whole_the_embeddings_are_the_trunk(decoder, layers: int) -> None:
    packed = pack(GROUPS)
    trunk, top = decoder_parts.trunk_of(decoder, layers), decoder_parts.top_of(decoder, layers)
    with torch.no_grad():
        middle = packing.hidden_states(trunk, packed)
        assert torch.equal(middle, decoder.embed_tokens(packed.ids_1T)[0])
        whole = packing.hidden_states(decoder, packed)
        assert torch.allclose(packing.hidden_states(top, packed, middle[None]), whole, atol=CLOSE)
    assert (len(trunk.layers), len(top.layers)) == (0, 4)


def test_a_model_that_scales_its_embeddings_is_not_split() -> None:
    config = GemmaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, pad_token_id=0,
    )  # fmt: skip
    with pytest.raises(ModelError, match="scales its input embeddings"):
        decoder_parts.trunk_of(GemmaModel(config), 1)
