"""What the command line asks of a benchmark; each benchmark says which of it means anything to it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from starling.errors import UsageError
from starling.judges.asking import Output
from starling.reward import Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options of `starling bench`; what is empty, or stands as here, was not given."""

    model: str = ""
    scores: str = ""
    answers: Path | None = None
    judge: Sequence[str] = ()
    output: Output = "text"
    against: str = ""
    judgments: Path | None = None
    annotations: Sequence[Path] = ()
    version: int = 1
    one_order: bool = False
    data: str = ""
    run: Path | None = None
    tasks: str = ""
    tasks_from: Path | None = None
    out: Path | None = None
    dtype: Precision = "float32"
    estimate: bool = False


class Benchmark(NamedTuple):
    """One benchmark: what it tests, which options it takes, and what runs it."""

    about: str
    takes: frozenset[str]
    run: Callable[[Asked], dict[str, Any]]


def refuse_others(name: str, asked: Asked, takes: frozenset[str]) -> None:
    """Refuse what was given but would not be looked at."""
    plain = Asked()
    given = [field.name for field in fields(Asked) if getattr(asked, field.name) != getattr(plain, field.name)]
    if unknown := [option for option in given if option not in takes]:
        raise UsageError(
            f"bench: --{_spelled(unknown[0])} means nothing to {name}; it takes "
            f"{', '.join(f'--{_spelled(one)}' for one in sorted(takes))}"
        )


def _spelled(option: str) -> str:
    return option.replace("_", "-")
