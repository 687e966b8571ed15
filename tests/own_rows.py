"""Rows of files that people bring, and settings to fit on them in seconds."""

from starling import config
from starling.config import Config

WORDS = ("rain", "plain", "river", "town", "name", "spain", "the", "what", "runs", "stays")


def settings(*overrides: str) -> Config:
    small = ["fit.epochs=1", "fit.prompts_per_step=4", "fit.learning_rate=1e-2", "fit.layers=0", "run.threads=1"]
    return config.load(config.find_recipe("smollm2"), [*small, *overrides])


def pair_rows(count: int = 12) -> list[dict]:
    return [{"prompt": f"{WORDS[n % 10]} {n}?", "chosen": "the rain", "rejected": f"no {n}"} for n in range(count)]
