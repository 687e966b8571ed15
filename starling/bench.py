"""The benchmarks by name: what `starling bench` and `starling evaluate` run."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from starling.benches import (
    alpaca_eval,
    ifeval,
    lm_eval,
    mt_bench,
    reward_bench,
    reward_bench_2,
    reward_models,
    safety,
    starling_rm,
)
from starling.benches import asked as options
from starling.benches.asked import Asked, Benchmark
from starling.benches.cost import Part
from starling.benches.items import Bench
from starling.errors import UsageError


def _of_reward_models(name: str, bench: Bench) -> Benchmark:
    run, plan = partial(reward_models.run, name, bench), partial(reward_models.plan, name, bench)
    return Benchmark(bench.about, reward_models.OPTIONS, run, plan)


BENCHMARKS: Mapping[str, Benchmark] = {
    "starling_rm": _of_reward_models("starling_rm", starling_rm.BENCH),
    "reward_bench": _of_reward_models("reward_bench", reward_bench.BENCH),
    "reward_bench_2": _of_reward_models("reward_bench_2", reward_bench_2.BENCH),
    mt_bench.NAME: Benchmark(mt_bench.ABOUT, mt_bench.OPTIONS, mt_bench.run, mt_bench.plan),
    alpaca_eval.NAME: Benchmark(alpaca_eval.ABOUT, alpaca_eval.OPTIONS, alpaca_eval.run, alpaca_eval.plan),
    "ifeval": ifeval.BENCH,
    "safety": safety.BENCH,
    "lm_eval": lm_eval.BENCH,
}


def run(name: str, asked: Asked) -> dict[str, Any]:
    """Run one benchmark, print its table and return its result."""
    return _found(name, asked).run(asked)


def plan(name: str, asked: Asked) -> Sequence[Part]:
    """What a benchmark is going to ask of whom; what cannot work is refused before anything is asked."""
    return _found(name, asked).plan(asked)


def _found(name: str, asked: Asked) -> Benchmark:
    if name not in BENCHMARKS:
        hint = " (people's votes: `starling arena`)" if name == "arena" else ""
        raise UsageError(f"bench: there is no benchmark {name!r}; benchmarks: {', '.join(BENCHMARKS)}{hint}")
    benchmark = BENCHMARKS[name]
    options.refuse_others(name, asked, benchmark.takes)
    return benchmark
