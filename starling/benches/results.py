"""What a benchmark of chat models found: who answered, who judged, figures with intervals, and what was left out.

A row of its table is a dict: `name`, the figure (`value`, `low`, `high`, `n`), `level` (0 = the whole, 1 = a part),
`unit` ("points" or "share").
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.text import Text

from starling import figures, progress, texts
from starling.benches import left_out, panel
from starling.benches.left_out import LeftOut
from starling.records import Score
from starling.store import versions
from starling.writing import write_json

RESULT = "result.json"
FORMATS = {"points": figures.number_interval, "share": figures.share_interval}


def row(score: Score, *, unit: str, level: int = 0) -> dict[str, Any]:
    """A row of the table."""
    return {**asdict(score), "unit": unit, "level": level}


def result(
    name: str,
    *,
    model: Mapping[str, Any],
    judge: Mapping[str, Any],
    data: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    without: Sequence[LeftOut],
    more: Mapping[str, Any],
) -> dict[str, Any]:
    """The whole result; `judge` has its name and the hash of its templates, `data` its name, cases and hash."""
    return {
        "bench": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": dict(model),
        "judge": dict(judge),
        "data": dict(data),
        "rows": [dict(one) for one in rows],
        "left_out": left_out.told(without),
        **more,
        "versions": versions(),
    }


def show(found: Mapping[str, Any], about: str, *, unit: str, notes: Sequence[str] = ()) -> None:
    """Print who was tested on what by whom, the table, notes, and what was left out; `unit` is what the data holds."""
    data = found["data"]
    progress.show(Text(f"{found['bench']}: {about}", style="bold"))
    for role in ("model", "judge"):
        if found[role]:
            progress.show(texts.terminal(f"{role}: {_named(found[role])}"))
        for member in found[role].get("members", ()):
            progress.show(texts.terminal(f"  {_named(member)}"))
    progress.show(texts.terminal(f"data:  {data['name']}, {data['cases']:,} {unit}, sha256 {data['sha256'][:12]}"))
    table = texts.table("", "figure (95 % interval), n")
    for one in found["rows"]:
        style = "" if one["level"] == 0 else "dim"
        table.add_row(texts.terminal("  " * one["level"] + one["name"]), FORMATS[one["unit"]](one), style=style)
    progress.show(table)
    if "panel" in found:
        panel.show(found["panel"])
    for note in notes:
        progress.show(texts.terminal(note))
    left_out.show(found["left_out"])


def write(out: Path, found: Mapping[str, Any]) -> None:
    """Write the result beside what it was made of."""
    write_json(out / RESULT, found)
    progress.say(f"bench: {out / RESULT}")


def _named(who: Mapping[str, Any]) -> str:
    parts = [str(who["name"])] + [str(who[key]) for key in ("endpoint", "commit") if who.get(key)]
    more = [str(who["rule"])] if "rule" in who else []  # of a panel
    more += [f"{label} {who[key][:12]}" for key, label in _HASHES.items() if who.get(key)]
    return ", ".join([" ".join(parts), *more])


_HASHES = {"weights_sha256": "weights", "template_hash": "template"}
