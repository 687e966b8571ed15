"""What the command line asks of a benchmark; each benchmark says which of it means anything to it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from starling.account import Account
from starling.benches.cost import Part
from starling.errors import UsageError
from starling.judges.asking import Output
from starling.reward import Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options of `starling bench`; what is empty, or stands as here, was not given.

    `account` is no option: it is there where a run asks.
    """

    model: str = ""
    scores: str = ""
    answers: Path | None = None
    judge: Sequence[str] = ()
    output: Output = "text"
    against: str = ""
    marks: bool = False
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
    account: Account | None = None


class Benchmark(NamedTuple):
    """One benchmark: what it tests, which options it takes, what runs it.

    `plan` refuses what cannot work and says what is going to be asked of whom, before anything is.
    """

    about: str
    takes: frozenset[str]
    run: Callable[[Asked], dict[str, Any]]
    plan: Callable[[Asked], Sequence[Part]]


# What a run says itself of a benchmark that it asks for, or has no use for.
A_RUNS_OWN = frozenset(("model", "scores", "answers", "against", "judgments", "annotations", "run", "out", "estimate"))


def refuse_others(name: str, asked: Asked, takes: frozenset[str]) -> None:
    """Refuse what was given but would not be looked at."""
    plain = Asked()
    options = [field.name for field in fields(Asked) if field.name != "account"]
    given = [option for option in options if getattr(asked, option) != getattr(plain, option)]
    if unknown := [option for option in given if option not in takes]:
        offered = takes - A_RUNS_OWN if asked.account else takes
        raise UsageError(
            f"bench: --{_spelled(unknown[0])} means nothing to {name}; it takes "
            f"{', '.join(f'--{_spelled(one)}' for one in sorted(offered))}"
        )


def refuse_files(asked: Asked) -> None:
    """Refuse answers that are not there, and a result where a file stands."""
    if asked.answers and not asked.answers.is_file():
        raise UsageError(f"bench: --answers {asked.answers}: there is no such file")
    if asked.out is not None and asked.out.is_file():
        raise UsageError(f"bench: --out {asked.out} is a file; a benchmark writes a folder")


def _spelled(option: str) -> str:
    return option.replace("_", "-")
