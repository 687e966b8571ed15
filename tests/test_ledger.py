"""calls.sqlite: what was answered is never asked again, what was in flight is counted."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from starling.errors import DataError
from starling.ledger import Ledger, call_key, canonical
from starling.records import Reply

NAME = {"name": "judge", "model": "m", "request": "{}", "draw": 0}
KEY = call_key("judge", "m", "{}", 0)
REPLY = Reply(text="yes", finished=True, prompt_tokens=5, completion_tokens=1)


def test_a_key_follows_from_name_model_request_and_draw_but_not_from_key_order():
    one, other = canonical({"a": 1, "b": [2]}), canonical({"b": [2], "a": 1})
    assert one == other == '{"a":1,"b":[2]}'
    told_apart = [("n", "m", one, 0), ("x", "m", one, 0), ("n", "x", one, 0), ("n", "m", one, 1), ("n", "m", "{}", 0)]
    keys = {call_key(*parts) for parts in told_apart}
    assert len(keys) == 5
    assert all(len(key) == 64 for key in keys)


def test_a_valid_reply_closes_its_call_and_the_first_one_stands(tmp_path):
    with Ledger(tmp_path / "calls.sqlite") as ledger:
        attempt = ledger.sent(KEY, **NAME)
        assert ledger.get(KEY) is None
        ledger.replied(attempt, REPLY)
        ledger.replied(ledger.sent(KEY, **NAME), Reply(text="later", finished=False))
        ledger.commit()
        assert ledger.get(KEY) == REPLY
    with Ledger(tmp_path / "calls.sqlite") as again:
        assert again.get(KEY) == REPLY
        assert again.interrupted == 0


def test_failures_stay_as_attempts_and_leave_the_call_open(tmp_path):
    with Ledger(tmp_path / "calls.sqlite") as ledger:
        ledger.failed(ledger.sent(KEY, **NAME), "500")
        ledger.failed(ledger.sent(KEY, **NAME), "timeout")
        ledger.commit()
        assert ledger.get(KEY) is None
        assert ledger.attempts(KEY) == ["500", "timeout"]


def test_what_is_queued_in_one_turn_shares_a_transaction(tmp_path):
    async def write_many(ledger):
        async def one(number):
            key = call_key("judge", "m", "{}", number)
            ledger.replied(ledger.sent(key, **NAME | {"draw": number}), REPLY)
            await ledger.settle()
            assert ledger.get(key) == REPLY

        await asyncio.gather(*map(one, range(50)))

    with Ledger(tmp_path / "calls.sqlite") as ledger:
        begun = []
        ledger._db.set_trace_callback(lambda sql: begun.append(sql) if sql.startswith("BEGIN") else None)
        asyncio.run(write_many(ledger))
        assert len(begun) == 1


def test_two_ledgers_on_one_file_see_each_other_and_interrupt_nobody(tmp_path):
    with Ledger(tmp_path / "calls.sqlite") as one:
        one.sent(KEY, **NAME)
        one.commit()
        with Ledger(tmp_path / "calls.sqlite") as other:
            assert other.interrupted == 0
            assert other.attempts(KEY) == [None]
            other.replied(other.sent(KEY, **NAME), REPLY)
            other.commit()
        assert one.get(KEY) == REPLY


def test_replies_of_another_ledger_are_taken_over_and_none_of_our_own_is_lost(tmp_path):
    open_call, late = (call_key("judge", "m", "{}", draw) for draw in (7, 8))
    with Ledger(tmp_path / "old.sqlite") as old, Ledger(tmp_path / "new.sqlite") as new:
        old.replied(old.sent(KEY, **NAME), REPLY)
        old.failed(old.sent(open_call, **NAME | {"draw": 7}), "500")
        old.replied(old.sent(late, **NAME | {"draw": 8}), Reply(text="old", finished=True))
        old.commit()
        new.replied(new.sent(late, **NAME | {"draw": 8}), Reply(text="new", finished=True))
        new.commit()
        new.take_over(old.path)
        assert new.get(KEY) == REPLY
        assert new.get(open_call) is None
        assert new.get(late).text == "new"
        assert old.attempts(open_call) == ["500"]


def test_a_full_disk_is_an_error_and_no_reply_is_used(tmp_path):
    async def reply(ledger):
        ledger.replied(ledger.sent(KEY, **NAME), Reply(text="long " * 100_000, finished=True))
        await ledger.settle()

    with Ledger(tmp_path / "calls.sqlite") as ledger:
        pages = ledger._db.execute("PRAGMA page_count").fetchone()[0]
        ledger._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(DataError, match="full"):
            asyncio.run(reply(ledger))
        assert ledger.get(KEY) is None


WRITER = """
import sys
from starling.ledger import Ledger, call_key
from starling.records import Reply
ledger = Ledger(sys.argv[1])
number = 0
while True:
    keys = [call_key("judge", "m", "{}", draw) for draw in range(number, number + 4)]
    sent = [ledger.sent(key, name="judge", model="m", request="{}", draw=number + i) for i, key in enumerate(keys)]
    ledger.commit()
    for attempt in sent:
        ledger.replied(attempt, Reply(text=f"reply {number}", finished=True))
        ledger.commit()
        print(number, flush=True)
        number += 1
"""


@pytest.mark.skipif(os.name != "posix", reason="needs kill -9")
def test_kill_9_loses_no_committed_reply_and_counts_the_calls_in_flight(tmp_path):
    path = tmp_path / "calls.sqlite"
    total = 0
    for _ in range(3):
        path.unlink(missing_ok=True)
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(42):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        printed = 42 + len(process.stdout.read().split("\n")) - 1
        process.wait()
        process.stdout.close()
        with Ledger(path) as ledger:
            kept = 0
            while ledger.get(call_key("judge", "m", "{}", kept)):
                kept += 1
            assert printed <= kept <= printed + 1  # at most the one that was committed and not yet printed
            assert ledger.interrupted == -kept % 4 or (kept % 4 == 0 and ledger.interrupted in (0, 4))
            assert ledger.get(call_key("judge", "m", "{}", kept - 1)).text == f"reply {kept - 1}"
            total += ledger.interrupted
        with Ledger(path) as again:
            assert again.interrupted == 0  # told once
        for side in ("-wal", "-shm"):
            path.with_name(path.name + side).unlink(missing_ok=True)
    assert total <= 12
