"""The state of a training loop on disk: one file, written under a temporary name and renamed."""

import os
import time
from pathlib import Path
from typing import Any

import torch

from starling.errors import DataError
from starling.store import explained


class Checkpoint:
    """Saves at most once in `seconds`, so that an interruption costs no more than that."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.path = path
        self._seconds = seconds
        self._last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The saved state, or None where there is none; tensors and plain values only, never code."""
        if not self.path.exists():
            return None
        try:
            return torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise DataError(f"{self.path}: not a checkpoint ({str(error).splitlines()[0]}); delete it to begin anew") from error

    @property
    def due(self) -> bool:
        return time.monotonic() - self._last >= self._seconds

    def save(self, state: dict[str, Any]) -> None:
        """Replace the saved state."""
        partial = self.path.with_name(self.path.name + ".partial")
        with explained(f"writing {self.path}"):
            torch.save(state, partial)
            os.replace(partial, self.path)
        self._last = time.monotonic()

    def remove(self) -> None:
        """Forget the state, once what it led to stands."""
        self.path.unlink(missing_ok=True)
