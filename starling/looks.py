"""Looks at held-out rankings while a reward model is fitted: when they come, which was best, when to stop."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from starling import schedule
from starling.config import FitTable


class Looks:
    """What is remembered from look to look.

    The best look has the highest accuracy; of equals the earliest, since what came after it gained nothing. Its
    weights are remembered only where `fit.keep` asks for them.
    """

    def __init__(self, cfg: FitTable, num_steps: int) -> None:
        self._every = cfg.validate_every
        self._num_steps = num_steps
        self._keeps_best = cfg.keep == "best"
        self._patience = cfg.patience
        self._best_accuracy = -1.0
        self._without_gain = 0
        self.best_step = 0
        self.best_weights: dict[str, Tensor] = {}

    def is_due(self, step: int) -> bool:
        """Whether this step is followed by a look; the last one always is."""
        return schedule.is_look_due(self._every, step, (step - 1) / self._num_steps, step / self._num_steps)

    def note(self, step: int, accuracy: float, weights: Mapping[str, Tensor]) -> None:
        """Take in what a look found."""
        if accuracy <= self._best_accuracy:
            self._without_gain += 1
            return
        self._best_accuracy, self._without_gain, self.best_step = accuracy, 0, step
        if self._keeps_best:
            self.best_weights = {name: weight.detach().to("cpu", copy=True) for name, weight in weights.items()}

    @property
    def is_enough(self) -> bool:
        """Whether `fit.patience` looks in a row gained nothing."""
        return 0 < self._patience <= self._without_gain

    def state_dict(self) -> dict[str, Any]:
        return {
            "best_accuracy": self._best_accuracy,
            "without_gain": self._without_gain,
            "best_step": self.best_step,
            "best_weights": self.best_weights,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._best_accuracy = state["best_accuracy"]
        self._without_gain = state["without_gain"]
        self.best_step = state["best_step"]
        self.best_weights = dict(state["best_weights"])
