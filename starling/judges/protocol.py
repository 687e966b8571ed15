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
    where the replies could not be read; then `reason` says why. Of each call that came back, `orders` has what was
    shown, as indices into the answers, `replies` the text, `rankings` the ranks that it gives to what was shown (empty
    where it could not be read), `marks` its mark, `repeats` for the how-manyth time it was asked. `unread` calls stayed
    unreadable, or failed, to the last attempt. `agreement` is the share of pair verdicts that the ranking upholds,
    `self_agreement` Kendall's tau between repeats, mean over their pairs. `calls` are the ledger's keys of all calls
    made, in the order they were made, also of those that failed. A reward model makes no calls; each answer that it
    read stands in `orders`, its reward in `marks`. Of a panel `members` are what each of its judges says; its
    `self_agreement` is Kendall's tau between them, and calls one by one stand with the members alone.
    """

    ranks: Sequence[float] | None
    reason: str = ""
    orders: Sequence[Sequence[int]] = ()
    replies: Sequence[str] = ()
    good_natured: bool | None = None
    agreement: float | None = None
    rankings: Sequence[Sequence[float]] = ()
    marks: Sequence[float | None] = ()
    repeats: Sequence[int] = ()
    unread: int = 0
    self_agreement: float | None = None
    calls: Sequence[str] = ()
    members: Sequence["Judged"] = ()


class Judge(Protocol):
    """Ranks the answers of each prompt."""

    name: str
    template_hash: str

    def rank(self, items: Sequence[tuple[Prompt, Sequence[Candidate]]]) -> list[Judged]:
        """One verdict for each item, in order."""
        ...
