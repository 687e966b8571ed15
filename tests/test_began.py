"""What a fit began with, as hashes."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from made_rankings import example, ranking

from starling.began import began_with
from starling.config import FitTable
from starling.examples import Example

TOLD = example(ranking("p", ["wet", "dry"], [1, 2]))
TEST = example(ranking("q", ["wet", "dry"], [2, 1]))


def of(
    seed: int = 1, told: Example = TOLD, test: Example = TEST, weight: float = 1.0, **settings: Any
) -> dict[str, str]:
    network = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.constant_(network.weight, weight)
    return began_with(FitTable(**settings), seed, network, [told], [test])


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"learning_rate": 1e-4}, "settings"),
        ({"seed": 2}, "settings"),
        ({"told": replace(TOLD, shared=[0, 1])}, "rankings"),
        ({"told": replace(TOLD, endings=[[7], [8]])}, "rankings"),
        ({"told": replace(TOLD, shared=[], endings=[[0, 7], [7]])}, "rankings"),
        ({"told": replace(TOLD, ranking=replace(TOLD.ranking, ranks=[2, 1]))}, "rankings"),
        ({"told": replace(TOLD, ranking=replace(TOLD.ranking, agreement=0.5))}, "rankings"),
        ({"test": TOLD}, "held-out rankings"),
        ({"weight": 1.5}, "base weights"),
    ],
    ids=["rate", "seed", "prompt", "answer", "where it ends", "ranks", "agreement", "test", "weights"],
)
def test_each_hash_follows_what_it_is_named_after_and_nothing_else(changed: dict[str, Any], named: str) -> None:
    first, other = of(), of(**changed)
    assert [name for name in first if first[name] != other[name]] == [named]


@pytest.mark.parametrize(
    "changed",
    [
        {"checkpoint_seconds": 5},
        {"gradient_checkpointing": True},
        {"laplace_prior": 1.0},
        {"told": replace(TOLD, ranking=replace(TOLD.ranking, prompt_id="elsewhere.jsonl:1"))},
        {"told": replace(TOLD, shared=(0,), endings=[(7,), (7,)])},
    ],
    ids=["seconds", "memory", "afterwards", "file", "held in another way"],
)
def test_what_changes_no_step_changes_no_hash(changed: dict[str, Any]) -> None:
    assert of(**changed) == of()


def test_names_count_where_a_pair_is_drawn_by_them() -> None:
    elsewhere = replace(TOLD, ranking=replace(TOLD.ranking, prompt_id="elsewhere.jsonl:1"))
    first, other = of(loss="sampled_pair"), of(loss="sampled_pair", told=elsewhere)
    assert [name for name in first if first[name] != other[name]] == ["rankings"]
