"""The state of a training loop on disk: one file, written under a temporary name and renamed."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import starling
from starling import device, progress
from starling.errors import DataError, explained

FORMAT = 6  # of what the loops save; one more where a state of before cannot be read


class Checkpoint:
    """Saves at most once in `seconds`, so that an interruption costs no more than that.

    `began_with` has hashes of what the steps follow from, by name.
    """

    def __init__(self, path: Path, seconds: float, began_with: Mapping[str, str] | None = None) -> None:
        self.path = path
        self._seconds = seconds
        self._began_with = dict(began_with or {})
        self._last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The saved state, or None where there is none; tensors and plain values only, never code.

        What another version saved is refused, or what began with something else: its steps need not be the ones that
        would have been done here. Another number of threads, or other products, are told: all goes on, but not bit for
        bit.
        """
        if not self.path.exists():
            return None
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            made_by, state, began_with = saved["starling"], saved["state"], dict(saved.get("began_with", {}))
            found_format, arithmetic = saved.get("format", 1), dict(saved.get("arithmetic", {}))
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise DataError(f"{self.path}: not a checkpoint ({reason}); delete it to begin anew") from error
        if made_by != starling.__version__:
            raise DataError(
                f"{self.path}: was saved by starling {made_by}, this is {starling.__version__}; "
                "use that version, or delete it to begin anew"
            )
        if found_format != FORMAT:
            raise DataError(
                f"{self.path}: was saved in form {found_format}, this starling has form {FORMAT}; use the one that "
                "saved it, or delete it to begin anew"
            )
        if other := [name for name, value in self._began_with.items() if began_with.get(name) != value]:
            raise DataError(
                f"{self.path}: was saved with other {' and '.join(other)}; bring them back, or delete it to begin anew"
            )
        self._tell_other(arithmetic)
        return state

    def _tell_other(self, arithmetic: Mapping[str, str]) -> None:
        here = device.arithmetic()
        if other := [f"{name} {value}, now {here[name]}" for name, value in arithmetic.items() if value != here[name]]:
            progress.say(
                f"{self.path}: was saved with {' and '.join(other)}: what follows is not bit for bit what it would be "
                "without an interruption"
            )

    @property
    def due(self) -> bool:
        return time.monotonic() - self._last >= self._seconds

    def save(self, state: dict[str, Any]) -> None:
        """Replace the saved state."""
        partial = self.path.with_name(self.path.name + ".partial")
        saved = {
            "starling": starling.__version__,
            "format": FORMAT,
            "began_with": self._began_with,
            "arithmetic": device.arithmetic(),
            "state": state,
        }
        with explained(f"writing {self.path}"):
            try:
                with partial.open("wb") as file:
                    torch.save(saved, file)
            except RuntimeError as error:  # what torch makes of a full disk
                partial.unlink(missing_ok=True)
                raise OSError("the disk did not take the whole file") from error
            os.replace(partial, self.path)
        self._last = time.monotonic()
