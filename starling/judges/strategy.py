"""What a way of asking a language model for a ranking must bring: one record of functions for each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

from starling.judges.aggregate import Aggregate
from starling.judges.parse import Verdict
from starling.records import Prompt


class Said(NamedTuple):
    """What one reply says of the answers that it was shown, by place: the verdict, pair verdicts (winner, loser)."""

    verdict: Verdict
    good_natured: bool | None = None
    pairs: Sequence[tuple[int, int]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """One way of asking; its text is `templates/NAME.txt`.

    `shows` makes of an order of all answers, and of the least number of meetings, what each call shows. `fields` are
    what only this template has, from prompt, number of answers shown, tag and a random source. `aggregate` makes ranks
    of all calls; `ranks_all` is whether a single call ranks all answers.
    """

    name: str
    shows: Callable[[Sequence[int], int], list[list[int]]]
    fields: Callable[[Prompt, int, str, Random], dict[str, str]]
    schema: Callable[[int], dict[str, Any]]
    read_text: Callable[[str, int], Said]
    read_json: Callable[[dict[str, Any], int], Said]
    aggregate: Aggregate
    ranks_all: bool


def no_fields(prompt: Prompt, k: int, tag: str, source: Random) -> dict[str, str]:
    """Nothing beyond what every template has."""
    return {}


def shows_all(order: Sequence[int], meetings: int) -> list[list[int]]:
    """One call that shows all answers."""
    return [list(order)]
