"""What a stage reads, as digests that `sha256sum` gives as well."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from small_road import recipe, write_lines

from starling import builtin, cli, config, inputs, models
from starling.store import Run

ENDPOINT = "openai:big@http://localhost:1/v1"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def listed(hashes: dict[str, str]) -> str:
    """The digest of what `sha256sum` prints of these files."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes.items()))
    return f"sha256:{sha256(lines.encode())}"


def opened(root: Path, tiny_model: Path, **changes: object) -> Run:
    return Run.open(root / "run", config.load(recipe(root, tiny_model, **changes)))


def test_every_file_of_the_sources_stands_with_its_hash(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a", "b"):
        write_lines(folder / f"{name}.jsonl", [{"prompt": name}])
    alone, gone = write_lines(tmp_path / "alone.jsonl", [{"prompt": "c"}]), tmp_path / "gone.jsonl"
    sources = ["builtin", str(folder), str(alone), str(gone), "me/no-such-set"]
    run = opened(tmp_path, tiny_model, prompts__sources=sources, prompts__decontaminate=[str(folder / "a.jsonl")])
    found = inputs.digests(run, "prompts")["sources"]
    assert {name.rpartition("/")[2] for name in found if name.startswith("builtin/")} == {
        "train.jsonl", "validation.jsonl", "test.jsonl"
    }  # fmt: skip
    own = {name: digest for name, digest in found.items() if not name.startswith("builtin/")}
    hashes = {str(file): f"sha256:{sha256(file.read_bytes())}" for file in (*sorted(folder.iterdir()), alone)}
    assert own == hashes | {str(gone): "", "me/no-such-set": ""}
    shipped = Path(inputs.__file__).parent / "data" / "test.jsonl"
    assert found["builtin/test.jsonl"] == f"sha256:{sha256(shipped.read_bytes())}"
    run.started("prompts")
    assert inputs.digests(run, "sample")["sources"] == {}


def test_a_models_folder_is_told_by_what_is_loaded_of_it(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    told = inputs.of_model(str(folder))
    kept = [file for file in folder.iterdir() if file.suffix in (".safetensors", ".json", ".jinja")]
    assert told == listed({file.name: sha256(file.read_bytes()) for file in kept})
    (folder / "README.md").write_text("a card")
    assert inputs.of_model(str(folder)) == told
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert inputs.of_model(str(folder)) != told


def test_the_built_in_model_is_told_by_its_pinned_hash_and_not_fetched_for_it() -> None:
    assert inputs.of_model("smollm2") == f"sha256:{builtin.WHEEL_SHA256}"


def test_models_and_data_sets_of_the_hub_are_told_by_their_commits(
    tiny_model: Path, tmp_path: Path, monkeypatch
) -> None:
    snapshot = tmp_path / "snapshots" / "c0ffee"
    shutil.copytree(tiny_model, snapshot)
    monkeypatch.setattr(models, "load_config", lambda name: None)
    monkeypatch.setattr(models, "try_to_load_from_cache", lambda name, file: str(snapshot / file))
    assert inputs.of_model("me/model") == "commit:c0ffee"
    monkeypatch.setattr(inputs, "hf_hub_download", lambda name, file, repo_type: str(snapshot / file))
    run = opened(tmp_path / "of", tiny_model, prompts__sources=["me/prompts"])
    assert inputs.digests(run, "prompts")["sources"] == {"me/prompts": "commit:c0ffee"}


def test_a_file_is_read_once_by_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    monkeypatch.setattr(inputs, "sha256", lambda file: read.append(file) or "00")
    (tmp_path / "config.json").write_text("{}")
    assert inputs.of_model(str(tmp_path)) == inputs.of_model(str(tmp_path))
    assert len(read) == 1
    (tmp_path / "config.json").write_text('{"another": "size"}')
    inputs.of_model(str(tmp_path))
    assert len(read) == 2


def test_who_answers_and_judges_in_this_process_is_read_too(tiny_model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    run = opened(tmp_path, tiny_model, rank__judge=str(other), rank__probe_prompts=0, evaluate__judge=ENDPOINT)
    generators = [run.config.sample.generators[0].model_copy(update={"model": name}) for name in (ENDPOINT, str(other))]
    sample = run.config.sample.model_copy(update={"generators": tuple(generators)})
    run.config = run.config.model_copy(update={"sample": sample})
    for earlier in ("prompts", "sample", "rank", "fit", "tune"):
        run.started(earlier)
    read = {
        stage: list(inputs.digests(run, stage)["models"]) for stage in ("sample", "rank", "fit", "tune", "evaluate")
    }
    mine = str(tiny_model)
    assert read == {
        "sample": [str(other)],
        "rank": [str(other)],
        "fit": [mine],
        "tune": [mine, str(other)],
        "evaluate": [mine],
    }
    taken = run.config.fit.model_copy(update={"reward_model": str(other)})
    run.config = run.config.model_copy(update={"fit": taken})
    assert list(inputs.digests(run, "fit")["models"]) == [str(other)]


def test_each_stage_of_a_run_names_the_outputs_that_it_read(tiny_model: Path, tmp_path: Path) -> None:
    path, root = recipe(tmp_path, tiny_model), tmp_path / "run"
    assert cli.main(["run", str(path), "--run", str(root), "--until", "rank"]) == 0
    stages = json.loads((root / "manifest.json").read_text())["stages"]
    own = {str(tiny_model): inputs.of_model(str(tiny_model))}
    prompts = {"prompts": listed({"prompts/00000.parquet": sha256((root / "prompts/00000.parquet").read_bytes())})}
    sampled = {str(file.relative_to(root)): sha256(file.read_bytes()) for file in (root / "sample").iterdir()}
    source = tmp_path / "prompts.jsonl"
    assert stages["prompts"]["inputs"] == {
        "sources": {str(source): f"sha256:{sha256(source.read_bytes())}"}, "models": own, "stages": {}
    }  # fmt: skip
    assert stages["sample"]["inputs"] == {"sources": {}, "models": own, "stages": prompts}
    assert stages["rank"]["inputs"] == {"sources": {}, "models": own, "stages": prompts | {"sample": listed(sampled)}}
    assert {entry["seed"] for entry in stages.values()} == {3}
