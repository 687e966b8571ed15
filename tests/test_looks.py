"""Looks at held-out rankings while a reward model is fitted."""

from typing import Any

import pytest
import torch

from starling.config import FitTable
from starling.looks import Looks


def looked(accuracies: list[float], **settings: Any) -> Looks:
    """Looks after steps 1, 2, ... that found these accuracies; the only weight is the step's number."""
    looks = Looks(FitTable(**settings), 100)
    for step, accuracy in enumerate(accuracies, 1):
        looks.note(step, accuracy, {"weight": torch.tensor([float(step)])})
    return looks


@pytest.mark.parametrize(
    ("every", "steps", "expected"),
    [(0, 8, [2, 4, 6, 8]), (0, 10, [3, 5, 8, 10]), (0, 3, [1, 2, 3]), (5, 12, [5, 10, 12]), (20, 12, [12])],
    ids=["quarters", "quarters of 10", "few", "every 5", "only the last"],
)
def test_looks_come_at_quarters_or_as_often_as_told_and_after_the_last_step(every, steps, expected) -> None:
    looks = Looks(FitTable(validate_every=every), steps)
    assert [step for step in range(1, steps + 1) if looks.is_due(step)] == expected


def test_the_earliest_of_the_best_looks_is_kept() -> None:
    looks = looked([0.5, 0.7, 0.6, 0.7], keep="best")
    assert (looks.best_step, looks.best_weights["weight"].tolist()) == (2, [2.0])


def test_no_weights_are_held_where_the_last_are_saved() -> None:
    assert looked([0.5, 0.7]).best_weights == {}


def test_remembered_weights_do_not_follow_those_that_are_trained_on() -> None:
    weight = torch.tensor([1.0])
    looks = Looks(FitTable(keep="best"), 4)
    looks.note(1, 0.5, {"weight": weight})
    weight += 1
    assert looks.best_weights["weight"].tolist() == [1.0]


@pytest.mark.parametrize(
    ("accuracies", "enough"),
    [([0.6, 0.5], False), ([0.6, 0.5, 0.6], True), ([0.6, 0.5, 0.61], False), ([0.6, 0.5, 0.61, 0.6, 0.6], True)],
)
def test_patience_ends_after_two_looks_in_a_row_without_gain(accuracies: list[float], enough: bool) -> None:
    assert looked(accuracies, patience=2).is_enough is enough


def test_without_patience_it_is_never_enough() -> None:
    assert not looked([0.9, *[0.1] * 50]).is_enough


def test_a_resumed_memory_goes_on_where_it_was() -> None:
    looks = looked([0.7, 0.6], keep="best", patience=2)
    again = Looks(FitTable(keep="best", patience=2), 100)
    again.load_state_dict(looks.state_dict())
    again.note(3, 0.7, {"weight": torch.tensor([3.0])})
    assert (again.best_step, again.best_weights["weight"].tolist(), again.is_enough) == (1, [1.0], True)
