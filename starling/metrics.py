"""Step metrics: one JSON object a line in the run's `metrics.jsonl`; beside it a stage may keep a diary in text.

A line holds `stage`, `step` and the metrics under their full names (`tune/objective/kl`). Names end in `seconds` or
`per_second` where a value depends on the machine's speed; all others are the same in a resumed run.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from starling.curves import Curves
from starling.errors import DataError, explained
from starling.writing import write_atomically

_SECTION = "## Step "


class Mirror(Protocol):
    """Something that shows a stage's metrics as well: a copy, made anew from the lines that stand when it begins."""

    def begin(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Forget what was shown before, and show these lines."""

    def show(self, line: Mapping[str, Any]) -> None:
        """Show one more line."""


class Recorder:
    """Appends the metrics of one stage, and forgets those past a checkpoint when a stage resumes.

    What it has written it also gives to the mirrors, which so never know more than the file, and to `curves`, which a
    bar can show. The diary is Markdown, a section a step.
    """

    def __init__(self, path: Path, stage: str, mirrors: Sequence[Mirror] = (), diary: Path | None = None) -> None:
        self.path = path
        self.stage = stage
        self.curves = Curves(stage)
        self._mirrors: Sequence[Mirror] = (*mirrors, self.curves)
        self._diary = diary

    def rewind(self, step: int) -> None:
        """Drop this stage's lines and sections beyond `step`, and a last line that was cut by a crash."""
        kept = [line for line in read(self.path) if line["stage"] != self.stage or line["step"] <= step]
        if self.path.exists():
            write_atomically(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        if self._diary and self._diary.exists():
            write_atomically(self._diary, "".join(text for at, text in _sections(self._diary) if at <= step))
        for mirror in self._mirrors:
            mirror.begin([line for line in kept if line["stage"] == self.stage])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append one step; values get the stage's name in front."""
        line: dict[str, Any] = {"stage": self.stage, "step": step}
        line |= {f"{self.stage}/{name}": _rounded(float(value)) for name, value in values.items()}
        with explained(f"writing {self.path}"), self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        for mirror in self._mirrors:
            mirror.show(line)

    def write(self, step: int, text: str) -> None:
        """Append a step's section to the diary, where there is one; no line of `text` may begin as a section does."""
        if self._diary:
            with explained(f"writing {self._diary}"), self._diary.open("a", encoding="utf-8") as file:
                file.write(f"{_SECTION}{step}\n\n{text}\n")


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


def _sections(diary: Path) -> list[tuple[int, str]]:
    """The step and the text of each section; a last line that a crash cut is passed over."""
    text = diary.read_bytes().decode("utf-8", "replace")
    whole = text[: text.rfind("\n") + 1]
    starts = [(int(found[1]), found.start()) for found in re.finditer(rf"^{_SECTION}(\d+)$", whole, re.MULTILINE)]
    ends = [at for _, at in starts[1:]] + [len(whole)]
    return [(step, whole[start:end]) for (step, start), end in zip(starts, ends, strict=True)]


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
