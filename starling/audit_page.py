"""What `starling audit --out` writes: one page with the figures and their plots, which needs nothing else."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from starling import audit_text, page, plots
from starling.audit import FEW
from starling.plots import Plot
from starling.writing import write_atomically


def write(path: Path, audits: Sequence[Mapping[str, Any]], between: Sequence[Mapping[str, Any]]) -> None:
    """Write the page of these logs."""
    text = page.render(
        "audit.html.jinja",
        {},
        [],
        logs=[{"found": found, "plots": draw(found, f"log{number}")} for number, found in enumerate(audits)],
        side_by_side=audit_text.side_by_side(audits),
        columns=audit_text.SIDE_BY_SIDE,
        between=audit_text.between_lines(between),
        say=audit_text,
        few=FEW,
    )
    write_atomically(path, text)


def draw(found: Mapping[str, Any], name: str) -> list[Plot]:
    """The plots of one log, as far as it has their figures; their ids begin with `name`."""
    drawn = []
    for position in found["positions"]:
        k, places = position["k"], position["places"]
        if position["n"]:
            first = [place["first"] for place in places]
            drawn.append(
                plots.by_place(f"{name}-first-{k}", f"Ranked first, by place of {k}", first, even=1 / k, unit="%")
            )
        ranks = [place["mean_rank"] for place in places]
        drawn.append(plots.by_place(f"{name}-rank-{k}", f"Mean rank, by place of {k}", ranks, even=(k + 1) / 2))
    pairs = found["pair_verdicts"]
    against_half = [
        {"label": label, "baseline": True, **score}  # neither side of one half is the good one
        for label, score in (
            ("longer answer above", found["length"]),
            ("first-named of a pair", pairs["first_named_wins"]),
        )
        if score["n"]
    ]
    if against_half:
        drawn.append(plots.forest(f"{name}-half", "Against one half, were there no effect", against_half))
    ranked = [row for row in found["models"] if row["all"]["n"] >= FEW]
    if ranked:
        rows = [{"model": row["model"], "rank": row["all"]["value"], "weakened": False} for row in ranked]
        drawn.append(plots.mean_ranks(f"{name}-models", "Mean rank by model", rows))
    return drawn
