"""A benchmark's result as a run shows it: base and tuned with the change, a win rate, or a reward model's figures."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from starling import figures, progress, texts
from starling.before_after import tone

Entry = dict[str, Any]
CHANGE, WIN_RATE, REWARD_MODEL = "change", "win_rate", "reward_model"
_SCORE = ("value", "low", "high", "n")
_KINDS = {"points": "number", "share": "share"}  # by the unit of a row
_COLOURS = {"better": "green", "worse": "red"}


def told(title: str, result: Mapping[str, Any]) -> Entry:
    """What stands of a result in `evaluate/scores.json` and on the page.

    A row has `label`, `level` (0 = the whole, 1 = a part), `kind` (how its figures are written) and, as far as there
    are such, `base`, `tuned`, `change`, `length_only`; `says` is what it allows one to say: better, worse or unclear.
    """
    against = result.get("against")
    if "judge" not in result:
        kind, rows, said = REWARD_MODEL, [_of_reward(row) for row in result["rows"]], []
    elif isinstance(against, Mapping) and "changes" in against:
        kind, rows, said = CHANGE, _changed(result["rows"], against), list(against["says"])
    else:
        kind, rows = WIN_RATE, [_won(row) for row in result["rows"]]
        said = [_sentence(rows[0])]
    judge, held = result.get("judge", {}), result.get("contamination")
    return {
        "title": title,
        "bench": result["bench"],
        "kind": kind,
        "judge": " ".join(filter(None, (judge.get("name"), judge.get("version")))),
        "template_hash": judge.get("template_hash", ""),
        "data": result["data"]["name"],
        "cases": result["data"]["cases" if "cases" in result["data"] else "rows"],
        "date": result["date"][:10],
        "rows": rows,
        "says": said,
        "left_out": result["left_out"]["count"],
        "contamination": held and {key: held[key] for key in ("questions", "questions_held", "prompts")},
    }


def _row(row: Mapping[str, Any], *, label: str = "", **more: Any) -> dict[str, Any]:
    empty = {"base": None, "tuned": None, "change": None, "length_only": None, "says": ""}
    return {
        "label": label or row["name"],
        "level": row["level"],
        "kind": _KINDS[row.get("unit", "share")],
    } | empty | more  # fmt: skip


def _score(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row.get(key) for key in _SCORE}


def _changed(rows: Sequence[Mapping[str, Any]], against: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows with both sides' figures and the change; changes over other cases than a row's come last, for themselves."""
    before = {row["name"]: row for row in against["rows"]}
    changes = {change["row"]: change for change in against["changes"] if change["row"]}
    found = []
    for row in rows:
        base, change = before.get(row["name"]), changes.get(row["name"])
        more: dict[str, Any] = {"base": base and _score(base), "tuned": _score(row)}
        if change:
            more |= {"change": _score({"n": row["n"], **change}), "says": change["says"]}
        found.append(_row(row, **more))
    for change in against["changes"]:
        if not change["row"] and change["n"]:
            found.append(_row(change | {"level": 0}, change=_score(change), says=change["says"]))
    return found


def _won(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a benchmark in pairs: how often the tuned model wins."""
    if row["level"]:
        return _row(row, tuned=_score(row))
    said = tone(row)
    return _row(
        row,
        label="tuned against base, ties half",
        tuned=_score(row),
        says=said if said in _COLOURS else "unclear",
    )


def _of_reward(row: Mapping[str, Any]) -> dict[str, Any]:
    return _row(row, tuned=_score(row), length_only=_score(row["length_only"]))


def _sentence(row: Mapping[str, Any]) -> str:
    """What a win rate allows one to say."""
    rate = figures.share_interval(row["tuned"])
    return {
        "better": f"The tuned model is preferred: it wins against the base in {rate}.",
        "worse": f"The base is preferred: the tuned model wins only in {rate}.",
        "unclear": f"No preference is shown: the tuned model wins in {rate}; the interval holds 50 %.",
        "unsure": f"The tuned model wins in {rate}; how sure this is cannot be said.",
        "none": "No verdict could be read, so nothing can be said.",
    }[tone(row["tuned"])]


def worse(entries: Sequence[Entry]) -> list[str]:
    """The figures that say worse."""
    return [
        f"{entry['title']} ({row['label']})" for entry in entries for row in entry["rows"] if row["says"] == "worse"
    ]


def beside(runs: Sequence[Sequence[Entry]]) -> list[dict[str, Any]]:
    """The first figures of several runs' benchmarks, a row for each with a figure of each run, None where it has none.

    Figures stand in one row only where judge, wording and data are the same.
    """
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for at, entries in enumerate(runs):
        for entry in entries:
            judged_on = {key: entry[key] for key in ("title", "judge", "template_hash", "data")}
            for row in entry["rows"]:
                shown, kind = (row["change"], "change") if entry["kind"] == CHANGE else (row["tuned"], "interval")
                if row["level"] or not shown:
                    continue
                key = (*judged_on.values(), entry["kind"], row["label"])
                empty = judged_on | {
                    "label": row["label"], "kind": f"{row['kind']}_{kind}", "figures": [None] * len(runs),
                }  # fmt: skip
                found.setdefault(key, empty)["figures"][at] = shown
    return list(found.values())


def table(entries: Sequence[Entry]) -> Table:
    """The first figures of each benchmark on a terminal; parts of them stand in `result.json` and on the page."""
    columns = ("", "base", "tuned", "change (95 % interval)", "n", "judge")
    found = texts.table(*columns, title="benchmarks", title_style="bold")
    found.columns[3].no_wrap = True
    for entry in entries:
        for row in entry["rows"]:
            if row["level"] == 0:
                name, who = f"{entry['title']}: {row['label']}", entry["judge"] or entry["kind"].replace("_", " ")
                written = map(texts.terminal, (name, *cells(entry["kind"], row), who))
                found.add_row(*written, style=_COLOURS.get(row["says"]))
    return found


def cells(kind: str, row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """base, tuned, change, n of a row as text."""
    bare = figures.FORMATS[row["kind"]]
    n = figures.number((row["change"] or row["tuned"])["n"])
    whole = figures.FORMATS[f"{row['kind']}_interval"]((row["tuned"] or {}) | {"n": 0})
    if kind == WIN_RATE:
        return "", "", f"wins {whole}", n
    if kind == REWARD_MODEL:
        return "", whole, f"length alone {bare(row['length_only']['value'])}", n
    base, tuned = (bare(row[side]["value"]) if row[side] else "" for side in ("base", "tuned"))
    change = figures.FORMATS[f"{row['kind']}_change"](row["change"]) if row["change"] else ""
    return base, tuned, change, n


def show(entries: Sequence[Entry]) -> None:
    """Print the table, and of each benchmark what it allows one to say."""
    progress.show(table(entries))
    for entry in entries:
        held = entry["contamination"]
        notes = [f"{held['questions_held']:,} of its questions stand in the run's prompts"] if held else []
        if entry["left_out"]:
            notes.append(f"{entry['left_out']:,} left out")
        for line in [*entry["says"], *notes]:
            progress.show(texts.terminal(f"{entry['title']}: {line}"))
