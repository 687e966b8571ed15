"""Time and memory of fitting a reward model: TRL's RewardTrainer on pairs, a padded K-wise loop, and Starling.

    pip install -e '.[interop]'
    python benchmarks/fit_speed.py DATA [--out runs/speed] [--at-most N]

Each measurement is a process of its own. Peers are swept over batch sizes and precisions, TRL on two rankings first;
its best setting is then measured on the same eight rankings as everything else. An optimiser step takes all of them.
TRL makes one step, of at least 168 pairs, and the others, whose steps are short, one more after a first one to warm
up. Prints Markdown once all is measured.
"""

import json
from typing import Any

import speed_runs
from speed_rows import SETS
from speed_runs import Spec, find

SWEPT = {"num_rows": 2, "steps": 1}
PRECISIONS = ("bf16 weights", "autocast")
TRL_BATCHES = (2, 6, 14)
PADDED_BATCHES = (1, 2, 4)
MICROBATCH_TOKENS = (1024, 2048, 4096, 8192)
REPEATS = 3


def main() -> None:
    done = speed_runs.run(speed_runs.options(__doc__, "runs/speed"), "fit_contenders.py", missing)
    print("\n\n".join(_table([found for found in done if found["rows"] == rows]) for rows in SETS))


def missing(done: list[Spec]) -> list[Spec]:
    """What to measure next; TRL's full measurement waits for its sweep."""
    specs: list[Spec] = []
    for rows in SETS:
        sweep = [_spec("trl", rows, batch, kind, **SWEPT) for batch in TRL_BATCHES for kind in PRECISIONS]
        specs += [*sweep, _spec("trl", rows, 14, "autocast, checkpointed", **SWEPT)]
        specs += [
            _spec("padded", rows, batch, kind, num_rows=8, steps=2) for batch in PADDED_BATCHES for kind in PRECISIONS
        ]
        specs += [
            _spec("starling", rows, tokens, "autocast", num_rows=8, steps=2, repeat=repeat)
            for repeat in range(REPEATS)
            for tokens in MICROBATCH_TOKENS
        ]
        swept = [found for spec in sweep if (found := find(done, spec))]
        if len(swept) == len(sweep):
            best = min(swept, key=_seconds)
            specs.append(_spec("trl", rows, best["batch"], best["precision"], num_rows=8, steps=1))
    return [spec for spec in specs if not find(done, spec)]


def _spec(contender: str, rows: str, batch: int, precision: str, **more: Any) -> Spec:
    return {"contender": contender, "rows": rows, "batch": batch, "precision": precision, **more}


def _table(done: list[Spec]) -> str:
    full = [found for found in done if found["num_rows"] == 8]
    best = {
        name: min((found for found in full if found["contender"] == name), key=_seconds)
        for name in ("trl", "padded", "starling")
    }
    ours = best["starling"]
    lines = [
        f"`{ours['rows']}`, {ours['num_rows']} rankings, {ours['unique_tokens']:,} unique tokens, 21 comparisons each:",
        "",
        "| | batch, precision | tokens | seconds a step | peak GiB | faster by | bound | share | memory |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in best.items():
        ratio = _seconds(found) / _seconds(ours)
        bound = found["processed_tokens"] / ours["processed_tokens"]
        lines.append(
            f"| {name} | {found['batch']}, {found['precision']} | {found['processed_tokens']:,} "
            f"| {_seconds(found):.1f} | {found['peak_gigabytes']:.2f} | {ratio:.1f}x | {bound:.1f}x "
            f"| {ratio / bound:.2f} | {ours['peak_gigabytes'] / found['peak_gigabytes']:.2f}x |"
        )
    lines += ["", "Loss before the first update, distance from Starling's:"]
    lines += [
        f"{name}, {found['batch']}, {found['precision']}: {abs(found[loss] - ours[loss]):.5f};"
        for found in full
        for name, loss in (("trl", "pairwise_loss"), ("padded", "kwise_loss"))
        if found["contender"] == name
    ]
    lines += ["", "| | batch, precision | rankings | seconds a ranking | peak GiB |", "|---|---|---|---|---|"]
    lines += [
        f"| {found['contender']} | {found['batch']}, {found['precision']} | {found['num_rows']} "
        f"| {_seconds(found) / found['num_rows']:.2f} | {found['peak_gigabytes']:.2f} |"
        for found in done
    ]
    return "\n".join(lines) + f"\n\n{json.dumps(done)}"


def _seconds(found: Spec) -> float:
    """Of the last step; those before it warm up."""
    return found["seconds"][-1]


if __name__ == "__main__":
    main()
