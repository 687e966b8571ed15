"""evaluate: how far the policy moved; what was measured stands."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from compared_cases import case
from small_road import recipe
from tolerances import EXACT
from transformers import AutoModelForCausalLM
from transformers.modeling_utils import PreTrainedModel

from starling import chat, config, data_files, models, tables
from starling.config import Config
from starling.stages import evaluate
from starling.store import Run


@pytest.fixture
def settings(tiny_model: Path, tmp_path: Path) -> Config:
    return config.load(recipe(tmp_path, tiny_model))


def tuned_of(folder: Path) -> PreTrainedModel:
    return models.load_policy(str(folder)).network


def test_a_policy_that_did_not_move_has_not_drifted(settings, tiny_model: Path) -> None:
    cases = [case(0.5, reference="the rain"), case(1.0, answers=("", ""))]
    found = evaluate._drift(settings, tuned_of(tiny_model), cases)
    assert found["kl"] == pytest.approx(0.0, abs=EXACT)
    assert found["reference_logprob_base"] == found["reference_logprob_tuned"] < 0
    assert found["explained_by_finish_and_repetition"] == 1.0


@pytest.mark.parametrize("judge", ['judge = "openai:big@http://127.0.0.1:9/v1"', 'judges = ["rubric", "smollm2"]'])
def test_what_the_rubric_does_not_reward_explains_no_wins_of_other_judges(
    tiny_model: Path, tmp_path: Path, judge: str
) -> None:
    name, value = judge.split(" = ")
    settings = config.load(recipe(tmp_path, tiny_model), [f"evaluate.{name}={value}"])
    assert evaluate._drift(settings, tuned_of(tiny_model), [case(1.0)])["explained_by_finish_and_repetition"] is None


def test_drift_is_the_kl_over_the_vocabulary_at_each_token_that_was_said(settings, tiny_model: Path, tmp_path: Path):
    tuned = models.load_policy(str(tiny_model), torch.float32)
    with torch.no_grad():
        for weight in tuned.network.model.layers[-1].parameters():
            weight.mul_(1.1)
    models.save(tuned, tmp_path / "tuned")
    said = case(0.5, answers=("dry", "the rain in spain"), reference="the rain")
    cut = replace(said.answers[1], finished=False)
    found = evaluate._drift(
        settings, tuned_of(tmp_path / "tuned"), [said, replace(said, answers=(said.answers[0], cut))]
    )
    base, moved = (AutoModelForCausalLM.from_pretrained(folder) for folder in (tiny_model, tmp_path / "tuned"))
    prompt = chat.prompt_ids(tuned.tokenizer, said.prompt.messages)
    stop = frozenset(moved.generation_config.eos_token_id)
    total = 0.0
    for finished in (True, False):
        ids = chat.turn_ids(tuned.tokenizer, said.prompt.messages, "the rain in spain", stop, finished=finished)
        logp, ref = (
            net(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            for net in (moved, base)
        )
        total += float((logp.exp() * (logp - ref)).sum().detach())
    assert found["kl"] == pytest.approx(total / 2, rel=0.05)  # bfloat16
    assert found["kl"] > 0.1
    assert found["reference_logprob_base"] != found["reference_logprob_tuned"]


def test_drift_needs_neither_references_nor_answers(settings, tiny_model: Path) -> None:
    found = evaluate._drift(settings, tuned_of(tiny_model), [case(0.5, answers=("", ""))])
    assert (found["kl"], found["reference_logprob_base"], found["reference_logprob_tuned"]) == (0.0, None, None)


def test_what_was_measured_stands_while_all_its_files_do(settings, tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", settings)
    folder = run.folder("evaluate")
    for name in ("base", "tuned"):
        data_files.write_parquet(folder / f"{name}.parquet", [], tables.CANDIDATES)
    (folder / "cases.jsonl").write_text("")
    table = {"judge": "rubric", "scores": [{"value": float("nan")}], "benchmarks": ["of other settings"]}
    (folder / "scores.json").write_text(json.dumps(table))
    found = evaluate.run(run)
    assert found.keys() == {"judge", "scores"} and str(found["scores"]) == "[{'value': nan}]"
    assert "benchmarks" not in json.loads((folder / "scores.json").read_text())
    (folder / "cases.jsonl").unlink()
    assert evaluate._standing(run) is None
