"""Step metrics: one JSON object a line in the run's `metrics.jsonl`.

A line holds `stage`, `step` and the metrics under their full names (`tune/objective/kl`). Names end in `seconds` or
`per_second` where a value depends on the machine's speed; all others are the same in a resumed run.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starling.errors import DataError, explained


class Recorder:
    """Appends the metrics of one stage, and forgets those past a checkpoint when a stage resumes."""

    def __init__(self, path: Path, stage: str) -> None:
        self.path = path
        self.stage = stage

    def rewind(self, step: int) -> None:
        """Drop this stage's lines beyond `step`, and a last line that was cut by a crash."""
        if not self.path.exists():
            return
        kept = [line for line in read(self.path) if line["stage"] != self.stage or line["step"] <= step]
        partial = self.path.with_name(self.path.name + ".partial")
        with explained(f"writing {self.path}"):
            partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
            os.replace(partial, self.path)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append one step; values get the stage's name in front."""
        line: dict[str, Any] = {"stage": self.stage, "step": step}
        line |= {f"{self.stage}/{name}": _rounded(float(value)) for name, value in values.items()}
        with explained(f"writing {self.path}"), self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a metrics file; a last line that a crash cut is passed over."""
    texts = path.read_bytes().splitlines() if path.exists() else []
    lines: list[dict[str, Any]] = []
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if isinstance(line, dict) and {"stage", "step"} <= line.keys():
            lines.append(line)
        elif number < len(texts):
            raise DataError(f"{path}:{number}: not a line of metrics; restore it, or delete the file and its curves")
    return lines


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
