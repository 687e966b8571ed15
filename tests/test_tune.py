"""tune: the stage, by the command that people use."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small_road import content, recipe
from transformers import AutoModelForCausalLM

from starling import cli, metrics
from starling.checkpoint import Checkpoint
from starling.store import ROAD, Run

SETTINGS = {
    "apa at the sampling policy": ('tune.anchor="sampling"', 'tune.kl_control="adaptive"'),
    "awr": ('tune.algorithm="awr"',),
    "ppo": ('tune.algorithm="ppo"', "tune.epochs_per_step=2"),
    "p3o": ('tune.algorithm="p3o"', 'tune.rewards="judge"'),
    "grpo": ('tune.algorithm="grpo"', "tune.layers=0"),
    "rloo": ('tune.algorithm="rloo"', 'tune.rewards=["rubric", {name = "rewarding:letters", weight = 0.5}]'),
    "reinforce_pp": ('tune.algorithm="reinforce_pp"',),
    "dpo": ('tune.algorithm="dpo"',),
    "ipo": ('tune.algorithm="ipo"',),
    "listwise_dpo": ('tune.algorithm="listwise_dpo"',),
    "sft": ('tune.algorithm="sft"',),
    "lora, a step ahead": ("tune.lora_rank=2", "tune.overlap=true"),
}


@pytest.fixture(scope="module")
def fitted(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A recipe, and a run of it up to `fit`."""
    folder = tmp_path_factory.mktemp("fitted")
    small = recipe(folder, tiny_model)
    assert cli.main(["run", str(small), "--run", str(folder / "run"), "--until", "fit"]) == 0
    return small, folder / "run"


def command(fitted: tuple[Path, Path], root: Path, *changes: str) -> list[str]:
    small, before = fitted
    sets = [word for change in changes for word in ("--set", change)]
    return ["run", str(small), "--run", str(root), "--from", str(before), "--until", "tune", *sets]


def tune(fitted: tuple[Path, Path], root: Path, *changes: str) -> int:
    return cli.main(command(fitted, root, *changes))


def last_step(root: Path) -> int:
    return max((line["step"] for line in metrics.read(root / "metrics.jsonl") if line["stage"] == "tune"), default=0)


def facts_of(root: Path) -> dict:
    return Run.read(root).facts("tune")


@pytest.mark.parametrize("changes", SETTINGS.values(), ids=SETTINGS)
def test_every_algorithm_tunes_a_policy_that_loads(
    changes: tuple[str, ...], fitted: tuple[Path, Path], tmp_path: Path
) -> None:
    root = tmp_path / "run"
    assert tune(fitted, root, *changes) == 0
    facts = facts_of(root)
    lines = [line for line in metrics.read(root / "metrics.jsonl") if line["stage"] == "tune"]
    assert [line["step"] for line in lines] == list(range(facts["steps"] + 1))
    assert facts["steps"] >= 2
    assert all("tune/loss/policy_avg" in line for line in lines[1:])
    assert all("tune/validation/win_rate" in line for line in lines)
    policy = AutoModelForCausalLM.from_pretrained(root / "tune/policy")
    assert all(torch.isfinite(weight).all() for weight in policy.parameters())
    assert (root / "tune/adapter/adapter_config.json").exists() == ("tune.lora_rank=2" in changes)


@pytest.mark.skipif(os.name != "posix", reason="needs kill -9")
def test_after_kill_9_the_same_command_leaves_what_it_would_have_left(
    fitted: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    trained, save = {}, Checkpoint.save

    def noted(checkpoint: Checkpoint, state: dict) -> None:
        parts = [*state["top"].items(), *state["critic"].items()]
        trained[checkpoint.path.parents[1]] = {name: weight.clone() for name, weight in parts}
        save(checkpoint, state)

    monkeypatch.setattr(Checkpoint, "save", noted)
    changes = ('tune.algorithm="ppo"', "tune.steps=8", 'tune.rewards="rubric"', "tune.validate_every=2")
    assert tune(fitted, whole, *changes) == 0
    with (tmp_path / "said").open("w") as said:
        words = [sys.executable, "-m", "starling", *command(fitted, cut, *changes)]
        process = subprocess.Popen(words, stdout=said, stderr=said)
        while last_step(cut) < 3:  # its checkpoint may not be there yet, that of the step before is
            assert process.poll() is None, (tmp_path / "said").read_text()
            time.sleep(0.005)
        process.kill()
        assert process.wait(10) == -signal.SIGKILL
    assert (cut / "tune/checkpoint.pt").exists()
    assert 3 <= last_step(cut) < 8
    assert tune(fitted, cut, *changes) == 0
    torch.testing.assert_close(trained[cut], trained[whole], rtol=0, atol=0)
    assert content(cut / "tune") == content(whole / "tune")
    assert (cut / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert facts_of(cut) == facts_of(whole)


def test_a_reward_model_that_is_there_already_is_tested_and_rewards_without_any_fitting(
    fitted: tuple[Path, Path], tmp_path: Path
) -> None:
    small, before = fitted
    given, root = before / "fit" / "model", tmp_path / "run"
    sets = ["--set", f"fit.reward_model={given}", "--set", "tune.steps=1"]
    assert cli.main(["run", str(small), "--run", str(root), "--from", str(before), *sets]) == 0
    stages = json.loads((root / "manifest.json").read_text())["stages"]
    facts, fitted_facts = stages["fit"]["facts"], json.loads((before / "manifest.json").read_text())["stages"]["fit"]
    assert (facts["steps"], facts["rankings"], facts["reward_model"]["name"]) == (0, 0, str(given))
    assert facts["held_out"] == fitted_facts["facts"]["held_out"]
    assert facts["reward_scale"] == fitted_facts["facts"]["reward_scale"]
    assert (root / "fit/model/model.safetensors").read_bytes() == (given / "model.safetensors").read_bytes()
    assert [line for line in metrics.read(root / "metrics.jsonl") if line["stage"] == "fit"] == []
    assert any(line.get("tune/reward") for line in metrics.read(root / "metrics.jsonl"))
    assert (root / "report.html").exists()


def test_a_reward_model_that_is_none_is_one_line(
    fitted: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_model: Path
) -> None:
    assert tune(fitted, tmp_path / "run", f"fit.reward_model={tmp_path / 'nowhere'}") == 1
    assert tune(fitted, tmp_path / "other", f"fit.reward_model={tiny_model}") == 1
    told = capsys.readouterr().err.splitlines()
    assert [len(told), "there is no such folder" in told[0], "a reward model has" in told[1]] == [2, True, True]


def test_the_tuned_policy_goes_a_second_round(fitted: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert tune(fitted, first, "tune.steps=1") == 0
    policy = first / "tune" / "policy"
    assert cli.main(["run", str(fitted[0]), "--run", str(second), "--set", f"run.model={policy}"]) == 0
    stages = json.loads((second / "manifest.json").read_text())["stages"]
    assert [stages[stage]["state"] for stage in ROAD] == ["done"] * len(ROAD)
    assert stages["tune"]["facts"]["steps"] >= 2
    once, twice = (
        AutoModelForCausalLM.from_pretrained(folder / "tune/policy").state_dict() for folder in (first, second)
    )
    moved = {name for name in once if not torch.equal(once[name], twice[name])}
    trained = ("model.layers.2.", "model.layers.3.", "model.norm.")
    assert moved == {name for name in once if stages["tune"]["facts"]["kept_step"] and name.startswith(trained)}


def test_the_tuned_policy_is_the_same_model_for_llama_cpp(fitted: tuple[Path, Path], tmp_path: Path) -> None:
    root, file = tmp_path / "run", tmp_path / "out" / "policy.gguf"
    changes = ("tune.steps=1", "tune.validation_draws=1", "tune.instruction_drop=1", "tune.length_rise=1e9")
    assert tune(fitted, root, *changes) == 0
    assert cli.main(["export", str(root), "--gguf", "--dtype", "f32", "--out", str(file)]) == 0
    tuned = AutoModelForCausalLM.from_pretrained(root / "tune" / "policy", dtype=torch.float32).eval()
    back = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()
    ids = torch.randint(3, 300, (2, 40))
    with torch.no_grad():
        torch.testing.assert_close(back(ids).logits, tuned(ids).logits, rtol=0, atol=1e-4)


def test_where_no_look_is_better_the_base_itself_is_kept_and_told(
    fitted: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "run"
    assert tune(fitted, root, "tune.learning_rate=1e-12", "tune.steps=1", "tune.ranked_prompts=0") == 0
    assert facts_of(root)["kept_step"] == 0
    assert "so the base itself is kept\n" in capsys.readouterr().out


def test_a_setting_in_vain_is_told(
    fitted: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(fitted, tmp_path / "run", "tune.clip=0.3", "tune.steps=1") == 0
    told = capsys.readouterr().out
    assert "tune.clip is not read by apa with anchor = 'initial'\n" in told
    assert "then 1 steps of 4 prompts x 2 = 8 fresh answers, <= 64 tokens each" in told


def test_a_judge_among_the_rewards_is_not_held_against_them_which_is_told(
    fitted: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(fitted, tmp_path / "run", 'tune.rewards=["model", "judge"]', "tune.steps=1") == 0
    assert "tune: the judge is one of tune.rewards, so looks show no reward and" in capsys.readouterr().out


def test_dropout_of_attention_that_is_left_off_is_told_where_a_model_is_trained(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dropping = tmp_path / "dropping"
    shutil.copytree(tiny_model, dropping)
    told = json.loads((dropping / "config.json").read_text())
    (dropping / "config.json").write_text(json.dumps(told | {"attention_dropout": 0.5}))
    small = recipe(tmp_path, dropping, tune__steps=1, fit__epochs=1)
    assert cli.main(["run", str(small), "--run", str(tmp_path / "run"), "--until", "tune"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "attention_dropout = 0.5" in line]
    assert [line.partition(":")[0] for line in lines] == ["fit", "tune"]


@pytest.mark.parametrize(
    ("changes", "code", "line"),
    [
        (('tune.algorithm="pp0"',), 2, "did you mean 'ppo'?"),
        (('tune.rewards="rewarding:always_one"',), 1, "ranked answers looked at get the same reward"),
        (
            ('tune.rewards="rewarding:sometimes_nan"',),
            1,
            "tune: reward 'rewarding:sometimes_nan' gave nan for an answer",
        ),
        (
            ('tune.rewards="nowhere:at_all"',),
            2,
            "tune: reward 'nowhere:at_all' cannot be imported: ModuleNotFoundError: No module",
        ),
        (("tune.layers=5",), 1, "tune.layers = 5: the model has 4 blocks"),
        (("tune.max_new_tokens=480",), 1, "do not fit, first "),
    ],
)
def test_bad_input_is_one_line(
    changes: tuple[str, ...],
    code: int,
    line: str,
    fitted: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert tune(fitted, tmp_path / "run", *changes) == code
    told = capsys.readouterr().err
    assert line in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    "change", ["fit.layers=5", "tune.layers=5", "tune.max_new_tokens=512", "tune.prompts_per_step=1000000000"]
)
def test_what_cannot_be_trained_is_refused_before_a_stage_is_run(
    change: str, fitted: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", str(fitted[0]), "--run", str(tmp_path / "run"), "--set", change]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not any(Run.read(tmp_path / "run").is_done(stage) for stage in ROAD)
