"""`starling doctor` on a small run, by the command that people use."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from small_road import recipe
from transformers import AutoModelForCausalLM
from vllm_server import VllmServer

from starling import cli, doctor, tables
from starling.store import Run


@pytest.fixture(scope="module")
def fitted(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("doctor")
    small = recipe(folder, tiny_model)
    assert cli.main(["run", str(small), "--run", str(folder / "run"), "--until", "fit"]) == 0
    return folder / "run"


def asked(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict, str]:
    capsys.readouterr()
    code = cli.main(["doctor", *arguments, "--json"])
    captured = capsys.readouterr()
    return code, json.loads(captured.out or "{}"), captured.err


def test_a_run_is_examined_and_left_as_it_was(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in fitted.rglob("*") if path.is_file()}
    code, found, told = asked(str(fitted), capsys=capsys)
    states = {finding["name"]: finding["state"] for finding in found["findings"]}
    assert list(states) == [
        "memory", "window", "template", "KL at step 0", "EOS rate", "sampler and trainer", "reward model",
        "reward model's window", "reward spread",
    ]  # fmt: skip
    fit = (
        "memory", "window", "template", "KL at step 0", "sampler and trainer", "reward model's window", "reward spread",
    )  # fmt: skip
    assert {states[name] for name in fit} == {"ok"}
    assert code == (0 if found["fit_to_tune"] else 1)
    assert found["fit_to_tune"] == ("stop" not in states.values())
    assert ("checks say stop" in told) == (code == 1)
    assert {path: path.stat().st_mtime_ns for path in fitted.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("change", "told_of"),
    [
        ("fit.layers=1", "{} did fit with other settings (fit.layers: 0 -> 1); what that left is looked at as it is"),
        ("rank.tie_margin=0.5", "{} did rank, fit with other settings (rank.tie_margin: "),
        ("tune.lam=3.0", ""),
    ],
)
def test_a_stage_that_was_done_with_other_settings_is_told(
    change: str, told_of: str, fitted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, told = asked(str(fitted), "--set", change, capsys=capsys)
    said = " ".join(told.split())
    assert told_of.format(fitted) in said
    assert ("other settings" in said) == bool(told_of)


@pytest.mark.parametrize(
    ("change", "name", "text"),
    [
        ('tune.rewards="rewarding:always_one"', "reward spread", "standard deviation 0"),
        ('tune.rewards="rewarding:sometimes_nan"', "reward spread", "gave nan for an answer"),
        ('tune.rewards="rewarding:not_there"', "reward spread", "not_there"),
        ("tune.max_new_tokens=480", "window", "of the model's 512"),
    ],
)
def test_what_must_stop_exits_with_1_and_says_why(
    change: str, name: str, text: str, fitted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found, told = asked(str(fitted), "--set", change, capsys=capsys)
    (finding,) = (finding for finding in found["findings"] if finding["name"] == name)
    assert (code, finding["state"], found["fit_to_tune"]) == (1, "stop", False)
    assert text in finding["text"]
    assert finding["fix"]
    assert name in told.splitlines()[-1]


def test_a_server_that_samples_is_held_against_the_trainer_and_given_nothing(
    fitted: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = AutoModelForCausalLM.from_pretrained(tiny_model)
    torch.nn.init.normal_(network.model.norm.weight, std=3.0)
    other = shutil.copytree(tiny_model, tmp_path / "other")
    network.save_pretrained(other)
    states = []
    for served in (tiny_model, other):
        with VllmServer(served) as server:
            _code, found, _told = asked(str(fitted), "--set", f"tune.sampler=vllm@{server.url}", capsys=capsys)
            assert len(server.requests) == 8 * 2
            assert (server.loaded, server.reloads) == ([], 0)
        states += [finding["state"] for finding in found["findings"] if finding["name"] == "sampler and trainer"]
    assert states[0] == "ok" != states[1]


def test_a_server_that_is_not_there_stops(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found, _told = asked(str(fitted), "--set", "tune.sampler=vllm@http://127.0.0.1:9", capsys=capsys)
    assert (code, found["findings"][-1]["name"], found["findings"][-1]["state"]) == (1, "sampler", "stop")
    assert "is the server running?" in found["findings"][-1]["text"]


def test_before_a_run_has_begun_the_model_alone_is_examined(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = recipe(tmp_path, tiny_model, tune__algorithm="dpo")
    code, found, told = asked(str(small), "--run", str(tmp_path / "run"), capsys=capsys)
    assert [finding["name"] for finding in found["findings"]] == ["memory", "window", "template", "KL at step 0"]
    assert code == 0
    assert "the run has no prompts yet, so the built-in ones stand in" in told
    assert not (tmp_path / "run").exists()


def test_the_largest_rankings_are_looked_at_wherever_they_stand(fitted: Path) -> None:
    run = Run.read(fitted)
    prompts, first, longest = doctor._read(run)
    every = tables.rankings_of(run, prompts)
    assert len(first) == min(doctor.PROMPTS, len(every))
    sizes = sorted(map(doctor._characters, every), reverse=True)
    assert list(map(doctor._characters, longest)) == sizes[: doctor.LONGEST]
