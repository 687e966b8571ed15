"""LoRA on the tuned top: at first it adds nothing, what it learns can be merged, saved, and loaded by PEFT."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from packed_groups import small
from peft import PeftModel
from safetensors.torch import load_file
from tolerances import CLOSE
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, MixtralConfig

from starling import adapters, models
from starling.adapters import Lora
from starling.errors import ModelError
from starling.packing import pack
from starling.policy import Policy

GROUPS = [([5, 6, 7, 8], [[20, 21], [30, 31, 32]]), ([40, 41], [[50, 51, 52]])]
LORA = Lora(rank=2, alpha=8, seed=11)
IDS = torch.tensor([[5, 6, 7, 8, 20, 21]])


@pytest.fixture
def policy(tiny_model: Path) -> Policy:
    return Policy(models.load_policy(str(tiny_model), torch.float32), 2, lora=LORA)


def move(policy: Policy) -> None:
    """Change every adapter."""
    with torch.no_grad():
        for weight in policy.trained.values():
            weight += 0.1 * torch.randn_like(weight)


def plain(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def test_what_an_adapter_adds_by_hand() -> None:
    # B A = [1 2]^T [3 4] = [[3 4] [6 8]]; alpha / rank = 6 / 1; W + 6 B A = [[1 0] [0 1]] + [[18 24] [36 48]]
    top = nn.Module()
    block = nn.Sequential(nn.Linear(2, 2, bias=False))
    block[0].weight.data = torch.eye(2)
    top.layers = nn.ModuleList([block])
    twin: Any = adapters.adapted(top, Lora(rank=1, alpha=6, seed=0))
    layer = twin.layers[0][0]
    layer.lora_A["default"].weight.data = torch.tensor([[3.0, 4.0]])
    layer.lora_B["default"].weight.data = torch.tensor([[1.0], [2.0]])
    found = {name: weight.tolist() for name, weight in adapters.plain_weights(twin)}
    assert found == {"layers.0.0.weight": [[19.0, 24.0], [36.0, 49.0]]}


def test_matrices_of_experts_get_no_adapters_which_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = small(num_local_experts=2, num_experts_per_tok=1)
    network: Any = AutoModelForCausalLM.from_config(MixtralConfig(**sizes))
    names = adapters.linear_layers(network, network.model.layers)
    assert names and all("self_attn" in name or "gate" in name for name in names)
    # two blocks of two experts with 3 matrices of 16 x 16, and a router
    assert f"LoRA: {2 * (2 * 3 * 16 * 16 + 2 * 16):,} of " in (said := " ".join(capsys.readouterr().out.split()))
    assert f"only {len(names)} linear layers are adapted" in said


def test_a_network_without_linear_layers_is_refused() -> None:
    sizes = {"vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 2}
    network: Any = AutoModelForCausalLM.from_config(GPT2Config(**sizes))
    with pytest.raises(ModelError, match=r"GPT2LMHeadModel has no linear layers that LoRA could adapt"):
        adapters.linear_layers(network, network.transformer.h)


def test_at_first_the_policy_is_the_reference_exactly(policy: Policy) -> None:
    packed = pack(GROUPS)
    features = policy.features(packed)
    assert torch.equal(policy.logprobs(packed, features), features.ref_logprob_N)


def test_adapters_stand_on_every_linear_layer_of_the_top_and_are_all_that_is_trained(policy: Policy) -> None:
    # 2 blocks of q, k, v, o, gate, up, down, with two matrices each
    assert len(policy.trained) == 2 * 7 * 2
    assert all(".lora_" in name for name in policy.trained)
    packed = pack(GROUPS)
    policy.logprobs(packed, policy.features(packed)).sum().backward()
    assert all(weight.grad is not None for weight in policy.trained.values())
    assert all(weight.grad.abs().max() > 0 for name, weight in policy.trained.items() if "lora_B" in name)


def test_the_reference_has_no_weights_of_its_own_and_does_not_move(policy: Policy) -> None:
    packed = pack(GROUPS)
    before = policy.features(packed)
    shared = {id(weight) for weight in policy._reference.parameters()}
    assert shared < {id(weight) for weight in policy.top.parameters()}
    move(policy)
    policy.sync()
    assert all(torch.equal(*pair) for pair in zip(policy.features(packed), before, strict=True))
    assert not torch.equal(policy.logprobs(packed, before), before.ref_logprob_N)


def test_the_seed_draws_the_first_weights_and_leaves_other_numbers_alone(tiny_model: Path) -> None:
    drawn = []
    for seed in (11, 11, 12):
        torch.manual_seed(1)
        found = Policy(models.load_policy(str(tiny_model), torch.float32), 1, lora=LORA._replace(seed=seed))
        drawn.append((found.trained["layers.0.self_attn.q_proj.lora_A.default.weight"], torch.rand(1)))
    assert torch.equal(drawn[0][0], drawn[1][0])
    assert not torch.equal(drawn[0][0], drawn[2][0])
    assert drawn[0][1] == drawn[2][1]


@pytest.mark.parametrize("share", [1.0, 0.5])
@torch.no_grad()
def test_the_merged_network_and_the_saved_adapter_are_one_policy(
    share: float, policy: Policy, tiny_model: Path, tmp_path: Path
) -> None:
    move(policy)
    policy.sync(share)
    policy.save_adapter(tmp_path / "adapter", str(tiny_model), share)
    models.save(models.Model(policy.network, policy.tokenizer), tmp_path / "merged")
    merged, base = plain(tmp_path / "merged")(IDS).logits, plain(tiny_model)(IDS).logits
    loaded: Any = PeftModel.from_pretrained(plain(tiny_model), str(tmp_path / "adapter")).eval()
    assert torch.allclose(loaded(IDS).logits, merged, atol=CLOSE)
    assert (merged - base).abs().max() > 0.1


def test_half_the_share_adds_half_as_much(policy: Policy) -> None:
    move(policy)
    decoder = policy.network.get_decoder()
    added = []
    first = policy._reference.layers[1].mlp.up_proj.weight
    for share in (1.0, 0.5):
        policy.sync(share)
        added.append(decoder.layers[3].mlp.up_proj.weight - first)
    assert torch.allclose(added[1], added[0] / 2, atol=CLOSE)
    assert added[0].abs().max() > 0.01


def test_the_saved_folder_is_named_as_peft_names_things(policy: Policy, tmp_path: Path) -> None:
    policy.save_adapter(tmp_path, "a base")
    told = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (told["r"], told["lora_alpha"], told["task_type"]) == (2, 8, "CAUSAL_LM")
    assert told["base_model_name_or_path"] == "a base"
    names = set(load_file(tmp_path / "adapter_model.safetensors"))
    assert len(names) == 28
    assert "base_model.model.model.layers.2.self_attn.q_proj.lora_A.weight" in names
    assert not any(".layers.0." in name or ".layers.1." in name for name in names)


def test_weights_can_be_taken_and_put_back(policy: Policy) -> None:
    packed = pack(GROUPS)
    features = policy.features(packed)
    kept = {name: weight.clone() for name, weight in policy.weights().items()}
    before = policy.logprobs(packed, features)
    move(policy)
    assert not torch.equal(policy.logprobs(packed, features), before)
    policy.load(kept)
    assert torch.equal(policy.logprobs(packed, features), before)
