"""Time and memory of fitting a reward model: TRL's RewardTrainer on pairs, a padded K-wise loop, and Starling.

    pip install -e '.[test]'
    python benchmarks/fit_speed.py DATA [--out runs/speed] [--at-most N] [--set alpaca_rankings]

Each measurement is a process of its own. Every contender is first swept over batch sizes and precisions on two
rankings; its best setting is then measured on eight. An optimiser step takes all of them. TRL makes one step, of 168
pairs on eight, and the others, whose steps are short, one more after a first one to warm up; the best of ours is
measured three times, in turns with the padded loop. Prints Markdown once all is measured.
"""

import json
from collections.abc import Sequence
from functools import partial

import speed_runs
from speed_rows import SETS
from speed_runs import FAST_BFLOAT16, Spec, find

NUM_SWEPT, NUM_ROWS = 2, 8
PRECISIONS = ("bf16 weights", "autocast") if FAST_BFLOAT16 else ("float32",)
OURS = PRECISIONS[-1]
TRL_BATCHES = (1, 2, 6, 14)
PADDED_BATCHES = (1, 2)
MICROBATCH_TOKENS = (1024, 2048, 4096, 8192)
REPEATS = 3


def main() -> None:
    chosen = speed_runs.options(__doc__, "runs/speed", more=["--set"])
    sets = [chosen.set] if chosen.set else list(SETS)
    done = speed_runs.run(chosen, "fit_contenders.py", partial(missing, sets=sets))
    print("\n\n".join(_table([found for found in done if found["rows"] == rows]) for rows in sets))


def missing(done: list[Spec], sets: Sequence[str] = SETS) -> list[Spec]:
    """What to measure next; a full measurement waits for its contender's sweep."""
    specs: list[Spec] = []
    for rows in sets:
        for contender, sweep in _sweeps(rows).items():
            specs += sweep
            swept = [found for spec in sweep if (found := find(done, spec))]
            if len(swept) == len(sweep):
                best = min(swept, key=_seconds)
                repeats = 1 if contender == "trl" else REPEATS
                specs += [
                    _spec(contender, rows, best["batch"], best["precision"], NUM_ROWS, at) for at in range(repeats)
                ]
    specs.sort(key=lambda spec: (spec["rows"] != SETS[0], spec["num_rows"], spec["repeat"]))
    return [spec for spec in specs if not find(done, spec)]


def _sweeps(rows: str) -> dict[str, list[Spec]]:
    """Each contender's settings."""
    peers = {"trl": TRL_BATCHES, "padded": PADDED_BATCHES}
    sweeps = {
        name: [_spec(name, rows, batch, kind, NUM_SWEPT) for batch in batches for kind in PRECISIONS]
        for name, batches in peers.items()
    }
    sweeps["trl"].append(_spec("trl", rows, max(TRL_BATCHES), f"{OURS}, checkpointed", NUM_SWEPT))
    return sweeps | {"starling": [_spec("starling", rows, size, OURS, NUM_SWEPT) for size in MICROBATCH_TOKENS]}


def _spec(contender: str, rows: str, batch: int, precision: str, num_rows: int, repeat: int = 0) -> Spec:
    steps = 1 if contender == "trl" else 2
    names = ("contender", "rows", "batch", "precision", "num_rows", "steps", "repeat")
    return dict(zip(names, (contender, rows, batch, precision, num_rows, steps, repeat), strict=True))


def _table(done: list[Spec]) -> str:
    full = [found for found in done if found["num_rows"] == NUM_ROWS]
    best = {name: _middle([found for found in full if found["contender"] == name]) for name in _sweeps("")}
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


def _middle(found: list[Spec]) -> Spec:
    """The measurement with the median time."""
    return sorted(found, key=_seconds)[len(found) // 2]


def _seconds(found: Spec) -> float:
    """Of the last step; those before it warm up."""
    return found["seconds"][-1]


if __name__ == "__main__":
    main()
