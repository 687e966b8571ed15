"""Packing in the families of models: exact, or refused in one line."""

from typing import Any

import pytest
import torch
from packed_groups import Groups, separately, small
from tolerances import CLOSE
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BloomConfig,
    DeepseekV3Config,
    DogeConfig,
    Exaone4Config,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GemmaConfig,
    GptOssConfig,
    JetMoeConfig,
    Lfm2Config,
    Llama4TextConfig,
    LlamaConfig,
    MistralConfig,
    PhimoeConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    RecurrentGemmaConfig,
)
from transformers.modeling_utils import PreTrainedModel

from starling import heads, packing
from starling.errors import ModelError
from starling.packing import pack

# conversations of up to 8 + 7 = 15 tokens: three windows of five
GROUPS: Groups = [
    ([5, 6, 7, 8, 9, 10, 11, 12], [[20, 21, 22, 23, 24, 25, 26], [30, 31], [40, 41, 42, 43]]),
    ([13, 14], [[15], [16, 17, 18, 19, 20, 21]]),
]
SLIDING = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}
FAMILIES: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**small()),
    "mistral": MistralConfig(**small(sliding_window=None)),
    "mistral, sliding": MistralConfig(**small(sliding_window=5)),
    "qwen2": Qwen2Config(**small()),
    "qwen2, sliding": Qwen2Config(**small(use_sliding_window=True, **SLIDING)),
    "qwen2 of experts, sliding": Qwen2MoeConfig(
        **small(use_sliding_window=True, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=8, **SLIDING)
    ),
    "qwen3": Qwen3Config(**small()),
    "qwen3, sliding": Qwen3Config(**small(use_sliding_window=True, **SLIDING)),
    "gemma": GemmaConfig(**small()),
    "gemma 2": Gemma2Config(**small(query_pre_attn_scalar=2, attn_logit_softcapping=1.0, **SLIDING)),
    "gemma 3": Gemma3TextConfig(**small(query_pre_attn_scalar=2, **SLIDING)),
    "exaone 4, sliding": Exaone4Config(**small(**SLIDING)),
    "jetmoe": JetMoeConfig(**small(kv_channels=8, num_local_experts=2, num_experts_per_tok=2)),
}
# Beyond 16 tokens these scale what they do up to there; four pairs of a head's eight numbers turn.
FIRST = {"factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 100.0}
ROPES: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0, "rope_theta": 100.0},
    "yarn": {"rope_type": "yarn", **FIRST},
    "llama3": {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, **FIRST},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 100.0},
    "longrope": {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0, 3.0, 4.0, 5.0], **FIRST},
}
CHANGES_WITH_LENGTH = ("dynamic", "longrope")


def scaled(rope: str) -> PretrainedConfig:
    window = 16 if rope == "dynamic" else 64
    return LlamaConfig(**small(max_position_embeddings=window, rope_parameters=dict(ROPES[rope])))


def built(config: PretrainedConfig) -> PreTrainedModel:
    """A random model of the family in which attention counts: large weights, norms that are not all ones."""
    config.initializer_range = 0.4
    network = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for name, weight in network.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(weight, 0.5, 1.5)
    return network


def packed_states(network: PreTrainedModel, groups: Groups) -> torch.Tensor:
    packing.enable(network)
    return packing.hidden_states(network.model, pack(groups))


@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES.keys())
@torch.no_grad()
def test_packed_hidden_states_equal_separate_forward_passes(config: PretrainedConfig) -> None:
    network = built(config)
    expected = separately(network, GROUPS)
    assert torch.allclose(packed_states(network, GROUPS), expected, atol=CLOSE, rtol=CLOSE)


@pytest.mark.parametrize("family", ["mistral, sliding", "gemma 2", "gemma 3", "exaone 4, sliding"])
@torch.no_grad()
def test_gradients_past_a_window_equal_those_of_separate_forward_passes(family: str) -> None:
    network = built(FAMILIES[family])
    weight = torch.randn(separately(network, GROUPS).shape)
    found = []
    for states in (separately, packed_states):
        network.zero_grad()
        with torch.enable_grad():
            (states(network, GROUPS) * weight).sum().backward()
        found.append({name: one.grad.clone() for name, one in network.named_parameters() if one.grad is not None})
    for name, expected in found[0].items():
        assert torch.allclose(found[1][name], expected, atol=CLOSE * max(1.0, float(expected.abs().max()))), name


@pytest.mark.parametrize(
    ("family", "changed"),
    [("mistral, sliding", {"sliding_window": 7}), ("gemma 2", {"attn_logit_softcapping": None}),
     ("gemma 2", {"sliding_window": 7}), ("gemma 3", {"sliding_window": 7})],
)  # fmt: skip
@torch.no_grad()
def test_what_the_family_adds_is_felt_here(family: str, changed: dict) -> None:
    """Otherwise the test above would pass where packing forgets it."""
    config = FAMILIES[family]
    torch.manual_seed(1)
    before = separately(built(config), GROUPS)
    torch.manual_seed(1)
    after = separately(built(type(config)(**config.to_dict() | changed)), GROUPS)
    assert float((before - after).abs().max()) > 100 * CLOSE


@pytest.mark.parametrize("rope", ROPES)
@torch.no_grad()
def test_scaled_positions_are_exact(rope: str) -> None:
    network = built(scaled(rope))
    expected = separately(network, GROUPS)
    assert torch.allclose(packed_states(network, GROUPS), expected, atol=CLOSE, rtol=CLOSE)


@pytest.mark.parametrize("rope", ROPES)
@torch.no_grad()
def test_past_the_first_training_positions_are_exact_or_refused(rope: str) -> None:
    groups: Groups = [*GROUPS, (list(range(1, 15)), [[20, 21, 22], [30]])]  # 17 tokens
    network = built(scaled(rope))
    if rope in CHANGES_WITH_LENGTH:
        packing.enable(network)
        assert packing.window(network.config) == 16
        with pytest.raises(ModelError, match="a conversation of 17 tokens passes the model's window of 16"):
            packing.hidden_states(network.model, pack(groups))
        return
    expected = separately(network, groups)
    assert torch.allclose(packed_states(network, groups), expected, atol=CLOSE, rtol=CLOSE)


def test_the_window_of_positions_by_layer_is_the_least_of_them() -> None:
    ropes = {"sliding_attention": {"rope_type": "default", "rope_theta": 100.0}, "full_attention": ROPES["longrope"]}
    config = Gemma3TextConfig(**small(max_position_embeddings=64, rope_parameters=ropes, **SLIDING))
    assert packing.window(config) == 16
    assert packing.window(FAMILIES["gemma 3"]) == FAMILIES["gemma 3"].max_position_embeddings


VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
          "image_size": 28, "patch_size": 14}  # fmt: skip
REFUSED: dict[str, tuple[PretrainedConfig, str]] = {
    "no interface": (BloomConfig(vocab_size=50, hidden_size=16, n_layer=1, n_head=2), "does not use transformers'"),
    "convolutions": (Lfm2Config(**small(layer_types=["conv", "full_attention"])), "has layers of the kind conv"),
    "recurrences": (
        RecurrentGemmaConfig(**small(block_types=["recurrent", "attention"])),
        "has layers of the kind linear_attention",
    ),
    "chunks": (Llama4TextConfig(**small(num_local_experts=1)), "has layers of the kind chunked_attention"),
    "both directions": (
        BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16),
        "has layers that see later tokens",
    ),
    "images": (
        Gemma3Config(text_config=small(), vision_config=VISION, mm_tokens_per_image=4, image_token_index=49),
        "is more than a decoder of text",
    ),
}


@pytest.mark.parametrize(("config", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_a_model_that_would_mix_answers_is_refused(config: PretrainedConfig, reason: str) -> None:
    classifier = isinstance(config, BloomConfig | BertConfig | Gemma3Config)
    kind: Any = AutoModelForSequenceClassification if classifier else AutoModelForCausalLM
    network = kind.from_config(config)
    with pytest.raises(ModelError, match=rf"{type(network).__name__} {reason}"):
        packing.enable(network)


def test_a_model_with_convolutions_beside_its_attention_is_refused() -> None:
    network = built(FAMILIES["llama"])
    network.model.layers[1].mixer = torch.nn.Conv1d(16, 16, 4)
    with pytest.raises(ModelError, match="LlamaForCausalLM has convolutions over tokens"):
        packing.enable(network)


def test_a_model_with_attention_sinks_is_refused_at_its_first_call() -> None:
    network = built(GptOssConfig(**small(num_local_experts=2, num_experts_per_tok=1)))
    packing.enable(network)
    with pytest.raises(ModelError, match="GptOssAttention adds sinks or biases"):
        packing.hidden_states(network.model, pack(GROUPS))


def test_a_model_with_a_mask_of_its_own_making_is_refused_at_its_first_call() -> None:
    network = built(DogeConfig(**small(keep_window_size=5)))
    packing.enable(network)
    with pytest.raises(ModelError, match="DogeAttention adds sinks or biases"):
        packing.hidden_states(network.model, pack(GROUPS))


@torch.no_grad()
def test_a_window_that_stands_in_the_mask_alone_is_refused_unless_it_holds_all_positions() -> None:
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1, "max_position_embeddings": 64}
    network = built(PhimoeConfig(**small(**experts, sliding_window=5)))
    packing.enable(network)
    with pytest.raises(ModelError, match=r"PhimoeAttention is not told of the window of 5 tokens in its config\.json"):
        packing.hidden_states(network.model, pack(GROUPS))
    network = built(PhimoeConfig(**small(**experts, sliding_window=64)))
    expected = separately(network, GROUPS)
    assert torch.allclose(packed_states(network, GROUPS), expected, atol=CLOSE, rtol=CLOSE)


def test_values_of_another_width_than_queries_are_refused() -> None:
    shape = {
        "q_lora_rank": 8,
        "kv_lora_rank": 8,
        "qk_nope_head_dim": 4,
        "qk_rope_head_dim": 4,
        "v_head_dim": 6,
        "head_dim": 4,
    }
    network = built(
        DeepseekV3Config(**small(**shape, n_routed_experts=2, n_group=1, topk_group=1, num_experts_per_tok=1))
    )
    packing.enable(network)
    with pytest.raises(ModelError, match="DeepseekV3Attention has values of another width than queries"):
        packing.hidden_states(network.model, pack(GROUPS))


def test_a_call_that_does_not_say_what_tokens_see_is_refused() -> None:
    network = built(FAMILIES["llama"])
    packing.enable(network)
    with pytest.raises(ModelError, match="LlamaAttention is not told what its tokens see"):
        network(torch.tensor([[1, 2, 3]]))


@torch.no_grad()
def test_rewards_of_packed_answers_equal_those_of_separate_conversations() -> None:
    for config in (FAMILIES["llama"], FAMILIES["qwen3, sliding"], FAMILIES["gemma 2"]):
        config.num_labels = 1
        network = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").eval()
        wholes = [prompt + answer for prompt, answers in GROUPS for answer in answers]
        expected = [network(torch.tensor([whole])).logits.item() for whole in wholes]
        packing.enable(network)
        assert heads.rewards(network, pack(GROUPS)).tolist() == pytest.approx(expected, abs=CLOSE)
