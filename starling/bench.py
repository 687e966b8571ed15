"""`starling bench`: the benchmarks by name."""

from collections.abc import Mapping
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
from starling.benches.items import Bench
from starling.errors import UsageError


def _of_reward_models(name: str, bench: Bench) -> Benchmark:
    return Benchmark(bench.about, reward_models.OPTIONS, partial(reward_models.run, name, bench))


BENCHMARKS: Mapping[str, Benchmark] = {
    "starling_rm": _of_reward_models("starling_rm", starling_rm.BENCH),
    "reward_bench": _of_reward_models("reward_bench", reward_bench.BENCH),
    "reward_bench_2": _of_reward_models("reward_bench_2", reward_bench_2.BENCH),
    mt_bench.NAME: Benchmark(mt_bench.ABOUT, mt_bench.OPTIONS, mt_bench.run),
    alpaca_eval.NAME: Benchmark(alpaca_eval.ABOUT, alpaca_eval.OPTIONS, alpaca_eval.run),
    "ifeval": ifeval.BENCH,
    "safety": safety.BENCH,
    "lm_eval": lm_eval.BENCH,
}


def run(name: str, asked: Asked) -> dict[str, Any]:
    """Run one benchmark, print its table and return its result."""
    if name not in BENCHMARKS:
        raise UsageError(f"bench: there is no benchmark {name!r}; benchmarks: {', '.join(BENCHMARKS)}")
    benchmark = BENCHMARKS[name]
    options.refuse_others(name, asked, benchmark.takes)
    return benchmark.run(asked)
