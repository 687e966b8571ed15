"""`starling bench`: the benchmarks by name."""

from dataclasses import fields

import pytest

from starling import bench
from starling.benches.asked import Asked
from starling.errors import UsageError


def test_a_name_that_is_none_is_told_with_those_that_are() -> None:
    with pytest.raises(UsageError, match=r"no benchmark 'mt_bank'; benchmarks: starling_rm, reward_bench, .*mt_bench"):
        bench.run("mt_bank", Asked())


def test_each_benchmark_takes_only_options_that_there_are_and_refuses_the_others() -> None:
    options = {field.name for field in fields(Asked)}
    for name, benchmark in bench.BENCHMARKS.items():
        assert benchmark.about and benchmark.takes <= options, name
    with pytest.raises(UsageError, match="--judge means nothing to reward_bench"):
        bench.run("reward_bench", Asked(model="m", judge=("j",)))
