"""What a benchmark could not count: every case with its reason, counted, listed and shown, never scored."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.text import Text

from starling import progress, texts


class LeftOut(NamedTuple):
    """A case without a score: why in a few words to count by, and in full."""

    item: str
    reason: str
    detail: str = ""


def reasons(found: Sequence[LeftOut]) -> dict[str, int]:
    """How often each reason stands, the commonest first."""
    return dict(Counter(one.reason for one in found).most_common())


def told(found: Sequence[LeftOut]) -> dict[str, Any]:
    """What stands in a result: how many, why, and each of them."""
    return {"count": len(found), "reasons": reasons(found), "items": [one._asdict() for one in found]}


def show(about: Mapping[str, Any], of: str = "") -> None:
    """Print what `told` gives, a line for each reason with its first case; `of` says of how many."""
    if about["count"]:
        line = Text(f"Left out: {about['count']:,}{of}", style="yellow")
        progress.show(line)
    for reason, count in about["reasons"].items():
        first = next(one for one in about["items"] if one["reason"] == reason)
        progress.show(texts.terminal(f"  {count:,} x {reason}, first {first['item']}", style="dim"))
