"""What a stage reads, as digests: the files of its prompts, its models, what earlier stages wrote.

A digest of several files is that of the lines which `sha256sum` prints for them, by name.
"""

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HTTPError  # its HTTP library's own, which one depends on its version

from starling import builtin, endpoints, models, sources
from starling.agreeing import STAGES
from starling.config import Config, PromptsTable
from starling.records import SPLITS
from starling.store import Run
from starling.writing import sha256

EARLIER: Mapping[str, tuple[str, ...]] = {
    "sample": ("prompts",),
    "rank": ("prompts", "sample"),
    "fit": ("prompts", "rank"),
    "tune": ("prompts", "rank", "fit"),
    "evaluate": ("prompts", "fit", "tune"),
    "report": STAGES,
}
_OF_MODELS = (".safetensors", ".json", ".jinja", ".model", ".txt")  # weights, settings, tokenizer


def digests(run: Run, stage: str) -> dict[str, dict[str, str]]:
    """By their names the sources, models and earlier stages that a stage reads, each as `sha256:...`, what the Hub
    holds as `commit:...`; "" where there is nothing to tell of."""
    return {
        "sources": _sources(run.config.prompts) if stage == "prompts" else {},
        "models": {name: of_model(name) for name in _models(run.config, stage)},
        "stages": {
            earlier: _of_lines(run.manifest["stages"][earlier].get("outputs", {})) for earlier in EARLIER.get(stage, ())
        },
    }


def of_model(name: str) -> str:
    """The built-in MODEL by the file that it is made of, one of the Hub by its commit, a folder by its files."""
    if name == builtin.NAME:
        return f"sha256:{builtin.WHEEL_SHA256}"
    folder = Path(models.resolve(name))
    if not folder.is_dir():
        models.load_config(name)  # now the cache knows the commit
        return f"commit:{models.folder_of(name).name}"
    files = [file for file in folder.iterdir() if file.suffix in _OF_MODELS]
    return _of_lines({file.name: _of_file(file) for file in files})


def _models(config: Config, stage: str) -> list[str]:
    """The MODELs in this process that a stage loads beside those that earlier stages made."""
    own = config.run.model
    named = {"prompts": [own], "fit": [config.fit.reward_model or own], "tune": [own], "evaluate": [own]}
    named["rank"] = [own] if config.rank.probe_prompts else []
    asked = [one.model or own for one in config.sample.generators]
    named["sample"] = [name for name in asked if endpoints.find(config, name) is None]
    return list(dict.fromkeys([*named.get(stage, ()), *endpoints.local_judges(config, [stage])]))


def _sources(cfg: PromptsTable) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in (*(source.path for source in cfg.sources), *cfg.decontaminate):
        if path != sources.BUILTIN and not sources.is_local(path):
            found[path] = _of_data_set(path)
            continue
        hashes = {name: _of_file(file) for name, file in _files(path).items()}
        found |= {name: f"sha256:{digest}" if digest else "" for name, digest in hashes.items()}
    return found


def _files(path: str) -> dict[str, Path]:
    """The files of a source on this disk, by what the manifest calls them."""
    if path == sources.BUILTIN:
        folder = Path(str(resources.files("starling") / "data"))
        return {f"{path}/{split}.jsonl": folder / f"{split}.jsonl" for split in SPLITS}
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return {path: folder}
    below = sources.files(folder) or sorted(file for file in folder.rglob("*") if file.is_file())
    return {f"{path.rstrip('/')}/{file.relative_to(folder)}": file for file in below}


def _of_data_set(name: str) -> str:
    """The commit of the Hub's data set that is now the newest, or without the network the one in the cache."""
    try:
        return f"commit:{Path(hf_hub_download(name, 'README.md', repo_type='dataset')).parent.name}"
    except (HTTPError, OSError, ValueError):  # none of that name, no network, no such file; the stage says what matters
        return ""


def _of_lines(hashes: Mapping[str, str]) -> str:
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(hashes.items()))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def _of_file(file: Path) -> str:
    """The hash of a file, read once by a process for as long as it stays as it is; "" where there is none."""
    if not file.is_file():
        return ""
    seen = file.stat()
    return _of_content(file.resolve(), seen.st_size, seen.st_mtime_ns)


@cache
def _of_content(file: Path, _size: int, _modified: int) -> str:
    return sha256(file)
