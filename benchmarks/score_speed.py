"""Time and memory of scoring answers: transformers' text-classification pipeline against Starling.

    python benchmarks/score_speed.py DATA [--out runs/speed] [--at-most N]

Each measurement is a process of its own, from text to reward. The pipeline is swept over batch sizes and precisions.
Its best setting and ours are then measured three times, in turns, and the medians compared. Prints Markdown once all
is measured.
"""

import json

import speed_runs
from speed_rows import SETS
from speed_runs import FAST_BFLOAT16, Spec, find

NUM_ROWS = 24
BATCHES = (1, 4, 16, 64)
PRECISIONS = ("bf16 weights", "float32") if FAST_BFLOAT16 else ("float32",)
REPEATS = 3


def main() -> None:
    done = speed_runs.run(speed_runs.options(__doc__, "runs/speed"), "score_contenders.py", missing)
    print("\n\n".join(_table([found for found in done if found["rows"] == rows]) for rows in SETS))


def missing(done: list[Spec]) -> list[Spec]:
    specs: list[Spec] = []
    for rows in SETS:
        sweep = [_spec("pipeline", rows, batch, precision) for precision in PRECISIONS for batch in BATCHES]
        specs += sweep
        swept = [found for spec in sweep if (found := find(done, spec))]
        best = min(swept, key=_seconds) if len(swept) == len(sweep) else None
        for repeat in range(REPEATS):
            if best and repeat:
                specs.append(_spec("pipeline", rows, best["batch"], best["precision"], repeat))
            specs += [_spec("starling", rows, 0, precision, repeat) for precision in PRECISIONS]
    return [spec for spec in specs if not find(done, spec)]


def _spec(contender: str, rows: str, batch: int, precision: str, repeat: int = 0) -> Spec:
    names = ("contender", "rows", "batch", "precision", "num_rows", "repeat")
    return dict(zip(names, (contender, rows, batch, precision, NUM_ROWS, repeat), strict=True))


def _seconds(found: Spec) -> float:
    return float(found["seconds"])


def _median(done: list[Spec], contender: str) -> Spec:
    """Of the setting that was measured most often and, of ours, is the faster one: the run with the median time."""
    own = [found for found in done if found["contender"] == contender]
    kinds = {(found["batch"], found["precision"]) for found in own if found["repeat"] == REPEATS - 1}
    runs = [sorted((one for one in own if (one["batch"], one["precision"]) == kind), key=_seconds) for kind in kinds]
    return min((run[len(run) // 2] for run in runs), key=_seconds)


def _table(done: list[Spec]) -> str:
    ours, theirs = _median(done, "starling"), _median(done, "pipeline")
    ratio, bound = _seconds(theirs) / _seconds(ours), theirs["processed_tokens"] / ours["processed_tokens"]
    lines = [
        f"`{ours['rows']}`, {NUM_ROWS} rankings, {ours['unique_tokens']:,} unique tokens. Medians of {REPEATS}: the "
        f"pipeline at {theirs['batch']}, {theirs['precision']}, {_seconds(theirs):.1f} s, Starling in "
        f"{ours['precision']} {_seconds(ours):.1f} s: {ratio:.2f}x, bound {bound:.2f}x, share {ratio / bound:.2f}",
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
