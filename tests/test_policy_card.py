"""The card of a tuned policy: its numbers are the run's, its code runs, no foreign text becomes Markdown."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import runs
from huggingface_hub import ModelCard

from starling import digest, policy_card
from starling.borrowing import borrow
from starling.config import Config
from starling.stages import report
from starling.store import Run

BENCHMARK = {
    "title": "our <b>questions</b>", "bench": "ifeval", "kind": "change", "judge": "", "template_hash": "", "data": "d",
    "cases": 50, "date": "2026-11-28", "says": [], "left_out": 0, "contamination": None,
    "rows": [{
        "label": "prompts", "level": 0, "kind": "share", "base": {"value": 0.25, "low": 0.2, "high": 0.3, "n": 50},
        "tuned": {"value": 0.375, "low": 0.3, "high": 0.45, "n": 50},
        "change": {"value": 0.125, "low": 0.05, "high": 0.2, "n": 50}, "length_only": None, "says": "better",
    }],
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A finished run whose policy is the tiny model."""
    tune = runs._tune

    def with_policy(run: Run) -> dict[str, Any]:
        shutil.copytree(tiny_model, run.policy_path)
        return tune(run)

    monkeypatch.setattr(runs, "_tune", with_policy)
    return runs.make(tmp_path / "run", benchmarks=(BENCHMARK,))


def card(run: Run, **more: Any) -> ModelCard:
    return ModelCard(policy_card.text(run, **more))


def changed(run: Run, /, **tables: Any) -> Run:
    own = run.config.model_dump(mode="json")
    new = {name: own[name] | values if isinstance(values, dict) else values for name, values in tables.items()}
    settings = Config.model_validate(own | new)
    return Run(run.root, settings, run.manifest)


def test_the_hub_reads_its_header(run: Run) -> None:
    header = card(run).data.to_dict()
    assert header["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert (header["library_name"], header["pipeline_tag"]) == ("transformers", "text-generation")
    assert header["language"] == "en" and "license" not in header
    assert {"rlaif", "starling", "apa"} <= set(header["tags"])
    assert card(run, licence="apache-2.0").data.to_dict()["license"] == "apache-2.0"
    other = changed(run, prompts={"sources": [{"path": "mine.jsonl"}]}, run={"model": str(run.root)})
    header = card(other).data.to_dict()
    assert "language" not in header and "base_model" not in header
    assert card(changed(run, prompts={"language": "de"})).data.language == "de"


def test_what_was_measured_is_the_hubs_index_with_intervals_and_cases(run: Run) -> None:
    result = digest.digest(run)["result"]
    found = {one.metric_type: one for one in card(run).data.eval_results}
    rate = next(one for one in result["win_rates"] if one["key"] == "win_rate")
    assert found["win_rate"].metric_value == rate["value"]
    assert found["win_rate"].metric_args == {key: rate[key] for key in ("low", "high", "n")}
    assert "rubric, a program, not an LLM" in found["win_rate"].metric_name
    score = next(row for row in result["table"] if row["key"] == "rubric_score")["tuned"]
    assert (found["rubric_score"].metric_value, found["rubric_score"].metric_args["n"]) == (score["value"], score["n"])
    assert found["ifeval"].metric_value == 0.375
    assert "reward" not in found  # tuning was told to raise it


def test_its_tables_are_the_runs_figures(run: Run) -> None:
    text = card(run).text
    facts = run.facts("evaluate")
    scores = {score["name"]: score for score in facts["scores"]}
    rate = scores["win_rate"]
    win = f"{100 * rate['value']:.1f} % ({100 * rate['low']:.1f} to {100 * rate['high']:.1f}), n = {rate['n']}"
    assert f"| All test prompts | {win} |" in text
    assert re.search(
        rf"^\| Rubric score \| {scores['base/rubric_score']['value']:.3f} .*n = \d+ \| .*n = \d+ \|", text, re.M
    )
    assert (
        "| our &lt;b&gt;questions&lt;/b&gt;: prompts | 25.0 % | 37.5 % | +12.5 pt (+5.0 to +20.0) | 50 | change |"
        in text
    )
    assert f"{run.facts('tune')['steps']} steps, 45,123 tokens of its own answers, seed 42." in text
    assert "fitted on 120 rankings with the loss `plackett_luce`" in text
    assert "| Model, all pairs | 80.0 % (70.0 to 90.0), n = 370 |" in text
    assert "Judge of the rankings: rubric, a program, not an LLM" in text


def test_only_settings_that_the_algorithm_reads_stand_there(run: Run) -> None:
    text = card(run).text
    assert "| `lam` | 0.5 |" in text and "| `clip` |" not in text and "checkpoint_seconds" not in text
    assert "| `rewards` |" not in text and "| `algorithm` |" not in text
    text = card(changed(run, tune={"algorithm": "dpo"})).text
    assert "| `beta` | 0.1 |" in text and "| `lam` |" not in text
    assert "None: it learns from the ranks of answers." in text and "was fitted on" not in text


def test_the_address_of_a_server_that_sampled_is_not_told(run: Run) -> None:
    text = card(changed(run, tune={"sampler": "vllm@http://10.0.0.7:8000"})).text
    assert "| `sampler` | vllm |" in text and "10.0.0.7" not in text


def test_a_policy_that_was_not_measured_says_so(run: Run) -> None:
    del run.manifest["stages"]["evaluate"]
    found = card(run)
    assert found.data.eval_results is None
    assert "Nothing was measured yet" in found.text and "win rates" not in found.text


def test_whose_weights_they_are_is_said(run: Run) -> None:
    facts = run.manifest["stages"]["tune"]["facts"]
    facts["kept_step"] = 3
    assert "those of step 3: of the looks that may be kept the judge of the rankings liked it best" in card(run).text
    source = changed(run, rank={"judge": "source"}, sample={"generators": []})
    assert "the judge of the test liked it best" in card(source).text
    facts["kept_step"] = 0
    assert "No step was kept: the weights are the base's" in card(run).text


def test_the_hosts_of_those_who_ranked_and_of_those_who_tested_are_named(run: Run) -> None:
    endpoint = {"model": "m", "urls": ["https://api.example.com/v1"]}
    own = changed(
        run,
        endpoints=[endpoint | {"name": "big"}, endpoint | {"name": "small", "urls": ["https://other.example.com/v1"]}],
        rank={"judge": "small"},
        evaluate={"judge": "big"},
    )
    assert "came from api.example.com, other.example.com" in card(own).text


def test_foreign_text_means_nothing_but_itself(run: Run) -> None:
    run.manifest["stages"]["rank"]["facts"]["judge"] = runs.HOSTILE
    run.manifest["stages"]["prompts"]["facts"]["sources"] = [{"name": "a|b\n# z", "read": 1, "kept": 1}]
    plain = re.sub(r"```.*?```", "", card(run).text, flags=re.DOTALL)
    assert "<script>" not in plain and "<b>" not in plain and "<img" not in plain
    assert not re.search(r"^# z", plain, re.MULTILINE) and r"| a\|b # z | 1 | 1 |" in plain


def test_its_lineage_names_what_was_read_without_this_machines_folders(run: Run, tmp_path: Path) -> None:
    own = run.manifest["stages"]
    own["prompts"]["inputs"] = {"sources": {str(tmp_path / "mine.jsonl"): "sha256:01"}}
    own["tune"]["inputs"] = {"models": {str(tmp_path): "sha256:02"}, "stages": {"fit": "sha256:03"}}
    text = card(run).text
    assert r"- Source of prompts mine.jsonl: `sha256:01`" in text and "- Outputs of fit: `sha256:03`" in text
    assert f"- model.safetensors: `sha256:{own['tune']['outputs']['tune/policy/model.safetensors']}`" in text
    assert str(tmp_path) not in text and "(a folder): `sha256:02`" in text


def test_its_code_answers(run: Run) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```", card(run).text, re.MULTILINE | re.DOTALL)
    found: dict[str, Any] = {}
    exec(block.replace("THIS_FOLDER_OR_NAME", str(run.policy_path)), found)
    assert isinstance(found["answer"], str)


def test_a_gguf_file_is_loaded_otherwise(run: Run) -> None:
    found = card(run, gguf="my policy.gguf")
    assert found.data.library_name == "gguf"
    assert "llama-cli -m 'my policy.gguf'\nollama create my-model -f 'my policy.Modelfile'\n" in found.text
    assert "AutoModelForCausalLM" not in found.text


def test_the_report_writes_it_and_the_run_is_whole_and_lends_it(run: Run, tmp_path: Path) -> None:
    report.run(run)
    written = (run.policy_path / "README.md").read_text()
    assert written == policy_card.text(run)
    again = Run.read(run.root)
    again.refuse_damage(["tune", "evaluate"])
    other = Run.open(tmp_path / "other", run.config)
    borrow(other, again, list(runs.ALL))
    assert (other.policy_path / "README.md").read_text() == written


def test_without_a_policy_there_is_no_card(tmp_path: Path) -> None:
    run = runs.make(tmp_path / "run")
    report.run(run)
    assert not run.policy_path.exists()
