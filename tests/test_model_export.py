"""Models that `starling export` writes and pushes, each with its card; the Hub is a stand-in."""

import shutil
from pathlib import Path
from typing import Any

import hub_server
import pytest
import runs
import torch
from huggingface_hub import ModelCard

from starling import cli, hub, models, policy_card
from starling.adapters import Lora
from starling.policy import Policy
from starling.store import Run

Pushed = list[dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path, tiny_model: Path) -> Run:
    """A run that tuned adapters of the tiny model, so small that nothing else of it stands."""
    run = runs.make(tmp_path / "run", ("prompts", "sample", "rank", "fit"))
    run.started("tune")
    policy = Policy(models.load_policy(str(tiny_model), torch.float32), 2, lora=Lora(rank=2, alpha=8, seed=1))
    policy.save_adapter(run.folder("tune") / "adapter", str(tiny_model))
    shutil.copytree(tiny_model, run.policy_path)
    run.finished("tune", {"steps": 3, "kept_step": 2})
    return run


@pytest.fixture
def pushed(monkeypatch: pytest.MonkeyPatch) -> Pushed:
    """What was pushed, each file by its bytes."""
    found: Pushed = []

    def push(files: dict[str, Any], name: str, stands: Path, *, kind: str, public: bool) -> str:
        content = {path: one.encode() if isinstance(one, str) else one.read_bytes() for path, one in files.items()}
        found.append({"files": content, "name": name, "stands": stands, "kind": kind, "public": public})
        return f"https://hub.example/{name}"

    monkeypatch.setenv("HF_TOKEN", "hf_x")
    monkeypatch.setattr(hub, "push", push)
    return found


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_policy_of_a_run_goes_with_its_card_and_the_run_stays_as_it_is(run: Run, pushed: Pushed) -> None:
    before = content(run.policy_path)
    assert cli.main(["export", str(run.root), "--push", "me/policy", "--license", "mit"]) == 0
    (told,) = pushed
    card = told["files"].pop("README.md").decode()
    assert card == policy_card.text(run, licence="mit") and ModelCard(card).data.license == "mit"
    assert (told["files"], told["kind"], told["public"]) == (before, "model", False)
    assert content(run.policy_path) == before


def test_a_gguf_file_goes_with_what_ollama_needs_and_a_card(run: Run, pushed: Pushed, tmp_path: Path) -> None:
    out = tmp_path / "out" / "p.gguf"
    out.parent.mkdir()
    (out.parent / "private.txt").write_text("stays here")
    assert cli.main(["export", str(run.root), "--gguf", "--out", str(out), "--push", "me/p-gguf", "--public"]) == 0
    (told,) = pushed
    assert set(told["files"]) == {"p.gguf", "p.Modelfile", "README.md"} and told["public"]
    assert told["files"]["p.gguf"] == out.read_bytes()
    assert ModelCard(told["files"]["README.md"].decode()).data.library_name == "gguf"


def test_merged_adapters_of_a_run_get_the_card_pushed_or_not(run: Run, pushed: Pushed, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli.main(["export", str(run.root), "--merge", "--out", str(out), "--push", "me/merged"]) == 0
    assert (out / "README.md").read_text() == policy_card.text(run)
    assert pushed[0]["files"] == content(out) and "model.safetensors" in pushed[0]["files"]


def test_a_models_folder_goes_as_it_stands_without_what_is_hidden(
    tiny_model: Path, pushed: Pushed, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    (folder / "README.md").write_text("mine")
    expected = content(folder)
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("secret")
    (folder / ".env").write_text("secret")
    assert cli.main(["export", str(folder), "--push", "me/mine"]) == 0
    assert pushed[0]["files"] == expected


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--push", "me/x", "--out", "DIR"], "--out goes with --to, --gguf or --merge"),
        (["--gguf"], "give --out"),
        (["--push", "me/x", "--dtype", "f16"], "--dtype goes with --gguf"),
        (["--push", "me/x", "--pairs", "all"], "give --to FORMAT"),
        (["--push", "me/x", "--license", "mit"], "--license goes into a run's card or a GGUF file"),
        (["--push", "me/x"], "is neither a run nor a folder with a model"),
        (["--out", "DIR"], "give --to FORMAT"),
    ],
)
def test_what_does_not_go_together_is_one_line(
    pushed: Pushed, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    assert cli.main(["export", str(tmp_path), *(word.replace("DIR", str(tmp_path / "out")) for word in arguments)]) != 0
    printed = capsys.readouterr().err
    assert line in printed and printed.count("\n") == 1
    assert not pushed and not list(tmp_path.iterdir())


def test_a_damaged_policy_is_not_pushed(run: Run, pushed: Pushed, capsys: pytest.CaptureFixture[str]) -> None:
    (run.policy_path / "config.json").write_text("{}")
    assert cli.main(["export", str(run.root), "--push", "me/policy"]) == 1
    assert "missing or changed, first tune/policy/config.json" in capsys.readouterr().err and not pushed


def test_a_model_is_private_on_the_hub_and_a_refusal_hides_the_token(tiny_model: Path) -> None:
    with hub_server.running() as server:
        done = hub_server.exporting(tiny_model, server, "--push", "me/model")
        assert done.returncode == 0, done.stderr
        assert (server.private, server.kinds) == ({"me/model": True}, {"me/model": "models"})
        assert server.files == content(tiny_model)
        assert f"pushed to {server.url}/me/model" in done.stdout
        server.refuses = True
        refused = hub_server.exporting(tiny_model, server, "--push", "me/model")
        assert refused.returncode == 1 and hub_server.SECRET not in refused.stderr
        assert refused.stderr.startswith(
            f"error: export: pushing to me/model failed; the export stands in {tiny_model}"
        )
    gone = hub_server.exporting(tiny_model, server, "--push", "me/model")
    assert gone.returncode == 1 and gone.stderr.count("\n") == 1 and "pushing to me/model failed" in gone.stderr
