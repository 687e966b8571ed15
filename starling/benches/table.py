"""A benchmark's result on a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from starling import figures, progress, texts
from starling.benches import left_out
from starling.benches.cases import LENGTHS, LIKE


def print_result(result: Mapping[str, Any], about: str) -> None:
    """Who was tested on what, the table, accuracy by length, and what was left out."""
    model, data = result["model"], result["data"]
    progress.show(Text(f"{result['bench']}: {about}", style="bold"))
    progress.show(texts.terminal(f"model: {' '.join(map(str, (model['name'], model.get('commit') or ''))).rstrip()}"))
    progress.show(texts.terminal(f"data:  {data['name']}, {data['rows']:,} rows, sha256 {data['sha256'][:12]}"))
    progress.show(_scores(result["rows"]))
    progress.show(_by_length(result["rows"]))
    left_out.show(result["left_out"], f" of {data['rows']:,} rows")


def _scores(rows: Sequence[Mapping[str, Any]]) -> Table:
    noted = any(row["note"] for row in rows)
    table = texts.table(
        "", "accuracy\n(95 % interval)", "n", "length\nalone", "equal\nscores", *(["note"] if noted else [])
    )
    for row in rows:
        accuracy = figures.share_interval({key: row[key] for key in ("value", "low", "high")})
        table.add_row(
            _name(row), accuracy, figures.number(row["n"]), figures.share(row["length_only"]["value"]),
            figures.share(row["tied"]), *([row["note"]] if noted else []), style="" if row["level"] == 0 else "dim",
        )  # fmt: skip
    table.caption = "length alone: characters as the score, by the same rule"
    return table


def _by_length(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = texts.table("right answer is", *LENGTHS)
    table.title = f"Accuracy by length of the right answer; like: within a factor of {LIKE}"
    for row in rows:
        if row["level"] == 0 and row["n"]:
            cells = [figures.share_interval(row["by_length"][kind]).replace(", n", "\nn") for kind in LENGTHS]
            table.add_row(_name(row), *cells)
    return table


def _name(row: Mapping[str, Any]) -> Text:
    return texts.terminal(f"{'  ' * row['level']}{row['name']}")
