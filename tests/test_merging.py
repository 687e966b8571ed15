"""`starling export --merge`: adapters become a plain model, which is the policy that was tuned."""

import json
from pathlib import Path

import pytest
import torch
from tolerances import CLOSE
from transformers import AutoModelForCausalLM

from starling import cli, heads, merging, models
from starling.adapters import Lora
from starling.config import FitTable
from starling.models import Model
from starling.packing import pack
from starling.policy import Policy
from starling.trainable import Trainable

IDS = torch.tensor([[5, 6, 7, 8, 20, 21]])


@pytest.fixture
def tuned(tiny_model: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Adapters of a policy, and the same policy merged."""
    policy = Policy(models.load_policy(str(tiny_model), torch.float32), 2, lora=Lora(rank=2, alpha=8, seed=1))
    with torch.no_grad():
        for weight in policy.trained.values():
            weight += 0.1 * torch.randn_like(weight)
    policy.sync()
    policy.save_adapter(tmp_path / "adapter", str(tiny_model))
    models.save(Model(policy.network, policy.tokenizer), tmp_path / "policy")
    return tmp_path / "adapter", tmp_path / "policy"


@torch.no_grad()
def test_merged_adapters_are_the_policy(tuned: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    adapter, policy = tuned
    assert cli.main(["export", str(adapter), "--merge", "--out", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["kind"] == "policy"
    logits = [AutoModelForCausalLM.from_pretrained(folder)(IDS).logits for folder in (tmp_path / "out", policy)]
    assert torch.allclose(logits[0], logits[1], atol=CLOSE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "out", "policy"]


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{}", b"{\xff"], ids=["empty", "of nothing", "garbage"])
def test_damaged_adapters_are_told_in_one_line_and_nothing_is_touched(
    tuned: tuple[Path, Path], tmp_path: Path, capsys, file: str, content: bytes
) -> None:
    adapter, _ = tuned
    (adapter / file).write_bytes(content)
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "mine").write_text("keep")
    assert cli.main(["export", str(adapter), "--merge", "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    assert (tmp_path / "out.partial" / "mine").read_text() == "keep" and not (tmp_path / "out").exists()


def test_what_cannot_be_merged_is_one_line(tuned: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    adapter, policy = tuned
    assert cli.main(["export", str(adapter), "--merge", "--out", str(policy)]) == 2
    assert "holds something already; choose another folder" in capsys.readouterr().err
    assert cli.main(["export", str(policy), "--merge", "--out", str(tmp_path / "out")]) == 1
    assert "holds no adapter_config.json" in capsys.readouterr().err
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    assert cli.main(["export", str(adapter), "--merge", "--out", str(tmp_path / "out")]) == 1
    assert "holds no adapter_model.safetensors" in capsys.readouterr().err
    wrong = {
        "--gguf": "not both",
        "--public": "goes with --push",
        "--to=trl": "--merge writes a model",
        "--dtype=f16": "goes with --gguf",
    }
    for option, line in wrong.items():
        assert cli.main(["export", str(adapter), "--merge", option, "--out", str(tmp_path / "out")]) == 2
        assert line in capsys.readouterr().err


@torch.no_grad()
def test_adapters_of_a_reward_model_bring_their_head(tiny_model: Path, tmp_path: Path) -> None:
    model = models.new_reward_model(str(tiny_model))
    part = Trainable(model.network, FitTable(lora_rank=2), 3)
    for weight in part.weights.values():
        weight += 0.1 * torch.randn_like(weight)
    part.save_adapter(tmp_path / "adapter", str(tiny_model))
    assert merging.export(tmp_path / "adapter", tmp_path / "out")["kind"] == "reward model"
    packed = pack([([5, 6, 7], [[20, 21], [30]])])
    found = heads.rewards(models.load_reward_model(str(tmp_path / "out")).network, packed)
    expected = heads.rewards(model.network, packed)
    assert expected.abs().max() > 0.1
    assert torch.allclose(found, expected, atol=CLOSE)
