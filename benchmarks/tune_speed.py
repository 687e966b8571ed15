"""Time and memory of a step of GRPO: TRL's GRPOTrainer and Starling's loop, and of sampling by `generate`.

    pip install -e '.[test]'
    python benchmarks/tune_speed.py [--out runs/tune-speed] [--at-most N] [--vllm http://HOST:PORT]

Each measurement is a process of its own. TRL is swept over batch sizes and precisions on 32 answers first, once with
all blocks trained and once with the last four; its best settings are then measured on the same 64 answers as Starling,
a step to warm up before the one that counts. With `--vllm` a server on the same machine that serves `smollm2` samples
the same answers too. Prints Markdown once all is measured.
"""

import json
from functools import partial
from typing import Any

import speed_runs
from speed_runs import FAST_BFLOAT16, Spec, find

LAYERS = (0, 4)  # blocks that are trained; 0 = all
PRECISIONS = ("bf16 weights", "autocast") if FAST_BFLOAT16 else ("float32",)
TRL_BATCHES = (8, 16, 32)
GENERATE_BATCHES = (32, 64)
MICROBATCH_TOKENS = (512, 1024, 2048, 4096)
SWEPT = {"prompts": 8, "steps": 1}
FULL = {"prompts": 16, "steps": 2}


def main() -> None:
    chosen = speed_runs.options(__doc__, "runs/tune-speed", data=False, more=["--vllm"])
    done = speed_runs.run(chosen, "tune_contenders.py", partial(missing, url=chosen.vllm))
    print(table(done))


def missing(done: list[Spec], url: str | None = None) -> list[Spec]:
    """What to measure next; TRL's full measurements wait for its sweep."""
    specs = [_spec("generate", batch, layers=0, **FULL) for batch in GENERATE_BATCHES]
    if url:
        specs.append(_spec("vllm", 0, layers=0, **FULL, url=url))
    for layers in LAYERS:
        specs += [_spec("starling", tokens, layers=layers, **FULL) for tokens in MICROBATCH_TOKENS]
        sweep = [_spec("trl", b, layers=layers, precision=kind, **SWEPT) for kind in PRECISIONS for b in TRL_BATCHES]
        swept = [found for spec in sweep if (found := find(done, spec))]
        specs += sweep
        if len(swept) == len(sweep):
            best = min(swept, key=_seconds)
            specs.append(_spec("trl", best["batch"], layers=layers, precision=best["precision"], **FULL))
    return [spec for spec in specs if not find(done, spec)]


def table(done: list[Spec]) -> str:
    """Each of our settings beside the best of the others, what is aimed at, and everything that was measured."""
    full = [found for found in done if found["prompts"] == FULL["prompts"]]
    ours = [found for found in full if found["contender"] == "starling"]
    trl = {layers: _best(full, "trl", layers) for layers in LAYERS}
    lines = [
        "| blocks | tokens of a microbatch | TRL's step, all blocks / ours | TRL's step, same blocks / ours "
        "| our peak / TRL's, same blocks | our tokens/s / those of `generate` | those of vLLM |",
        "|---|---|---|---|---|---|---|",
        *(_beside(found, trl, full) for found in ours),
        "| aimed at | | 2x, of the last four blocks 4x | 2x | .6x | 2x | 1x |",
        "",
        "| | blocks | batch, precision | answers | seconds a step | of it sampling | tokens/s sampled | peak GiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {found['contender']} | {found['layers'] or 'all'} | {found['batch']}, {found['precision']} "
        f"| {found['prompts'] * 4} | {_seconds(found):.1f} | {found['sampling_seconds'][-1]:.1f} | {_rate(found):.0f} "
        f"| {found['peak_gigabytes']:.2f} |"
        for found in done
    ]
    return "\n".join(lines) + f"\n\n{json.dumps(done)}"


def _beside(own: Spec, trl: dict[int, Spec], full: list[Spec]) -> str:
    """A line of the table: one of our settings against the others."""
    same = trl[own["layers"]]
    ratios = [_seconds(trl[0]) / _seconds(own), _seconds(same) / _seconds(own)]
    ratios.append(own["peak_gigabytes"] / same["peak_gigabytes"])
    ratios += [_rate(own) / _rate(_best(full, name, 0)) for name in ("generate", "vllm") if _has(full, name)]
    cells = [str(own["layers"] or "all"), str(own["batch"]), *(f"{ratio:.2f}x" for ratio in ratios)]
    if not _has(full, "vllm"):
        cells.append("not measured")
    return f"| {' | '.join(cells)} |"


def _has(full: list[Spec], contender: str) -> bool:
    return any(found["contender"] == contender for found in full)


def _best(full: list[Spec], contender: str, layers: int) -> Spec:
    return min((one for one in full if (one["contender"], one["layers"]) == (contender, layers)), key=_seconds)


def _spec(contender: str, batch: int, *, layers: int, precision: str = PRECISIONS[0], **more: Any) -> Spec:
    return {"contender": contender, "batch": batch, "layers": layers, "precision": precision, **more}


def _seconds(found: Spec) -> float:
    """Of the last step; the one before it warms up."""
    return found["seconds"][-1]


def _rate(found: Spec) -> float:
    return found["prompts"] * 4 * found["tokens_an_answer"] / found["sampling_seconds"][-1]


if __name__ == "__main__":
    main()
