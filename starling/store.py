"""A run is a folder; this is the only place that knows its paths and what state each stage is in.

`manifest.json` is written last and by renaming, so a stage is done exactly when the manifest says so.
"""

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import starling
from starling import config as configuration
from starling.config import Config
from starling.errors import DataError, StarlingError, UsageError

FORMAT = 1
ROAD = ("prompts", "sample", "rank", "fit", "tune", "evaluate", "report")


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with explained(f"writing {path}"):
        partial.write_text(text)
        os.replace(partial, path)


def replace_folder(partial: Path, final: Path) -> None:
    """Put a completely written folder in the place of `final`; the old one is gone only after the new one stands."""
    old = final.with_name(final.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        os.replace(final, old)
    os.replace(partial, final)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turn the operating system's refusal (disk full, no permission) into one plain line."""
    try:
        yield
    except OSError as error:
        raise StarlingError(
            f"{doing} failed: {error.strerror or error}; free space or choose another --run folder"
        ) from error


class Run:
    """A run folder that is open for the given configuration."""

    def __init__(self, root: Path, config: Config, manifest: dict[str, Any]) -> None:
        self.root = root
        self.config = config
        self.manifest = manifest

    @classmethod
    def open(cls, root: Path, config: Config) -> "Run":
        """Open or create the folder; a folder of another format or another configuration is left untouched."""
        if root.exists() and not root.is_dir():
            raise UsageError(f"run: {root} is a file, not a folder; choose another --run")
        if not (root / "manifest.json").exists():
            text = configuration.dump(config)
            if any(not _is_of_a_cut_start(path, text) for path in root.glob("*")):
                raise UsageError(f"run: {root} holds other files and no manifest.json; choose another --run folder")
            write_atomically(root / "config.toml", text)
            run = cls(root, config, {"format": FORMAT, "stages": {}})
            run._save()
            return run
        run = cls.read(root)
        if run.config != config:
            changed = ", ".join(_differences(run.config.model_dump(), config.model_dump()))
            raise UsageError(f"run: {root} was made with other settings ({changed}); choose another --run folder")
        return run

    @classmethod
    def read(cls, root: Path) -> "Run":
        """Open an existing run with the configuration it was made with."""
        try:
            manifest = json.loads((root / "manifest.json").read_text())
            version = manifest["format"]
        except FileNotFoundError:
            raise UsageError(f"run: there is no run in {root} (no manifest.json)") from None
        except (ValueError, KeyError, TypeError):
            raise DataError(
                f"run: {root / 'manifest.json'} is not a manifest; restore it or choose another --run"
            ) from None
        if version != FORMAT:
            made_by = manifest.get("versions", {}).get("starling", "another version")
            raise DataError(
                f"run: {root} has format {version} (starling {made_by}), this is format {FORMAT} "
                f"(starling {starling.__version__}); use that version or choose another --run folder"
            )
        return cls(root, configuration.load(root / "config.toml"), manifest)

    def folder(self, stage: str) -> Path:
        """The folder of one stage."""
        path = self.root / stage
        with explained(f"making {path}"):
            path.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def ledger_path(self) -> Path:
        return self.root / "calls.sqlite"

    @property
    def metrics_path(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def report_path(self) -> Path:
        return self.root / "report.html"

    def is_done(self, stage: str) -> bool:
        return self.manifest["stages"].get(stage, {}).get("state") == "done"

    def facts(self, stage: str) -> dict[str, Any]:
        """What a finished stage recorded of itself."""
        if not self.is_done(stage):
            raise UsageError(
                f"{stage}: not done yet in {self.root}; run `starling run --run {self.root} --until {stage}`"
            )
        return self.manifest["stages"][stage]["facts"]

    def started(self, stage: str) -> None:
        """Note that a stage is under way; time spent in interrupted attempts is kept."""
        before = self.manifest["stages"].get(stage, {})
        self.manifest["stages"][stage] = {"state": "running", "seconds": before.get("seconds", 0.0)}
        self._save()

    def spent(self, stage: str, seconds: float) -> None:
        """Add to the time a stage has taken."""
        self.manifest["stages"][stage]["seconds"] = round(self.manifest["stages"][stage]["seconds"] + seconds, 1)
        self._save()

    def finished(self, stage: str, facts: dict[str, Any]) -> None:
        """Note that a stage is done, with what it says of itself; only after all its files stand."""
        entry = self.manifest["stages"][stage]
        outputs = sorted(path for path in self.folder(stage).rglob("*") if path.is_file() and path.suffix != ".pt")
        self.manifest["stages"][stage] = entry | {
            "state": "done",
            "facts": facts,
            "outputs": {str(path.relative_to(self.root)): _sha256(path) for path in outputs},
        }
        self._save()

    def borrow(self, other: "Run", stages: list[str]) -> None:
        """Take finished stages over from another run whose settings agree that far, with their metrics."""
        taken = set()
        for stage in stages:
            if self.is_done(stage) or not other.is_done(stage):
                continue
            shutil.copytree(other.folder(stage), self.root / stage, dirs_exist_ok=True)
            taken.add(stage)
            self.manifest["stages"][stage] = other.manifest["stages"][stage]
            self._save()
        if taken and other.metrics_path.exists():
            lines = [text for text in other.metrics_path.read_text().splitlines() if json.loads(text)["stage"] in taken]
            write_atomically(self.metrics_path, "".join(f"{line}\n" for line in lines))

    def _save(self) -> None:
        self.manifest["versions"] = versions()
        write_atomically(self.root / "manifest.json", json.dumps(self.manifest, indent=1) + "\n")


def versions() -> dict[str, str]:
    """The versions that a run depends on."""
    packages = ("torch", "transformers", "datasets", "pyarrow", "numpy")
    found = {name: metadata.version(name) for name in packages}
    return {"starling": starling.__version__, "python": platform.python_version(), **found}


def stages_that_agree(mine: Config, other: Config) -> list[str]:
    """The leading stages whose settings, and those of all stages before them, are the same in both."""
    agreeing: list[str] = []
    if mine.run != other.run:
        return agreeing
    for stage in ROAD[:-1]:
        if getattr(mine, stage) != getattr(other, stage):
            break
        agreeing.append(stage)
    return agreeing


@contextmanager
def timed(run: Run, stage: str) -> Iterator[None]:
    """Count the wall time of a stage, also when it is interrupted."""
    begun = time.monotonic()
    try:
        yield
    finally:
        run.spent(stage, time.monotonic() - begun)


def _is_of_a_cut_start(path: Path, config: str) -> bool:
    """Whether a run that was killed before its manifest stood has left this file: our own settings, or a part."""
    if path.name == "config.toml":
        return path.read_bytes() == config.encode()
    return path.name in ("config.toml.partial", "manifest.json.partial")


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return [
        f"{table}.{key}: {old[table].get(key)!r} -> {value!r}"[:120]
        for table in new
        for key, value in new[table].items()
        if old[table].get(key) != value
    ]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
