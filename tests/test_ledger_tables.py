"""The tables of calls.sqlite: older ones are read on, foreign ones left alone, calls read while they are in use."""

import sqlite3
from pathlib import Path

import pytest

from starling.errors import DataError
from starling.ledger import Ledger, call_key, read_spent
from starling.ledger_tables import read_calls
from starling.records import Reply

NAME = {"name": "judge", "model": "m", "request": "{}", "draw": 0}
KEY = call_key("judge", "m", "{}", 0)
REPLY = Reply(text="yes", finished=True, prompt_tokens=5, completion_tokens=1)


def test_a_call_is_read_back_by_its_key_with_all_its_attempts_while_the_ledger_is_open(tmp_path):
    path = tmp_path / "calls.sqlite"
    assert read_calls(path, [KEY]) == []
    with Ledger(path) as ledger:
        ledger.failed(ledger.sent(KEY, **NAME), "too many requests")
        ledger.replied(ledger.sent(KEY, **NAME), REPLY)
        flying = call_key("judge", "m", "{}", 1)
        ledger.sent(flying, **NAME | {"draw": 1})
        ledger.commit()
        answered, waiting = read_calls(path, [KEY, "ff" * 32, flying])
        assert ledger.get(KEY).key == KEY
    assert (answered["key"], answered["text"], answered["prompt_tokens"]) == (KEY, "yes", 5)
    assert [attempt["outcome"] for attempt in answered["attempts"]] == ["too many requests", "reply"]
    assert waiting["key"] == flying and "text" not in waiting
    assert [(attempt["ended"], attempt["outcome"]) for attempt in waiting["attempts"]] == [(None, None)]


def test_what_is_no_ledger_is_refused_when_calls_are_read(tmp_path):
    (tmp_path / "calls.sqlite").write_text("not a database, but long enough to be taken for one" * 9)
    with pytest.raises(DataError, match="cannot be read as the ledger of calls"):
        read_calls(tmp_path / "calls.sqlite", [KEY])


def test_a_file_that_is_no_ledger_is_refused_in_one_line(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("these are notes " * 100)
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE shopping (item TEXT)")
    db.close()
    newer = tmp_path / "newer.sqlite"
    Ledger(newer).close()
    with sqlite3.connect(newer) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    for path, said in (
        (text, "not a database"),
        (foreign, "not a ledger"),
        (newer, "version 99"),
        (tmp_path, "unable to open"),
        (tmp_path / "absent" / "calls.sqlite", "unable to open"),
    ):
        before = path.read_bytes() if path.is_file() else None
        with pytest.raises(DataError, match=said) as caught:
            Ledger(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
        assert before is None or path.read_bytes() == before


def test_a_ledger_of_the_first_version_is_read_on_and_its_tokens_count(tmp_path: Path) -> None:
    path = tmp_path / "calls.sqlite"
    with Ledger(path) as new:
        new.replied(new.sent(KEY, **NAME), Reply(text="yes", finished=True, prompt_tokens=5, completion_tokens=2))
    with sqlite3.connect(path) as db:  # as it was before: no askers, no tokens of attempts
        db.execute("DROP TABLE askers")
        for column in ("asker", "prompt_tokens", "completion_tokens"):
            db.execute(f"ALTER TABLE attempts DROP COLUMN {column}")
        db.execute("PRAGMA user_version = 1")
    db.close()
    before = path.read_bytes()
    (read,) = read_spent(path)
    assert path.read_bytes() == before
    with Ledger(path) as opened:
        assert opened.get(KEY).text == "yes"
        (spent,) = opened.spent()
    assert read == spent
    assert (spent.name, spent.calls, spent.prompt_tokens, spent.completion_tokens) == ("judge", 1, 5, 2)
    assert read_spent(path) == [spent]
