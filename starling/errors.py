"""The errors a person can meet: one line each that says what, where, how many, what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class StarlingError(Exception):
    """Something in the input, the files or the surroundings is wrong; the command exits with 1."""

    exit_code = 1


class UsageError(StarlingError):
    """The command line or the configuration is wrong; the command exits with 2."""

    exit_code = 2


class DataError(StarlingError):
    """A file does not hold what it should."""


class ModelError(StarlingError):
    """A model cannot be loaded, or is not the kind that is needed."""


class CallError(StarlingError):
    """A model endpoint failed past every retry."""


class GivenUp(StarlingError):
    """Nobody waits any more for what was asked; it was broken off."""


class StopStage(StarlingError):
    """A limit that the configuration set was passed; what was done so far is kept."""


class Unfit(StarlingError):
    """Something was looked at and must not go on; `result` is what was found, for `--json`."""

    def __init__(self, text: str, result: Any) -> None:
        super().__init__(text)
        self.result = result


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turn the operating system's refusal (disk full, no permission) into one plain line."""
    try:
        yield
    except OSError as error:
        raise StarlingError(
            f"{doing} failed: {error.strerror or error}; free space or choose another folder"
        ) from error
