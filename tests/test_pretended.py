"""The road where there is an accelerator: nothing meets a tensor of another device, and the work is done on it."""

from pathlib import Path

import pytest
import torch
from pretended import DEVICE, Accelerator
from small_road import recipe, write_lines
from transformers import AutoModelForCausalLM

from starling import cli, device, models


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> Accelerator:
    monkeypatch.setattr(device, "default", lambda: DEVICE)
    monkeypatch.setattr(device, "_multiplies_bfloat16", lambda _kind: False)
    return Accelerator()


def test_tensors_of_two_devices_cannot_meet(accelerator: Accelerator) -> None:
    with accelerator:
        here, there = torch.ones(3), torch.ones(3).to(DEVICE)
        assert (here.device.type, there.device, (there + there).device) == ("cpu", DEVICE, DEVICE)
        with pytest.raises(RuntimeError, match="two devices"):
            here + there
        with pytest.raises(TypeError, match="copied to the host"):
            there.numpy()
        assert (there.cpu() + here).tolist() == [2, 2, 2]
        assert torch.zeros(2, device=DEVICE).device == DEVICE


def test_a_model_is_the_same_there(accelerator: Accelerator, tiny_model: Path) -> None:
    here = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    with accelerator:
        there = models.load_policy(str(tiny_model), torch.float32).network
        assert there.device == DEVICE
    for held in ("named_parameters", "named_buffers"):
        own, other = dict(getattr(here, held)()), dict(getattr(there, held)())
        assert own.keys() == other.keys()
        assert all(torch.equal(tensor, other[name]) for name, tensor in own.items())


CHANGES: dict[str, dict[str, object]] = {
    "apa": {"fit__length_head": 1.0, "fit__laplace_prior": 1.0},
    "grpo": {
        "tune__algorithm": "grpo", "tune__ranked_prompts": 0, "tune__rewards": ["rubric", "model"],
        "tune__lora_rank": 2, "fit__lora_rank": 2,
    },
}  # fmt: skip


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_the_road_is_walked_on_the_accelerator(
    changes: dict[str, object], accelerator: Accelerator, tiny_model: Path, tmp_path: Path
) -> None:
    small = recipe(tmp_path, tiny_model, **changes)
    with accelerator:
        assert cli.main(["run", str(small), "--run", str(tmp_path / "run")]) == 0
        assert cli.main(["doctor", str(tmp_path / "run")]) in (0, 1)  # does it end its answers?
        asked = [{"prompt": "what is rain?", "answer": answer} for answer in ("wet", "the rain in spain")]
        rows = write_lines(tmp_path / "rows.jsonl", asked)
        rewards = ["--model", str(tmp_path / "run" / "fit" / "model"), "--in", str(rows)]
        assert cli.main(["score", *rewards, "--out", str(tmp_path / "scored.jsonl")]) == 0
    assert accelerator.linears[True] > 1000
    assert accelerator.linears[False] == 0
