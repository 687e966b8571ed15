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
MICROBATCH_TOKENS = (1024, 4096)
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
    """The best of each contender, what the targets speak of, and everything that was measured."""
    full = [found for found in done if found["prompts"] == FULL["prompts"]]
    best = {
        (name, layers): min(
            (found for found in full if (found["contender"], found["layers"]) == (name, layers)), key=_seconds
        )
        for name, layers in [("trl", 0), ("trl", 4), ("starling", 0), ("starling", 4), ("generate", 0)]
    }
    ours, ours_top = best["starling", 0], best["starling", 4]
    theirs, theirs_top = best["trl", 0], best["trl", 4]
    lines = [
        "| | target | measured |",
        "|---|---|---|",
        f"| TRL's step, all blocks / ours | 2x | {_seconds(theirs) / _seconds(ours):.2f}x |",
        f"| TRL's step, all blocks / ours, last 4 | 4x | {_seconds(theirs) / _seconds(ours_top):.2f}x |",
        f"| TRL's step, last 4 / ours, last 4 | 2x | {_seconds(theirs_top) / _seconds(ours_top):.2f}x |",
        f"| our tokens a second / those of `generate` | 2x | {_rate(ours) / _rate(best['generate', 0]):.2f}x |",
        f"| our peak / TRL's, all blocks | 0.6x | {ours['peak_gigabytes'] / theirs['peak_gigabytes']:.2f}x |",
        f"| our peak / TRL's, last 4 | 0.6x | {ours_top['peak_gigabytes'] / theirs_top['peak_gigabytes']:.2f}x |",
        *(
            f"| our tokens a second / those of vLLM | 1x | {_rate(ours) / _rate(found):.2f}x, last 4 blocks "
            f"{_rate(ours_top) / _rate(found):.2f}x |"
            for found in full
            if found["contender"] == "vllm"
        ),
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


def _spec(contender: str, batch: int, *, layers: int, precision: str = PRECISIONS[0], **more: Any) -> Spec:
    return {"contender": contender, "batch": batch, "layers": layers, "precision": precision, **more}


def _seconds(found: Spec) -> float:
    """Of the last step; the one before it warms up."""
    return found["seconds"][-1]


def _rate(found: Spec) -> float:
    return found["prompts"] * 4 * found["tokens_an_answer"] / found["sampling_seconds"][-1]


if __name__ == "__main__":
    main()
