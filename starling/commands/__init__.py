"""The commands, in the order in which `starling --help` lists them."""

from starling.command import app

from starling.commands import road, reward_models, benchmarks, tables  # isort: skip

__all__ = ["app", "benchmarks", "reward_models", "road", "tables"]
