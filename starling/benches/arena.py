"""Ratings on a terminal: read the verdicts of files, rate the models, show the table and what was left out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from starling import figures, progress, texts
from starling.benches import duels, ratings
from starling.benches.duels import LeftOut
from starling.benches.ratings import Verdict
from starling.errors import DataError

_FIGURE = ("value", "low", "high")


def run(files: Sequence[Path]) -> dict[str, Any]:
    """The ratings by the verdicts of all files together, printed."""
    found: list[Verdict] = []
    left_out: list[LeftOut] = []
    for path in files:
        kept, lost = duels.read(path)
        found += kept
        left_out += lost
    if not found:
        first = f"; first {left_out[0].where}: {left_out[0].reason}" if left_out else ""
        raise DataError(f"ratings: no verdicts in {', '.join(map(str, files))}{first}")
    result = ratings.rate(found)
    result["left_out"] = [left._asdict() for left in left_out]
    _print(result, left_out)
    return result


def _print(result: Mapping[str, Any], left_out: Sequence[LeftOut]) -> None:
    counted = ("verdicts", "won", "tied")
    table = texts.table("model", "rating (95 % interval)", "at equal length", *counted, right=counted)
    for row in result["ratings"]:
        counts = [figures.number(row[key]) for key in ("n", "wins", "ties")]
        table.add_row(texts.terminal(row["model"]), interval(row), interval(row["at_equal_length"]), *counts)
    for row in result["not_rated"]:
        counts = [figures.number(row[key]) for key in ("n", "wins", "ties")]
        table.add_row(texts.terminal(row["model"]), Text(row["reason"], style="yellow"), "", *counts, style="dim")
    progress.show(table)
    reasons = Counter(left.reason for left in left_out)
    lost = [
        f"Left out: {count:,} x {reason}, first {next(left.where for left in left_out if left.reason == reason)}."
        for reason, count in reasons.items()
    ]
    for line in [*said(result), *lost]:
        progress.show(texts.terminal(line))


def said(result: Mapping[str, Any]) -> list[str]:
    """In words what the ratings allow one to say: of the first two, of length, of the models that are not rated."""
    first, second = result["ratings"][:2]
    points = f"{figures.number_change(first['ahead']).removeprefix('+')} points"
    lead = f"{first['model']} leads {second['model']} by {points}"
    if abs(first["ahead"]["value"]) < 0.5:  # points that are written as 0
        lead = f"{first['model']} and {second['model']} stand level: {points}"
    if not figures.has_interval(first["ahead"]):
        lead += "; verdicts on one prompt give no interval."
    elif first["ahead"]["low"] > 0:
        lead += "; the interval is above 0."
    else:
        lead += "; the interval holds 0, so the order of these two is open."
    doubled = result["doubled_length"]
    length = f"No ratings at equal length: {result['length_note']}."
    if doubled is not None:
        length = f"Of two equal models the one that writes twice as much wins {figures.share_interval(doubled)}."
    counted = f"{result['verdicts']:,} verdicts on {result['prompts']:,} prompts; ties count as half a win."
    apart = result["not_among_rated"]
    others = [f"{apart:,} verdicts are on models that are not rated."] if apart else []
    return [lead, length, counted, *others]


def interval(score: Mapping[str, Any] | None) -> str:
    """A rating as it is written: 1,024 (998 to 1,051)."""
    return figures.NOTHING if score is None else figures.number_interval({key: score[key] for key in _FIGURE})
