"""Heads on hidden states: logits as each family makes them, rewards that nothing rounds, a critic that begins at 0."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tolerances import CLOSE
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    HyperCLOVAXConfig,
    LlamaConfig,
    PhiConfig,
    PreTrainedConfig,
)

from starling import device, heads, models
from starling.errors import StarlingError
from starling.packing import pack

SMALL = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "initializer_range": 0.5, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "scale", "is_linear"),
    [
        (LlamaConfig(**SMALL), 1, True),
        (CohereConfig(**SMALL, logit_scale=0.25), 0.25, True),
        (GraniteConfig(**SMALL, logits_scaling=4.0), 0.25, True),
        (HyperCLOVAXConfig(**SMALL, logits_scaling=0.25), 0.25, True),
        (Gemma2Config(**SMALL, head_dim=8, final_logit_softcapping=1.0), 1, False),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
@torch.no_grad()
def test_logits_are_scaled_and_capped_as_the_family_does(
    config: PreTrainedConfig, scale: float, is_linear: bool
) -> None:
    network: Any = AutoModelForCausalLM.from_config(config).eval()
    ids = torch.tensor([[5, 9, 30, 7]])
    found = heads.logits(network, network.get_decoder()(ids).last_hidden_state[0])
    assert torch.allclose(found, network(ids).logits[0], atol=CLOSE)
    assert (heads.logit_scale(network.config), heads.has_linear_logits(network)) == (scale, is_linear)
    head_alone = network.get_output_embeddings()(network.get_decoder()(ids).last_hidden_state[0])
    assert torch.allclose(found, scale * head_alone, atol=CLOSE) == is_linear


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_neither_autocast_nor_a_bfloat16_model_rounds_rewards(tiny_model: Path, dtype: torch.dtype) -> None:
    network: Any = models.new_reward_model(str(tiny_model)).network.to(dtype)
    network.score.weight.data *= 1e4
    with torch.no_grad(), device.autocast(network.device):
        hidden = heads.answer_states(
            network, pack([([5, 6, 7, 8], [[20, 21], [30, 31, 32]]), ([40, 41], [[50, 51, 52]])])
        )
        found = heads.rewards_of(network, hidden)
    assert found.dtype == torch.float32
    expected = hidden.double() @ network.score.weight[0].double()
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    assert not torch.equal(found, found.bfloat16().float())


def test_of_rewards_that_are_no_numbers_the_first_is_named() -> None:
    heads.require_numbers(torch.ones(3), [("one", 1), ("two", 2)])
    with pytest.raises(StarlingError, match=r"^two: the reward model gives a reward that is not a number"):
        heads.require_numbers(torch.tensor([1.0, 2.0, math.inf, math.nan]), [("one", 1), ("two", 2), ("three", 1)])


def test_the_value_head_expects_nothing_at_first() -> None:
    head = heads.ValueHead(8)
    assert head(torch.randn(5, 8)).tolist() == [0.0] * 5
    assert head(torch.randn(5, 8).bfloat16()).dtype == torch.float32


def test_the_value_head_can_leave_zero() -> None:
    head = heads.ValueHead(8)
    head(torch.randn(5, 8)).sum().backward()
    assert head.down.weight.grad.abs().max().item() > 0
    assert head.down.bias.grad.item() == 5  # one for each position


def test_a_head_with_a_bias_is_not_taken_for_a_matrix_alone() -> None:
    network: Any = AutoModelForCausalLM.from_config(PhiConfig(**SMALL))
    assert network.lm_head.bias is not None
    assert not heads.has_linear_logits(network)
