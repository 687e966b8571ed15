"""The whole road in seconds: a few prompts of our own, three generators, the tiny model, tiny token caps."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TOPICS = ("rain", "plain", "river", "town", "name", "spain")
ASKS = ("Say one word about the {}.", "Write about the {} in lower case.", "What is the {}?")
CHECKS = ({"check": "max_words", "n": 2}, {"check": "lowercase"}, {"check": "one_line"})
GENERATORS = (("plain", 1.0), ("greedy", 0.0), ("hot", 1.6))


def prompt_rows() -> list[dict[str, Any]]:
    """Twelve prompts to train on, three to choose by, three to test on; a family is a topic."""
    splits = ("train",) * 4 + ("validation", "test")
    return [
        {
            "id": f"{topic}-{number}", "family": topic, "kind": "writing", "split": split, "prompt": ask.format(topic),
            "reference": f"the {topic}", "facts": [["a"], ["e"], ["i"], ["the"]], "topic": [topic[0], topic],
            "checks": [check],
        }
        for topic, split in zip(TOPICS, splits, strict=True)
        for number, (ask, check) in enumerate(zip(ASKS, CHECKS, strict=True))
    ]  # fmt: skip


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def content(folder: Path) -> dict[str, bytes]:
    """The files below it, by their paths."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def recipe(folder: Path, model: Path, **changes: Any) -> Path:
    """A recipe beside its prompt file; `changes` are `table__key=value`."""
    folder.mkdir(parents=True, exist_ok=True)
    prompts = write_lines(folder / "prompts.jsonl", prompt_rows())
    tables: dict[str, dict[str, Any]] = {
        "run": {"model": str(model), "threads": 1, "seed": 3},
        "prompts": {"sources": [str(prompts)], "train": 12, "validation": 3, "test": 3},
        "sample": {"train_prompts": 12, "validation_prompts": 3, "max_new_tokens": 16, "shard_prompts": 5},
        "rank": {"tie_margin": 1e-6, "probe_prompts": 1, "probe_tokens": 8},
        "fit": {"epochs": 3, "prompts_per_step": 3, "learning_rate": 1e-2, "checkpoint_seconds": 1e-9},
        "tune": {
            "ranked_prompts": 4, "steps": 3, "prompts_per_step": 4, "rollouts_per_prompt": 2, "max_new_tokens": 8,
            "layers": 2, "learning_rate": 3e-2, "warm_up_prompts": 4, "gae_lambda": 1.0, "critic_epochs": 2,
            "validate_every": 1, "validation_draws": 1, "checkpoint_seconds": 1e-9, "kl_limit": 1e9,
        },
        "evaluate": {"answer_tokens": 8, "draws": 2, "resamples": 100},
    }  # fmt: skip
    for change, value in changes.items():
        table, key = change.split("__")
        tables[table][key] = value
    lines = []
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
        if name == "sample":
            for generator, temperature in GENERATORS:
                lines += ["[[sample.generators]]", f'name = "{generator}"', f"temperature = {temperature}"]
    path = folder / "small.toml"
    path.write_text("\n".join(lines) + "\n")
    return path
