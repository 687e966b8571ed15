"""The commands, in the order in which `starling --help` lists them."""

from starling.command import app

from starling.commands import road, reward_models, benchmarks, tables, trying, arena  # isort: skip

__all__ = ["app", "arena", "benchmarks", "reward_models", "road", "tables", "trying"]
