"""The state of a training loop on disk: one file, written under a temporary name and renamed."""

import os
import time
from pathlib import Path
from typing import Any

import torch

import starling
from starling.errors import DataError, explained


class Checkpoint:
    """Saves at most once in `seconds`, so that an interruption costs no more than that."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.path = path
        self._seconds = seconds
        self._last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The saved state, or None where there is none; tensors and plain values only, never code.

        What another version saved is refused: its steps need not be the ones that this version would have done.
        """
        if not self.path.exists():
            return None
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            made_by, state = saved["starling"], saved["state"]
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise DataError(f"{self.path}: not a checkpoint ({reason}); delete it to begin anew") from error
        if made_by != starling.__version__:
            raise DataError(
                f"{self.path}: was saved by starling {made_by}, this is {starling.__version__}; "
                "use that version, or delete it to begin anew"
            )
        return state

    @property
    def due(self) -> bool:
        return time.monotonic() - self._last >= self._seconds

    def save(self, state: dict[str, Any]) -> None:
        """Replace the saved state."""
        partial = self.path.with_name(self.path.name + ".partial")
        with explained(f"writing {self.path}"):
            try:
                with partial.open("wb") as file:
                    torch.save({"starling": starling.__version__, "state": state}, file)
            except RuntimeError as error:  # what torch makes of a full disk
                partial.unlink(missing_ok=True)
                raise OSError("the disk did not take the whole file") from error
            os.replace(partial, self.path)
        self._last = time.monotonic()

    def remove(self) -> None:
        """Forget the state, once what it led to stands."""
        self.path.unlink(missing_ok=True)
