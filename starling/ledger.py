"""calls.sqlite: every model call, so that no completed one is ever asked again.

A call is marked sent before it leaves and its reply is committed before anybody uses it. Writes that are queued in
the same turn of the event loop share one transaction. With `synchronous=NORMAL` a committed write survives the death
of the process; after a power loss the last group may be missing. Keys of endpoints and tokens are never written.
"""

import asyncio
import hashlib
import json
import os
import socket
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

from starling import ledger_tables
from starling.errors import DataError
from starling.records import Reply

_END_CALL = """
    INSERT INTO calls (key, name, model, draw, request, text, finished, prompt_tokens, completion_tokens)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET text = excluded.text,
    finished = excluded.finished, prompt_tokens = excluded.prompt_tokens, completion_tokens = excluded.completion_tokens
    WHERE calls.text IS NULL"""

_BEGIN_ATTEMPT = """
    INSERT INTO attempts (session, number, key, sent, asker, prompt_tokens, completion_tokens)
    VALUES (?, ?, ?, ?, ?, ?, ?)"""
_END_ATTEMPT = """
    UPDATE attempts SET ended = ?, outcome = ?, prompt_tokens = ?, completion_tokens = ?
    WHERE session = ? AND number = ?"""

_OPEN_HERE: set[tuple[str, int]] = set()  # (path, session) of the ledgers that this process has open


def canonical(request: Mapping[str, Any]) -> str:
    """The one JSON text of a request, whatever the order of its keys."""
    return json.dumps(request, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def call_key(name: str, model: str, request: str, draw: int) -> str:
    """The hexadecimal key of a call; `request` is its canonical JSON, `name` that of the endpoint, not its URL."""
    return hashlib.sha256(json.dumps([name, model, request, draw]).encode()).hexdigest()


class Attempt(NamedTuple):
    """One try at a call: what `replied` and `failed` need to know of it. `request` is canonical JSON."""

    key: str
    name: str
    model: str
    request: str
    draw: int
    number: int


class Spent(NamedTuple):
    """What the attempts that this ledger saw leave have used, for one stage and one endpoint.

    `calls` came back with a valid reply, in `seconds` together; `failures` did not, nor those whose end is not known.
    """

    stage: str
    name: str
    model: str
    calls: int
    failures: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float

    @property
    def in_this_process(self) -> bool:
        """Whether a model in this process answered: it is filed under the hash of its weights, and what they ran in."""
        weights = self.model.partition(" ")[0]
        return len(weights) == 64 and set(weights) <= set("0123456789abcdef")


_SPENT = """
    SELECT stage, name, model, sum(outcome IS 'reply'), sum(outcome IS NOT 'reply'), coalesce(sum(prompt_tokens), 0),
    coalesce(sum(completion_tokens), 0), coalesce(sum(iif(outcome IS 'reply', ended - sent, 0)), 0)
    FROM attempts JOIN askers ON askers.id = attempts.asker GROUP BY asker ORDER BY asker"""


def read_spent(path: Path) -> list[Spent]:
    """What was used so far by a ledger that another process may have open; it is only read."""
    if not path.exists():
        return []
    try:
        with (
            closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db,
            closing(ledger_tables.up_to_date(db, path)) as current,
        ):
            return [Spent(*row) for row in current.execute(_SPENT)]
    except sqlite3.Error as error:
        raise DataError(f"{path}: cannot be read as a ledger of calls: {error}") from error


class Ledger:
    """The calls on file: a row of `attempts` for each time one left, a row of `calls` for each that came back.

    `interrupted` is the number of calls that were in flight when an earlier process died, counted on opening. `stage`
    is on whose account the attempts of this session go.
    """

    def __init__(self, path: str | Path, stage: str = "") -> None:
        self.path = Path(path)
        self.stage = stage
        self._askers: dict[tuple[str, str], int] = {}
        self._queue: list[tuple[str, Sequence[Any]]] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._number = 0
        with self._plain_errors():
            # One thread at a time uses the connection, but it need not be the thread that opened it.
            self._db = sqlite3.connect(self.path, timeout=60.0, isolation_level=None, check_same_thread=False)
            try:
                self._open()
            except BaseException:
                self._db.close()
                raise

    def _open(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")  # two processes may be creating the same file
        ledger_tables.create_or_check(self._db, self.path)
        self._session, self.interrupted = self._begin_session()
        self._db.execute("COMMIT")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        _OPEN_HERE.add((str(self.path.resolve()), self._session))

    def _begin_session(self) -> tuple[int, int]:
        """The number of the new session, and how many calls of dead sessions never came back."""
        dead = [
            (session,)
            for session, host, pid in self._db.execute("SELECT id, host, pid FROM sessions").fetchall()
            if not self._alive(session, host, pid)
        ]
        sql = "UPDATE attempts SET outcome = 'interrupted' WHERE session = ? AND outcome IS NULL"
        interrupted = self._db.executemany(sql, dead).rowcount if dead else 0
        # Sessions are deleted, not their attempts: a number is never given twice, so both columns stay a key.
        last = self._db.execute("SELECT max(session) FROM (SELECT id AS session FROM sessions UNION ALL"
                                " SELECT max(session) FROM attempts)").fetchone()[0]  # fmt: skip
        self._db.executemany("DELETE FROM sessions WHERE id = ?", dead)
        row = ((last or 0) + 1, socket.gethostname(), os.getpid(), time.time())
        self._db.execute("INSERT INTO sessions VALUES (?, ?, ?, ?)", row)
        return row[0], interrupted

    def _alive(self, session: int, host: str, pid: int) -> bool:
        if pid == os.getpid() and host == socket.gethostname():  # containers hand out the same few numbers
            return (str(self.path.resolve()), session) in _OPEN_HERE
        if host != socket.gethostname() or os.name != "posix":
            return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    def get(self, key: str) -> Reply | None:
        """The reply that closed a call, or None."""
        sql = "SELECT text, finished, prompt_tokens, completion_tokens FROM calls WHERE key = ? AND text IS NOT NULL"
        with self._plain_errors():
            row = self._db.execute(sql, (bytes.fromhex(key),)).fetchone()
        if row is None:
            return None
        return Reply(text=row[0], finished=bool(row[1]), prompt_tokens=row[2], completion_tokens=row[3], key=key)

    def attempts(self, key: str) -> list[str | None]:
        """How each attempt at a call ended, in the order they were sent; None while it is in flight."""
        sql = "SELECT outcome FROM attempts WHERE key = ? ORDER BY sent, number"
        with self._plain_errors():
            return [row[0] for row in self._db.execute(sql, (bytes.fromhex(key),))]

    def spent(self) -> list[Spent]:
        """What was used by stage and endpoint, over all sessions; replies that were taken over cost nothing here."""
        with self._plain_errors():
            return [Spent(*row) for row in self._db.execute(_SPENT)]

    def sent(
        self, key: str, *, name: str, model: str, request: str, draw: int, planned: tuple[int, int] = (0, 0)
    ) -> Attempt:
        """Queue that a call is about to leave; `planned` are the tokens in and out that it may use at most."""
        self._number += 1
        asker = self._askers.get((name, model)) or self._asker(name, model)
        row = (self._session, self._number, bytes.fromhex(key), time.time(), asker, *planned)
        self._queue.append((_BEGIN_ATTEMPT, row))
        return Attempt(key, name, model, request, draw, self._number)

    def _asker(self, name: str, model: str) -> int:
        with self._plain_errors():
            row = (self.stage, name, model)
            self._db.execute("INSERT OR IGNORE INTO askers (stage, name, model) VALUES (?, ?, ?)", row)
            sql = "SELECT id FROM askers WHERE stage = ? AND name = ? AND model = ?"
            found: int = self._db.execute(sql, row).fetchone()[0]
        self._askers[name, model] = found
        return found

    def replied(self, attempt: Attempt, reply: Reply, tokens: tuple[int, int] | None = None) -> None:
        """Queue a valid reply; the first one closes the call and stands. `tokens` are charged where it counts none."""
        counted = reply.prompt_tokens, reply.completion_tokens
        self._ended(attempt, "reply", tokens or counted, (reply.text, reply.finished, *counted))

    def failed(self, attempt: Attempt, outcome: str, tokens: tuple[int, int] = (0, 0)) -> None:
        """Queue how an attempt ended that leaves its call open, and the tokens that it may have cost all the same."""
        self._ended(attempt, outcome, tokens, (None, None, None, None))

    def _ended(
        self,
        attempt: Attempt,
        outcome: str,
        tokens: tuple[int, int],
        reply: tuple[str | None, bool | None, int | None, int | None],
    ) -> None:
        row = (bytes.fromhex(attempt.key), attempt.name, attempt.model, attempt.draw, attempt.request, *reply)
        self._queue.append((_END_CALL, row))
        self._queue.append((_END_ATTEMPT, (time.time(), outcome, *tokens, self._session, attempt.number)))

    def commit(self) -> None:
        """Write everything queued in one transaction; where that fails no reply in it is used."""
        queue, self._queue = self._queue, []
        if not queue:
            return
        with self._plain_errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                for sql, row in queue:
                    self._db.execute(sql, row)
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def take_over(self, path: Path) -> None:
        """Take the replies that another run's ledger holds and this one lacks; the other is only read."""
        sql = (
            "SELECT key, name, model, draw, request, text, finished, prompt_tokens, completion_tokens"
            " FROM calls WHERE text IS NOT NULL"
        )
        with self._plain_errors(), closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as other:
            self._queue += [(_END_CALL, row) for row in other.execute(sql)]
        self.commit()

    async def settle(self) -> None:
        """Return when everything queued so far is committed; callers of the same turn share the transaction."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        if not self._waiters:
            loop.call_soon(self._settle_all)
        self._waiters.append(waiter)
        await waiter

    def _settle_all(self) -> None:
        waiters, self._waiters = self._waiters, []
        failure: BaseException | None = None
        try:
            self.commit()
        except DataError as error:
            failure = error
        for waiter in waiters:
            if waiter.done():
                continue
            if failure is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(failure)

    def close(self) -> None:
        """Commit what is queued and let the file go."""
        try:
            self.commit()
        finally:
            _OPEN_HERE.discard((str(self.path.resolve()), self._session))
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _plain_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OverflowError, UnicodeError) as error:  # the last two: a value that no column holds
            raise DataError(f"{self.path}: cannot be used as the ledger of calls: {error}") from error
