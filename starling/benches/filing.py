"""The ledger in which every call of a benchmark stands."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from starling import progress
from starling.errors import explained
from starling.ledger import Ledger


@contextmanager
def filed(out: Path, purpose: str) -> Iterator[Ledger]:
    """The ledger of a benchmark's folder, which is made where need be, on the account of `purpose`."""
    with explained(f"making {out}"):
        out.mkdir(parents=True, exist_ok=True)
    with Ledger(ledger_of(out), purpose) as ledger:
        progress.note_interrupted(ledger.interrupted)
        yield ledger


def ledger_of(out: Path) -> Path:
    """Where the calls of a benchmark's folder stand."""
    return out / "calls.sqlite"
