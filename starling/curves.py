"""Curves of a stage in one line of a terminal each: a metric's values so far as blocks of eight heights."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from starling import figures

BLOCKS = "▁▂▃▄▅▆▇█"
FLAT = BLOCKS[3]
# What of a stage is worth watching while it runs: name for people, name among the metrics.
WATCHED: Mapping[str, Sequence[tuple[str, str]]] = {
    "fit": (("nll", "fit/nll"), ("held-out accuracy", "fit/held_out_pair_accuracy")),
    "tune": (
        ("reward", "tune/reward"),
        ("KL", "tune/objective/kl"),
        ("tokens an answer", "tune/completions/mean_length"),
    ),
}


def sparkline(values: Sequence[float], width: int) -> str:
    """The values from left to right, the lowest as the lowest block and the highest as the highest.

    More than `width` values share columns, evenly: a column stands for the mean of its own. All alike are drawn at half
    height; a column without a finite value is blank.
    """
    columns = min(width, len(values))
    edges = [len(values) * column // columns for column in range(columns + 1)] if columns else [0]
    means = [_mean(values[start:end]) for start, end in pairwise(edges)]
    known = [mean for mean in means if mean is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    return "".join(" " if mean is None else _block(mean, low, high) for mean in means)


class Curves:
    """What is watched of one stage, gathered from its metrics line by line; a mirror of the recorder."""

    def __init__(self, stage: str) -> None:
        self._watched = WATCHED.get(stage, ())
        self._values: dict[str, list[float]] = {key: [] for _, key in self._watched}

    def begin(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Forget what was shown before, and show these lines."""
        for values in self._values.values():
            values.clear()
        for line in lines:
            self.show(line)

    def show(self, line: Mapping[str, Any]) -> None:
        """Add one line; a step at which a metric was not measured adds nothing to its curve."""
        for key, values in self._values.items():
            if line.get(key) is not None:
                values.append(float(line[key]))

    def rows(self, width: int) -> list[tuple[str, str]]:
        """Each curve with something to draw: its sparkline, and where it is now and was at first."""
        return [
            (sparkline(values, width), f"{name} {_said(values[-1])}, from {_said(values[0])}")
            for name, key in self._watched
            if (values := list(self._values[key]))
        ]


def _mean(values: Sequence[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None


def _block(value: float, low: float, high: float) -> str:
    if low == high:
        return FLAT
    return BLOCKS[min(int((value - low) / (high - low) * len(BLOCKS)), len(BLOCKS) - 1)]


def _said(value: float) -> str:
    return figures.number(value) if math.isfinite(value) else str(value)
