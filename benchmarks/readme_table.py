"""Write the before/after table of a finished run into README.md, between its markers.

python benchmarks/readme_table.py RUN --how "`make run` from an empty folder, two cores, 2026-11-23"
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from results import insert

from starling import digest, figures
from starling.store import Run

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- readme table: begin -->", "<!-- readme table: end -->"
WIN_RATES = {
    "win_rate": "win rate of tuned over base, ties half",
    "win_rate_held_out_checks": "the same, only checks never trained on",
    "win_rate_without_finish_and_repetition": "the same, finish and repetition not counted",
}
ROWS = {
    "rubric_score": "rubric score",
    "checks": "ordinary checks fulfilled",
    "facts": "key facts stated",
    "finished": "finished answers",
    "repetition": "free of repetition",
    "tokens": "tokens an answer",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--how", required=True, help="how the run was made: command, machine, date, time")
    options = parser.parse_args()
    text = render(digest.digest(Run.read(options.run)), options.how)
    print(text)
    insert(text, BEGIN, END, README)


def render(found: Mapping[str, Any], how: str) -> str:
    """The lines between the markers."""
    result = found["result"]
    wins = {row["key"]: row for row in result["win_rates"]}
    rows = {row["key"]: row for row in result["table"]}
    count = wins["win_rate"]["n"]
    lines = [
        f"{how}; the recipe took {figures.duration(found['seconds'])} and at most",
        f"{found['peak_memory_mib'] / 1024:.1f} GiB of memory. {count:,} pairs of answers to test prompts that nothing "
        "else has seen; 95 % intervals by bootstrap over prompt families.",
        "",
        "| | base | tuned | change |",
        "|---|---|---|---|",
    ]
    for key, label in WIN_RATES.items():
        row = wins[key]
        lines.append(f"| {label} (n = {row['n']}) | | {row['value']:.1%} | {row['low']:.1%} to {row['high']:.1%} |")
    for key, label in ROWS.items():
        base, tuned, change = (rows[key][name] for name in ("base", "tuned", "change"))
        moved = figures.number_change(change)
        lines.append(f"| {label} (n = {base['n']}) | {base['value']:.3g} | {tuned['value']:.3g} | {moved} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
