"""Votes of people in the arena: one SQLite file, a row a vote, also as rows and as rankings.

A vote is committed before the names are shown, so what the page has taken is kept (WAL; `synchronous=NORMAL`: after a
power loss the last ones may be missing). Model a stood on the left, b on the right.
"""

import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self, get_args

from starling import data_files, progress, tables
from starling.errors import DataError, explained
from starling.records import Candidate, Message, Ranking

Winner = Literal["model_a", "model_b", "tie", "tie (bothbad)"]  # as in Chatbot Arena's files
WINNERS: tuple[Winner, ...] = get_args(Winner)
RANKS: dict[Winner, tuple[float, float]] = {
    "model_a": (1.0, 2.0), "model_b": (2.0, 1.0), "tie": (1.0, 1.0), "tie (bothbad)": (1.0, 1.0),
}  # fmt: skip
JUDGE = "people"
_MAGIC = b"SQLite format 3\x00"
_APPLICATION_ID = 0x5354_5654  # "STVT": tells votes from any other SQLite file
_SCHEMA = f"""
    BEGIN;
    CREATE TABLE IF NOT EXISTS votes (
        id INTEGER PRIMARY KEY, battle TEXT NOT NULL UNIQUE, time TEXT NOT NULL, voter TEXT NOT NULL,
        prompt TEXT NOT NULL, model_a TEXT NOT NULL, model_b TEXT NOT NULL, conversation_a TEXT NOT NULL,
        conversation_b TEXT NOT NULL, finished_a INTEGER NOT NULL, finished_b INTEGER NOT NULL,
        winner TEXT NOT NULL CHECK (winner IN {WINNERS}));
    PRAGMA application_id = {_APPLICATION_ID};
    COMMIT"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """One vote: who voted when on which battle, what both models were asked and said, who won.

    `voter` is random, one for each browser session. `finished_*` is False where the token cap cut the last answer.
    """

    battle: str
    time: str
    voter: str
    prompt: str
    model_a: str
    model_b: str
    conversation_a: Sequence[Message]
    conversation_b: Sequence[Message]
    finished_a: bool
    finished_b: bool
    winner: Winner


_COLUMNS = ", ".join(field.name for field in fields(Vote))


class Votes:
    """A file of votes, open for adding; threads may share it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        is_new = not path.exists() or not path.stat().st_size
        if not (is_new or holds(path)):
            raise DataError(f"{path}: not a file of votes; choose another --votes FILE")
        with explained(f"making {path.parent}"):
            path.parent.mkdir(parents=True, exist_ok=True)
        with _plain_errors(path, "cannot be used for votes"):
            self._db = sqlite3.connect(path, timeout=60.0, isolation_level=None, check_same_thread=False)
            if is_new:
                self._db.executescript(_SCHEMA)  # before WAL, which writes a file that says nothing of itself yet
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")

    def add(self, vote: Vote) -> bool:
        """Keep a vote; False where its battle has one already, which stays."""
        row = asdict(vote) | {side: json.dumps(getattr(vote, side)) for side in ("conversation_a", "conversation_b")}
        marks = ", ".join("?" * len(row))
        sql = f"INSERT INTO votes ({_COLUMNS}) VALUES ({marks}) ON CONFLICT (battle) DO NOTHING"
        with self._lock, _plain_errors(self.path, "the vote cannot be kept"):
            return self._db.execute(sql, list(row.values())).rowcount == 1

    def count(self) -> int:
        """How many votes the file holds, those of other processes too."""
        with self._lock, _plain_errors(self.path, "cannot be read"):
            return int(self._db.execute("SELECT count(*) FROM votes").fetchone()[0])

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def now() -> str:
    """The time as votes have it: UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def holds(path: Path) -> bool:
    """Whether the path is a file of votes."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            return False
    with _plain_errors(path, "cannot be read"), closing(_reader(path)) as db:
        return bool(db.execute("PRAGMA application_id").fetchone()[0] == _APPLICATION_ID)


def read(path: Path) -> list[Vote]:
    """The votes of a file, oldest first; the arena may have it open."""
    if not holds(path):
        raise DataError(f"{path}: {'not a file of votes' if path.exists() else 'there is no such file'}")
    with _plain_errors(path, "cannot be read"), closing(_reader(path)) as db:
        db.row_factory = sqlite3.Row
        found = [dict(row) for row in db.execute(f"SELECT {_COLUMNS} FROM votes ORDER BY id")]
    for row in found:
        row |= {side: json.loads(row[side]) for side in ("conversation_a", "conversation_b")}
        row |= {side: bool(row[side]) for side in ("finished_a", "finished_b")}
    return [Vote(**row) for row in found]


def located_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The votes as rows of Chatbot Arena's form, with what else is known of each, and where each stands."""
    yield from ((f"{path}:{number}", asdict(vote)) for number, vote in enumerate(read(path), 1))


def export(path: Path, out: Path) -> dict[str, Any]:
    """Write the votes that a reward model can learn from as rankings of two answers, JSONL that `fit` reads.

    A ranking is of answers to one prompt. After two turns each side answers its own conversation, so those votes are
    left out and counted. Ties, also of two bad answers, are ties.
    """
    if out.exists() and out.samefile(path):
        raise DataError(f"arena: --out {out} is the file of votes; choose another")
    found = read(path)
    ranked = [ranking(vote, number) for number, vote in enumerate(found, 1) if len(vote.conversation_a) == 2]
    if not ranked:
        raise DataError(f"arena: none of the {len(found):,} votes in {path} is on the answers to one prompt")
    data_files.write_jsonl(out, map(tables.ranking_row, ranked))
    later = len(found) - len(ranked)
    told = f"; {later:,} left out: cast after two turns, when each model answered its own conversation" if later else ""
    progress.say(f"arena: {len(ranked):,} of {len(found):,} votes as rankings in {out}{told}")
    return {"votes": len(found), "rankings": len(ranked), "left_out": {"after two turns": later}, "out": str(out)}


def ranking(vote: Vote, number: int) -> Ranking:
    """A vote on the answers to one prompt as their ranking."""
    prompt_id = f"vote-{number}"
    sides = [
        (vote.model_a, vote.conversation_a, vote.finished_a),
        (vote.model_b, vote.conversation_b, vote.finished_b),
    ]
    answers = [
        Candidate(prompt_id=prompt_id, model=model, draw=draw, answer=said[-1]["content"], finished=finished)
        for draw, (model, said, finished) in enumerate(sides)
    ]
    return Ranking(
        prompt_id=prompt_id, messages=vote.conversation_a[:-1], answers=answers, ranks=RANKS[vote.winner],
        judge=JUDGE, orders=[[0, 1]], rankings=[RANKS[vote.winner]], source="arena",
    )  # fmt: skip


def _reader(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)


@contextmanager
def _plain_errors(path: Path, what: str) -> Iterator[None]:
    """What SQLite finds wrong with the file, in one line."""
    try:
        yield
    except sqlite3.Error as error:
        raise DataError(f"{path}: {what}: {error}") from error
