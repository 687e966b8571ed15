"""A run is a folder; this is the only place that knows its paths and what state each stage is in.

`manifest.json` is written last and by renaming, so a stage is done exactly when the manifest says so.
"""

import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import starling
from starling import config as configuration
from starling.agreeing import STAGES, asked_anew, differences, settled
from starling.config import Config
from starling.errors import DataError, UsageError, explained
from starling.writing import sha256, without_nan, write_atomically, write_json

FORMAT = 1
LEDGER = "calls.sqlite"
ROAD = (*STAGES, "report")


def is_run(path: str | Path) -> bool:
    """Whether a run was begun in this folder."""
    return (Path(path) / "manifest.json").exists()


class Run:
    """A run folder that is open for the given configuration."""

    def __init__(self, root: Path, config: Config, manifest: dict[str, Any]) -> None:
        self.root = root
        self.config = config
        self.manifest = manifest

    @classmethod
    def open(cls, root: Path, config: Config) -> "Run":
        """Open or create the folder; a folder of another format or another configuration is left untouched."""
        refuse_file(root)
        if not is_run(root):
            text = configuration.dump(config)
            if any(not _is_of_a_cut_start(path, text) for path in root.glob("*")):
                raise UsageError(f"run: {root} holds other files and no manifest.json; choose another --run folder")
            write_atomically(root / "config.toml", text)
            run = cls(root, config, {"format": FORMAT, "stages": {}})
            run._save()
            return run
        run = cls.read(root)
        is_other = settled(run.config) != settled(config)
        if is_other and run._holds_nothing():  # its first stage was refused what it named: perhaps what has changed
            run.manifest["stages"] = {}
        elif is_other:
            changed = ", ".join(differences(settled(run.config), settled(config)))
            raise UsageError(
                f"run: {root} was made with other settings ({changed}); choose another --run folder, "
                f"--from {root} takes over what agrees"
            )
        if run.config != config:  # limits, prices, the budget: no row depends on them; more that is asked for
            run._reopen(asked_anew(run.config, config))
            write_atomically(root / "config.toml", configuration.dump(config))
            run.config = config
        return run

    @classmethod
    def read(cls, root: Path) -> "Run":
        """Open an existing run with the configuration it was made with."""
        broken = DataError(f"run: {root / 'manifest.json'} is not a manifest; restore it or choose another --run")
        try:
            manifest = json.loads((root / "manifest.json").read_text())
            version, made_with = manifest["format"], dict(manifest.get("versions", {}))
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(f"run: there is no run in {root} (no manifest.json)") from None
        except (ValueError, KeyError, TypeError):
            raise broken from None
        made_by = f"starling {made_with.get('starling', 'of another version')}"
        if version != FORMAT:
            raise DataError(
                f"run: {root} has format {version} ({made_by}), this is format {FORMAT} "
                f"(starling {starling.__version__}); use that version or choose another --run folder"
            )
        if not _are_stages(manifest.get("stages")):
            raise broken
        try:
            return cls(root, configuration.load(root / "config.toml"), manifest)
        except UsageError as error:
            raise DataError(
                f"run: the settings of {root} (made by {made_by}) do not fit this starling {starling.__version__}: "
                f"{error}; use that version or choose another --run folder"
            ) from error

    def _holds_nothing(self) -> bool:
        """Whether nothing of its first stage is done, so that nothing follows from its settings."""
        begun = self.manifest["stages"].keys()
        return begun <= {ROAD[0]} and not self.is_done(ROAD[0]) and not self.ledger_path.exists()

    def folders(self, stage: str) -> list[Path]:
        """The folders that a stage writes, if they are there; what `rank` could not rank stands beside its rankings."""
        named = [stage, *(["unranked"] if stage == "rank" else [])]
        return [path for name in named if (path := self.root / name).exists()]

    def folder(self, stage: str) -> Path:
        """The folder of one stage."""
        path = self.root / stage
        with explained(f"making {path}"):
            path.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def reward_model_path(self) -> Path:
        """What `fit` leaves, once it is done."""
        return self.root / "fit" / "model"

    @property
    def policy_path(self) -> Path:
        """What `tune` leaves, once it is done."""
        return self.root / "tune" / "policy"

    @property
    def ledger_path(self) -> Path:
        return self.root / LEDGER

    @property
    def metrics_path(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def progress_path(self) -> Path:
        return self.root / "progress.json"

    @property
    def saved_at(self) -> float:
        """When a stage last began or ended here, in seconds since 1970."""
        return (self.root / "manifest.json").stat().st_mtime

    @property
    def report_path(self) -> Path:
        return self.root / "report.html"

    @property
    def versions(self) -> dict[str, str]:
        """What the stages ran on, of a package that changed meanwhile all versions; of a run that did not note it,
        what it was last written by."""
        entries = self.manifest["stages"].values()
        starts = [start for entry in entries for start in (entry, *entry.get("resumed", ())) if "versions" in start]
        found: dict[str, dict[str, None]] = {}
        for start in starts or [self.manifest]:
            for name, version in start.get("versions", {}).items():
                found.setdefault(name, {})[version] = None
        return {name: " and ".join(seen) for name, seen in found.items()}

    def is_done(self, stage: str) -> bool:
        return self.manifest["stages"].get(stage, {}).get("state") == "done"

    def facts(self, stage: str) -> dict[str, Any]:
        """What a finished stage recorded of itself."""
        if not self.is_done(stage):
            raise UsageError(
                f"{stage}: not done yet in {self.root}; run `starling run --run {self.root} --until {stage}`"
            )
        return self.manifest["stages"][stage]["facts"]

    def started(
        self, stage: str, *, threads: int = 0, products: str = "", inputs: Mapping[str, Any] | None = None
    ) -> None:
        """Note that a stage is under way: since when, what it reads, in which versions, on how many threads, with its
        matrix products in which dtype. What interrupted attempts have cost, and what they multiplied in, is kept."""
        before = self.manifest["stages"].get(stage, {})
        start = {"began": _now(), "versions": versions(), "seed": self.config.run.seed, "inputs": inputs or {}}
        self.manifest["stages"][stage] = {
            "state": "running",
            **_since_first(before, start),
            "threads": threads,
            "products": sorted({*before.get("products", []), *([products] if products else [])}),
            "seconds": before.get("seconds", 0.0),
            "peak_memory_mib": before.get("peak_memory_mib", 0),
        }
        self._save()

    def spent(self, stage: str, seconds: float, memory_mib: int = 0) -> None:
        """Add to the time a stage has taken; the highest memory that was seen stays."""
        entry = self.manifest["stages"][stage]
        entry["seconds"] = round(entry["seconds"] + seconds, 1)
        entry["peak_memory_mib"] = max(entry["peak_memory_mib"], memory_mib)
        self._save()

    def finished(self, stage: str, facts: dict[str, Any]) -> None:
        """Note that a stage is done, with what it says of itself; only after all its files stand.

        Its checkpoint goes last: a kill before costs no more than what came after it.
        """
        entry = self.manifest["stages"][stage]
        self._clear(stage)
        found = [path for folder in self.folders(stage) for path in folder.rglob("*")]
        outputs = sorted(path for path in found if path.is_file() and path.suffix != ".pt")
        self.manifest["stages"][stage] = entry | {
            "state": "done",
            "ended": _now(),
            "facts": without_nan(facts),  # as a later process reads them
            "outputs": {str(path.relative_to(self.root)): sha256(path) for path in outputs},
        }
        self._save()
        (self.folder(stage) / "checkpoint.pt").unlink(missing_ok=True)

    def _clear(self, stage: str) -> None:
        """Take away what a kill left of files and folders under way."""
        for folder in self.folders(stage):
            aside = [path for path in folder.glob("*.old-*") if path.is_dir()]
            with explained(f"clearing {folder}"):
                for path in (*folder.glob("*.partial"), *aside):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def adopt(self, entries: Mapping[str, dict[str, Any]], anew: Sequence[str]) -> None:
        """Note stages that another run has finished, once their files stand here; those `anew` go on."""
        self.manifest["stages"] |= entries
        self._reopen(anew)
        self._save()

    def outputs(self, stage: str) -> dict[str, str]:
        """The SHA-256 of each file of a finished stage, as it was when the stage ended."""
        return self.manifest["stages"][stage].get("outputs", {})

    def refuse_damage(self, stages: Sequence[str]) -> None:
        """Stop where a file that one of these finished stages wrote is missing or no longer what it was."""
        outputs = {
            name: digest for stage in stages if self.is_done(stage) for name, digest in self.outputs(stage).items()
        }
        damaged = [name for name, digest in outputs.items() if sha256(self.root / name) != digest]
        if damaged:
            raise DataError(
                f"run: {len(damaged)} of {len(outputs)} finished files in {self.root} are missing or changed, "
                f"first {damaged[0]}; restore them or begin anew in another --run folder"
            )

    def _reopen(self, stages: Sequence[str]) -> None:
        """Let finished stages go on; those behind them begin anew."""
        for stage in filter(self.is_done, stages):
            self.manifest["stages"][stage] |= {"state": "running"}
            for later in ROAD[ROAD.index(stage) + 1 :]:
                self.manifest["stages"].pop(later, None)
            self._save()

    def _save(self) -> None:
        self.manifest["versions"] = versions()  # of who wrote the manifest last; each stage has its own
        write_json(self.root / "manifest.json", self.manifest)


def versions() -> dict[str, str]:
    """The versions that a run depends on."""
    packages = ("torch", "transformers", "datasets", "pyarrow", "numpy")
    found = {name: metadata.version(name) for name in packages}
    return {"starling": starling.__version__, "python": platform.python_version(), **found}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _since_first(before: Mapping[str, Any], start: dict[str, Any]) -> dict[str, Any]:
    """How a stage began, as its first start noted it; each later one stands in `resumed` with what it had otherwise.

    Of a stage that an earlier version began, this is the first start that is known.
    """
    first = {key: before.get(key, value) for key, value in start.items()}
    if not before:
        return first
    again = {key: value for key, value in start.items() if key == "began" or value != first[key]}
    return first | {"resumed": [*before.get("resumed", ()), again]}


def refuse_file(root: Path) -> None:
    """Stop where a folder is wanted and a file stands."""
    if root.exists() and not root.is_dir():
        raise UsageError(f"run: {root} is a file, not a folder; choose another --run")


def _are_stages(stages: Any) -> bool:
    """Whether a manifest can say this of stages: each has a state and its time, a finished one also facts."""
    return isinstance(stages, dict) and all(
        isinstance(entry, dict)
        and {"state", "seconds"} <= entry.keys()
        and (entry["state"] != "done" or isinstance(entry.get("facts"), dict))
        for entry in stages.values()
    )


def _is_of_a_cut_start(path: Path, config: str) -> bool:
    """Whether a run that was killed before its manifest stood has left this file: our own settings, or a part."""
    if path.name == "config.toml":
        return path.read_bytes() == config.encode()
    return path.name in ("config.toml.partial", "manifest.json.partial")
