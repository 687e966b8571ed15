"""The commands, in the order in which `starling --help` lists them."""

from starling.command import app

from starling.commands import road, reward_models, tables, trying  # isort: skip

__all__ = ["app", "reward_models", "road", "tables", "trying"]
