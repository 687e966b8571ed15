"""Time and memory of scoring answers: transformers' text-classification pipeline against Starling.

    python benchmarks/score_speed.py DATA [--out runs/speed] [--at-most N]

Each measurement is a process of its own, from text to reward. Prints Markdown once all is measured.
"""

import json

import speed_runs
from speed_rows import SETS
from speed_runs import Spec, find

NUM_ROWS = 24
BATCHES = (1, 4, 16, 64)
REPEATS = 3


def main() -> None:
    done = speed_runs.run(speed_runs.options(__doc__, "runs/speed"), "score_contenders.py", missing)
    print("\n\n".join(_table([found for found in done if found["rows"] == rows]) for rows in SETS))


def missing(done: list[Spec]) -> list[Spec]:
    specs: list[Spec] = []
    for rows in SETS:
        specs += [
            {"contender": "pipeline", "rows": rows, "batch": batch, "precision": "bf16 weights", "num_rows": NUM_ROWS}
            for batch in BATCHES
        ]
        specs += [
            {"contender": "starling", "rows": rows, "batch": 0, "precision": precision, "num_rows": NUM_ROWS}
            | {"repeat": repeat}
            for repeat in range(REPEATS)
            for precision in ("bf16 weights", "float32")
        ]
    return [spec for spec in specs if not find(done, spec)]


def _table(done: list[Spec]) -> str:
    bf16 = [found for found in done if found["precision"] == "bf16 weights"]
    ours = min((found for found in bf16 if found["contender"] == "starling"), key=lambda found: found["seconds"])
    lines = [
        f"`{ours['rows']}`, {NUM_ROWS} rankings, {ours['unique_tokens']:,} unique tokens:",
        "",
        "| | batch, precision | tokens | seconds | peak GiB | faster by | bound | share | memory | reward off by |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for found in done:
        ratio, bound = found["seconds"] / ours["seconds"], found["processed_tokens"] / ours["processed_tokens"]
        gaps = [
            abs(a - b)
            for mine, theirs in zip(ours["rewards"], found["rewards"], strict=True)
            for a, b in zip(mine, theirs, strict=True)
        ]
        lines.append(
            f"| {found['contender']} | {found['batch'] or 'own'}, {found['precision']} "
            f"| {found['processed_tokens']:,} | {found['seconds']:.1f} | {found['peak_gigabytes']:.2f} | {ratio:.2f}x "
            f"| {bound:.2f}x | {ratio / bound:.2f} | {ours['peak_gigabytes'] / found['peak_gigabytes']:.2f}x "
            f"| {max(gaps):.3f} |"
        )
    plain = [{key: value for key, value in found.items() if key != "rewards"} for found in done]
    return "\n".join(lines) + f"\n\n{json.dumps(plain)}"


if __name__ == "__main__":
    main()
