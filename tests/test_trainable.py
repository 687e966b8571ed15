"""What is trained of a reward model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from made_rankings import rankings
from peft import PeftModel
from tolerances import CLOSE
from transformers import GPTNeoXConfig, GPTNeoXForSequenceClassification

from starling import heads, models, packing
from starling.config import FitTable
from starling.errors import ModelError
from starling.examples import examples_of
from starling.models import Model
from starling.packing import Packed
from starling.trainable import Trainable

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def packed(model: Model) -> Packed:
    return packing.pack([(example.shared, example.endings) for example in examples_of(model, rankings(3))[0]])


def moved(model: Model, **settings: Any) -> Trainable:
    """The trainable part after its weights have moved away from where they began."""
    part = Trainable(model.network, FitTable(**settings), 1)
    with torch.no_grad():
        for weight in part.weights.values():
            weight += 0.1 * torch.randn(weight.shape)
    return part


def test_all_weights_are_trained_if_nothing_else_is_said(reward_model: Model) -> None:
    part = Trainable(reward_model.network, FitTable(), 1)
    assert part.weights.keys() == dict(reward_model.network.named_parameters()).keys()


def test_only_the_last_layers_are_trained_if_so_wanted(reward_model: Model) -> None:
    trained = Trainable(reward_model.network, FitTable(layers=1), 1).weights
    assert {name.split(".")[2] for name in trained if ".layers." in name} == {"3"}
    assert {name for name in trained if ".layers." not in name} == {"model.norm.weight", "score.weight"}


@pytest.mark.parametrize(("layers", "blocks"), [(0, {0, 1, 2, 3}), (1, {3}), (3, {1, 2, 3})])
def test_adapters_stand_on_every_linear_layer_of_the_blocks_beside_the_whole_head(
    reward_model: Model, layers: int, blocks: set[int]
) -> None:
    trained = Trainable(reward_model.network, FitTable(lora_rank=2, layers=layers), 1).weights
    adapters = {tuple(name.split(".")[2:6]) for name in trained if ".layers." in name}
    expected = {
        (str(block), "mlp" if "proj" in name and name[:2] in ("ga", "up", "do") else "self_attn", name, f"lora_{half}")
        for block in blocks
        for name in LINEAR
        for half in "AB"
    }
    assert adapters == expected
    assert {name for name in trained if ".layers." not in name} == {"score.modules_to_save.default.weight"}


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_more_blocks_than_there_are_cannot_be_trained(reward_model: Model, lora_rank: int) -> None:
    with pytest.raises(ModelError, match=r"^fit\.layers = 5: the model has 4 blocks; 0 is all of them$"):
        Trainable(reward_model.network, FitTable(layers=5, lora_rank=lora_rank), 1)


def test_a_family_that_calls_its_final_norm_otherwise_is_trained_whole_or_with_adapters_alone() -> None:
    config = GPTNeoXConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, num_labels=1
    )
    network = GPTNeoXForSequenceClassification(config)
    with pytest.raises(ModelError, match=r"^fit\.layers: GPTNeoXModel has no part called `norm`.*; set fit\.layers"):
        Trainable(network, FitTable(layers=1), 1)
    assert all(weight.requires_grad for weight in network.parameters())
    assert len(Trainable(network, FitTable(), 1).weights) == len(list(network.parameters()))
    adapted = Trainable(network, FitTable(layers=1, lora_rank=2), 1).weights
    assert {name.split(".")[2] for name in adapted if "lora" in name} == {"1"}


def test_an_adapter_changes_nothing_at_first(reward_model: Model) -> None:
    with torch.no_grad():
        before = heads.rewards(reward_model.network, packed(reward_model))
        Trainable(reward_model.network, FitTable(lora_rank=2), 1)
        assert torch.equal(heads.rewards(reward_model.network, packed(reward_model)), before)


def test_adapters_begin_from_the_runs_seed_alone(tiny_model: Path) -> None:
    def first(seed: int, state: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(state)
        model = models.new_reward_model(str(tiny_model))
        after = torch.get_rng_state()
        part = Trainable(model.network, FitTable(lora_rank=2), seed)
        assert torch.equal(torch.get_rng_state(), after)
        return {name: weight.detach() for name, weight in part.weights.items() if "lora_A" in name}

    one, same, other = first(1, 5), first(1, 6), first(2, 5)
    assert all(torch.equal(one[name], same[name]) and not torch.equal(one[name], other[name]) for name in one)


def test_what_the_adapter_adds_counts_alpha_over_rank(reward_model: Model) -> None:
    weights = dict(reward_model.network.named_parameters())
    name = "model.layers.2.mlp.up_proj"
    before = weights[f"{name}.weight"].detach().clone()
    part = moved(reward_model, lora_rank=2, lora_alpha=6)
    up, down = part.weights[f"{name}.lora_B.default.weight"], part.weights[f"{name}.lora_A.default.weight"]
    expected = before + 6 / 2 * (up @ down).detach()
    part.merge()
    after = dict(reward_model.network.named_parameters())[f"{name}.weight"]
    assert torch.allclose(after, expected, atol=CLOSE, rtol=0)
    assert not torch.allclose(after, before, atol=1e-2, rtol=0)


def test_a_merged_model_scores_as_it_did_with_its_adapter_and_is_a_plain_one(reward_model: Model) -> None:
    names = set(reward_model.network.state_dict())
    part = moved(reward_model, lora_rank=2)
    with torch.no_grad():
        before = heads.rewards(reward_model.network, packed(reward_model))
        part.merge()
        after = heads.rewards(reward_model.network, packed(reward_model))
    assert torch.allclose(after, before, atol=1e-4, rtol=0)
    assert set(reward_model.network.state_dict()) == names
    assert not part.has_adapter


def test_peft_itself_loads_the_adapter_onto_the_base_model(tiny_model: Path, tmp_path: Path) -> None:
    model = models.new_reward_model(str(tiny_model))
    part = moved(model, lora_rank=2)
    part.save_adapter(tmp_path, str(tiny_model))
    again = models.new_reward_model(str(tiny_model))
    loaded = PeftModel.from_pretrained(again.network, str(tmp_path))
    with torch.no_grad():
        expected = heads.rewards(model.network, packed(model))
        found = heads.rewards(loaded.base_model.model, packed(again))
    assert expected.abs().max() > 0.1
    assert torch.allclose(found, expected, atol=CLOSE, rtol=0)


@pytest.mark.parametrize("settings", [{}, {"layers": 2}, {"lora_rank": 2}], ids=["all", "last", "lora"])
def test_weights_come_back(reward_model: Model, settings: dict[str, int]) -> None:
    part = moved(reward_model, **settings)
    saved = {name: weight.detach().clone() for name, weight in part.weights.items()}
    with torch.no_grad():
        for weight in part.weights.values():
            weight += 1
    part.load(saved)
    assert all(torch.equal(weight, saved[name]) for name, weight in part.weights.items())


def held_for_the_way_back(model: Model) -> int:
    """Numbers that a forward pass keeps for its gradient, weights apart."""
    weights = {weight.data_ptr() for weight in model.network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        heads.rewards(model.network, packed(model)).sum().backward()
    return sum(kept.values())


def test_frozen_layers_keep_nothing_for_the_way_back(tiny_model: Path) -> None:
    def held(**settings: int) -> int:
        model = models.new_reward_model(str(tiny_model))
        torch.nn.init.normal_(model.network.score.weight)
        Trainable(model.network, FitTable(**settings), 1)
        return held_for_the_way_back(model)

    one, two, three, four = (held(layers=layers) for layers in (1, 2, 3, 4))
    block = two - one
    assert block > 0
    assert abs(three - two - block) < 0.05 * block
    assert abs(four - three - block) < 0.05 * block
    assert one < 1.5 * block  # a last block with norm and head, and nothing of the three below
    assert held(lora_rank=2, layers=1) < 0.6 * held(lora_rank=2, layers=2)
