"""The folder of a benchmark, and the ledger in it in which every call stands."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from starling import progress
from starling.account import Account
from starling.at_work import alone
from starling.errors import explained
from starling.ledger import Ledger


def folder_of(bench: str, tested: str) -> Path:
    """Where a benchmark of a MODEL, or of a FILE of its answers, goes without `--out`; each has a folder of its own."""
    return Path("runs") / f"bench-{bench}-{file_name(tested)}"


def file_name(model: str) -> str:
    """A model's name as the name of a file."""
    return "".join(letter if letter.isalnum() or letter in "-_.@" else "-" for letter in model).strip("-.") or "model"


@contextmanager
def filed(out: Path, purpose: str, account: Account | None = None) -> Iterator[Ledger]:
    """The ledger of a benchmark's folder, which is made where need be, on the account of `purpose`; or a run's."""
    with explained(f"making {out}"):
        out.mkdir(parents=True, exist_ok=True)
    # A run holds its folder itself; here nobody else may ask the same calls at the same time.
    with (
        nullcontext() if account else alone(out),
        Ledger(ledger_of(out, account), account.stage(purpose) if account else purpose) as ledger,
    ):
        progress.note_interrupted(ledger.interrupted)
        yield ledger


def ledger_of(out: Path, account: Account | None = None) -> Path:
    """Where the calls of a benchmark's folder stand: in it, or with all others of the run that asks."""
    return account.ledger if account else out / "calls.sqlite"
