"""What is no model, or no whole one, is one plain line."""

import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from starling import models
from starling.errors import ModelError


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "no such folder"),
        ("/nowhere/at/all", "no such folder"),
        ("misspelt", "no such folder"),
        ("a/b/c", "no such folder"),
        ("~/model", "no such folder"),
    ],
)
def test_a_name_that_is_no_model_is_refused(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        models.resolve(name)


def test_a_folder_and_a_hub_name_are_left_to_transformers(tiny_model: Path) -> None:
    assert models.resolve(str(tiny_model)) == str(tiny_model)
    assert models.resolve("owner/model") == "owner/model"


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        models.load_policy(str(tmp_path))


def test_a_file_is_no_model(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json: a file, where MODEL is smollm2, a folder, or a Hub name"):
        models.load_policy(str(tiny_model / "config.json"))


def test_a_folder_without_a_tokenizer_says_that_in_a_whole_sentence(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_model / "config.json", tmp_path)
    with pytest.raises(ModelError, match="the folder holds no tokenizer; save one into it"):
        models.load_tokenizer(str(tmp_path))
    (tmp_path / "vocab.txt").write_text("a")  # of no tokenizer that is known: transformers' own words, to their end
    with pytest.raises(ModelError, match=r"cannot be loaded: .*[^:]$"):
        models.load_tokenizer(str(tmp_path))


def test_a_hub_name_out_of_reach_is_a_plain_error() -> None:
    with pytest.raises(ModelError, match="owner/model: cannot be loaded"):
        models.load_policy("owner/model")


def test_a_broken_model_is_a_plain_error(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(tiny_model, folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="cannot be loaded"):
        models.load_policy(str(folder))


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_damaged_weights_are_a_plain_error(tiny_model: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_model, folder)
    weights = folder / "model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        weights.unlink()
    with pytest.raises(ModelError, match="cannot be loaded"):
        models.load_policy(str(folder))


def test_a_model_without_a_template_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(tiny_model, folder)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template"):
        models.load_policy(str(folder))


def test_a_models_identity_follows_its_weights_and_its_template(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "same")
    same, first = models.identity(str(tmp_path / "same")), models.identity(str(tiny_model))
    assert (same["weights_sha256"], same["template_hash"]) == (first["weights_sha256"], first["template_hash"])
    assert first["commit"] == ""
    weights = tmp_path / "same" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    tokenizer = models.load_tokenizer(str(tiny_model))
    tokenizer.chat_template = " " + str(tokenizer.chat_template)
    tokenizer.save_pretrained(tmp_path / "same")
    other = models.identity(str(tmp_path / "same"))
    assert other["weights_sha256"] != first["weights_sha256"]
    assert other["template_hash"] != first["template_hash"]


def test_the_identity_of_a_hub_name_is_that_of_the_copy_in_the_cache(tiny_model: Path) -> None:
    cached = Path(constants.HF_HUB_CACHE) / "models--somebody--tiny"
    shutil.copytree(tiny_model, cached / "snapshots" / "abc123")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc123")
    found = models.identity("somebody/tiny")
    assert found == models.identity(str(tiny_model)) | {"name": "somebody/tiny", "commit": "abc123"}
