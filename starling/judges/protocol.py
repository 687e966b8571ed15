"""What a judge and the chat model behind it must offer; and what a judge can say."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from starling.records import Call, Candidate, Failure, Prompt, Reply


class Chat(Protocol):
    """A chat model, in process or behind a URL, that answers calls in the order they were given."""

    name: str

    def chat(self, calls: Sequence[Call]) -> list[Reply | Failure]:
        """One reply or failure for each call."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A judge's ranking of the answers to one prompt.

    `ranks` are competition ranks (1 = best, ties share the smaller number), one for each answer as given, or None
    where the reply could not be read; then `reason` says why. `orders` are the presentation orders that were used,
    each a list of indices into the answers; `replies` the texts they gave; `calls` the ledger's keys of all calls made.
    """

    ranks: Sequence[float] | None
    reason: str = ""
    orders: Sequence[Sequence[int]] = ()
    replies: Sequence[str] = ()
    good_natured: bool | None = None
    agreement: float | None = None
    calls: Sequence[str] = ()


class Judge(Protocol):
    """Ranks the answers of each prompt."""

    name: str
    template_hash: str

    def rank(self, items: Sequence[tuple[Prompt, Sequence[Candidate]]]) -> list[Judged]:
        """One verdict for each item, in order."""
        ...
