"""lm-evaluation-harness, run in a process of its own on a folder, and the results files that it writes."""

import hashlib
import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from starling import device, progress
from starling.benches.left_out import LeftOut
from starling.errors import DataError, StarlingError, UsageError
from starling.stats import NORMAL
from starling.writing import sha256, write_atomically

EXTRA = "lm-eval"
_SHARES = ("acc", "exact_match", "em", "f1", "mc1", "mc2", "pass@", "prompt_level", "inst_level")


class Key(NamedTuple):
    """Which figure it is: the task, its metric, and the harness's filter of replies."""

    task: str
    metric: str
    filter: str

    @property
    def name(self) -> str:
        return f"{self.task} {self.metric}" + (f" ({self.filter})" if self.filter not in ("none", "") else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure with its standard error (NaN: not told) and cases; `good` is 1 where more is better, else -1.

    `shots` is how many examples stand in each prompt and `version` the task's: only figures that share both are
    comparable.
    """

    key: Key
    value: float
    error: float
    n: int
    good: int
    level: int
    shots: Any
    version: Any

    @property
    def is_share(self) -> bool:
        return self.key.metric.startswith(_SHARES) and 0 <= self.value <= 1


class Results(NamedTuple):
    """What a results file holds: figures, those left out, and who was tested by which version."""

    figures: Sequence[Figure]
    left_out: Sequence[LeftOut]
    model: str
    version: str


def run(folder: str, tasks: str, out: Path, identity: Mapping[str, Any], tasks_from: Path | None = None) -> Path:
    """Let the harness test the model in `folder`, unless `out` holds the results of the same tasks, weights and dtype.

    It knows its own tasks and those of `tasks_from`, a folder of its YAML files.
    """
    refuse_missing()
    asked = {"tasks": sorted(tasks.split(",")), "weights": identity["weights_sha256"], "dtype": _dtype()}
    wanted = json.dumps(asked | ({"tasks_from": digest(tasks_from)} if tasks_from else {}))
    request = out / "request.json"
    if request.exists() and request.read_text() == wanted and (done := newest(out)):
        progress.say(f"bench: {done} holds these tasks already; remove it to run them again")
        return done
    if set(",=") & set(folder):
        raise UsageError(f"bench: {folder}: the harness takes no path with a comma or an equals sign")
    out.mkdir(parents=True, exist_ok=True)
    request.unlink(missing_ok=True)
    log = out / "harness.log"
    progress.say(f"bench: lm-evaluation-harness is at work, what it says is in {log}")
    with log.open("w") as said:
        code = subprocess.run(
            command(folder, tasks, out, tasks_from), stdout=said, stderr=subprocess.STDOUT, check=False
        ).returncode
    found = newest(out) if code == 0 else None
    if found is None:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] or ["nothing"]
        raise StarlingError(
            f"bench: lm-evaluation-harness ended with code {code}, saying {lines[-1]!r}; all is in {log}"
        )
    write_atomically(request, wanted)
    return found


def refuse_missing() -> None:
    """Stop where the harness is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise UsageError(
            f"bench: lm_eval needs lm-evaluation-harness; `pip install '.[{EXTRA}]'` in Starling's folder brings it"
        )


def digest(path: Path) -> str:
    """Tells a file, or the files of a folder, from all others."""
    found = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    content = hashlib.sha256()
    for file in sorted(one for one in found if "__pycache__" not in one.parts):
        content.update(f"{file.relative_to(path)}\0{sha256(file)}\0".encode())
    return content.hexdigest()


def command(folder: str, tasks: str, out: Path, tasks_from: Path | None = None) -> list[str]:
    """The harness's command line: weights as they are, no chat template, no code of a data set or model."""
    return [
        sys.executable, "-m", "lm_eval", "--model", "hf", "--model_args", f"pretrained={folder},dtype={_dtype()}",
        "--tasks", tasks, "--output_path", str(out), *(["--include_path", str(tasks_from)] if tasks_from else []),
    ]  # fmt: skip


def _dtype() -> str:
    """What a model is tested in on this machine."""
    return device.dtype_name(device.product_dtype())


def newest(folder: Path) -> Path | None:
    """The results file that was written last in a folder or below."""
    return max(folder.rglob("results_*.json"), key=lambda file: file.stat().st_mtime, default=None)


def read(path: Path) -> Results:
    """The figures of a results file; a figure that is no number is left out and told."""
    try:
        held = json.loads(path.read_text())
        tasks = held["results"].items()
        if not all(isinstance(task, dict) for _, task in tasks):
            raise TypeError
    except FileNotFoundError:
        raise UsageError(f"bench: {path}: there is no such file") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DataError(
            f"bench: {path}: no results file of lm-evaluation-harness: it holds no table `results`"
        ) from None
    figures, lost = [], []
    below = {name for group, names in held.get("group_subtasks", {}).items() for name in names if name != group}
    for task, found in tasks:
        for column, value in found.items():
            metric, comma, chosen = column.partition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            key = Key(task, metric, chosen)
            if not _is_number(value):
                lost.append(LeftOut(key.name, "a figure that is no number", repr(value)[:60]))
                continue
            n = _cases(task, held)
            better = held.get("higher_is_better", {}).get(task, {}).get(metric, True)
            figures.append(
                Figure(
                    key=key,
                    value=float(value),
                    error=_error(found.get(f"{metric}_stderr,{chosen}"), metric, value, n),
                    n=n,
                    good=-1 if better is False else 1,
                    level=int(task in below),
                    shots=held.get("n-shot", {}).get(task),
                    version=held.get("versions", {}).get(task),
                )
            )
    if not figures:
        raise DataError(f"bench: {path} holds no figure in its table `results`")
    return Results(figures, lost, str(held.get("model_name", path.name)), str(held.get("lm_eval_version", "")))


def _error(said: Any, metric: str, value: float, n: int) -> float:
    """The harness's standard error; NaN where it tells none.

    Where all of n answers are right, or none, it says 0, as if no other answer could be different. There it is
    z / (n + z^2) for z = 1.96, with which the 95 % interval ends where Wilson's does (1927).
    """
    if not _is_number(said):
        return math.nan
    if said == 0 and value in (0, 1) and n and metric.startswith(_SHARES):
        return NORMAL / (n + NORMAL**2)
    return float(said)


def _cases(task: str, held: Mapping[str, Any]) -> int:
    """Questions that were asked; of a group all of its tasks'."""
    counts = held.get("n-samples", {})
    if task in counts:
        return int(counts[task]["effective"])
    return sum(_cases(one, held) for one in held.get("group_subtasks", {}).get(task, ()) if one != task)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
