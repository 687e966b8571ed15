"""The tables of calls.sqlite: made where there are none, brought up to the present version, read call by call."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from starling.errors import DataError

APPLICATION_ID = 0x5354_4C47  # "STLG": tells a ledger from any other SQLite file
VERSION = 2

_SCHEMA = (
    "CREATE TABLE sessions (id INTEGER PRIMARY KEY, host TEXT NOT NULL, pid INTEGER NOT NULL, opened REAL NOT NULL)",
    """CREATE TABLE calls (
        key BLOB NOT NULL UNIQUE, name TEXT NOT NULL, model TEXT NOT NULL, draw INTEGER NOT NULL, request TEXT NOT NULL,
        text TEXT, finished INTEGER, prompt_tokens INTEGER, completion_tokens INTEGER)""",
    """CREATE TABLE attempts (
        session INTEGER NOT NULL, number INTEGER NOT NULL, key BLOB NOT NULL, sent REAL NOT NULL, ended REAL,
        outcome TEXT, PRIMARY KEY (session, number)) WITHOUT ROWID""",
    f"PRAGMA application_id = {APPLICATION_ID}",
)
_SINCE_2 = (  # who asked an attempt, and what it used: at most, until its end is known
    """CREATE TABLE askers (
        id INTEGER PRIMARY KEY, stage TEXT NOT NULL, name TEXT NOT NULL, model TEXT NOT NULL,
        UNIQUE (stage, name, model))""",
    "ALTER TABLE attempts ADD COLUMN asker INTEGER",
    "ALTER TABLE attempts ADD COLUMN prompt_tokens INTEGER",
    "ALTER TABLE attempts ADD COLUMN completion_tokens INTEGER",
    "INSERT INTO askers (stage, name, model) SELECT DISTINCT '', name, model FROM calls",
    """UPDATE attempts SET (asker, prompt_tokens, completion_tokens) = (
        SELECT askers.id, calls.prompt_tokens, calls.completion_tokens FROM calls JOIN askers USING (name, model)
        WHERE calls.key = attempts.key) WHERE outcome = 'reply'""",
    f"PRAGMA user_version = {VERSION}",
)


def create_or_check(db: sqlite3.Connection, path: Path) -> None:
    """Make the tables in an empty file, bring older ones up to date, refuse a file that is no ledger of ours."""
    application, version, tables = (
        db.execute(sql).fetchone()[0]
        for sql in ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
    )
    if application == version == tables == 0:
        for statement in (*_SCHEMA, *_SINCE_2):
            db.execute(statement)
    elif application != APPLICATION_ID:
        raise DataError(f"{path}: an SQLite file, but not a ledger of calls; choose another path")
    elif version == 1:
        for statement in _SINCE_2:
            db.execute(statement)
    elif version != VERSION:
        raise DataError(
            f"{path}: a ledger of version {version}, this Starling reads up to version {VERSION}; move it away"
        )


def up_to_date(db: sqlite3.Connection, path: Path) -> sqlite3.Connection:
    """The same ledger in the present version, to read: itself, or a copy in memory where its file is an older one."""
    if db.execute("PRAGMA user_version").fetchone()[0] == VERSION:
        return db
    copy = sqlite3.connect(":memory:")
    db.backup(copy)
    create_or_check(copy, path)
    return copy


def read_calls(path: Path, keys: Sequence[str]) -> list[dict[str, Any]]:
    """The calls of these keys as a ledger has them, with every attempt; the file is only read, and may be in use.

    A key that is not there is left out.
    """
    if not path.exists():
        return []
    found = []
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
            db.row_factory = sqlite3.Row
            for key in keys:
                row = db.execute("SELECT * FROM calls WHERE key = ?", (bytes.fromhex(key),)).fetchone()
                sql = "SELECT sent, ended, outcome FROM attempts WHERE key = ? ORDER BY sent, number"
                attempts = [dict(attempt) for attempt in db.execute(sql, (bytes.fromhex(key),))]
                if row is not None or attempts:
                    found.append((dict(row) if row else {}) | {"key": key, "attempts": attempts})
    except sqlite3.Error as error:
        raise DataError(f"{path}: cannot be read as the ledger of calls: {error}") from error
    return found
