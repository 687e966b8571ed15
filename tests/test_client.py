"""The client against a real server that fails as scripted."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from email.utils import formatdate

import pytest
from servers import (
    Server,
    breaks_off,
    drips,
    echoes,
    fails,
    half_json,
    hangs,
    resets,
    says,
    wrong_content,
)

from starling.client import Client
from starling.endpoints import Endpoint, parse_endpoint
from starling.errors import CallError, UsageError
from starling.ledger import Ledger, call_key, canonical
from starling.records import Call, Failure, Reply


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "calls.sqlite") as opened:
        yield opened


def endpoint(server, **changes):
    usual = Endpoint(
        name="here",
        urls=(server.url,),
        model="m",
        attempts=3,
        backoff_seconds=0.01,
        timeout_seconds=5,
        patience_seconds=0,
    )
    return replace(usual, **changes)


def call(text, **changes):
    return Call(messages=[{"role": "user", "content": text}], **{"max_tokens": 10, **changes})


def calls(number):
    return [call(str(index)) for index in range(number)]


def attempts(ledger):
    """How all attempts on file ended, in order."""
    return [row[0] for row in ledger._db.execute("SELECT outcome FROM attempts ORDER BY number")]


def test_replies_come_in_the_order_of_the_calls(ledger):
    with Server() as server:
        client = Client(endpoint(server, concurrency=4), ledger)
        replies = client.chat(calls(20))
    assert [reply.text for reply in replies] == [f"echo {index}" for index in range(20)]
    assert replies[0] == Reply(text="echo 0", finished=True, prompt_tokens=7, completion_tokens=3)
    assert server.busiest <= 4
    assert server.requests[0] == {
        "model": "m",
        "messages": [{"role": "user", "content": server.asked()[0]}],
        "max_tokens": 10,
        "temperature": 0.0,
    }
    assert client.name == "here"


def test_what_the_ledger_holds_is_not_asked_again(ledger):
    with Server() as server:
        Client(endpoint(server), ledger).chat(calls(3))
        again = Client(endpoint(server, urls=("http://127.0.0.1:9/elsewhere",)), ledger)
        assert [reply.text for reply in again.chat(calls(3))] == ["echo 0", "echo 1", "echo 2"]
    assert len(server.requests) == 3
    assert (again.counts.requests, again.counts.from_ledger, again.counts.prompt_tokens) == (0, 3, 0)


def test_the_same_call_twice_is_asked_once_and_another_draw_again(ledger):
    with Server() as server:
        client = Client(endpoint(server), ledger)
        replies = client.chat([call("same"), call("same"), call("same", draw=1)])
    assert len(replies) == 3
    assert len(server.requests) == 2
    assert client.counts.from_ledger == 1


def test_of_two_runs_that_ask_the_same_at_once_the_first_reply_stands(ledger):
    async def other_run_is_faster(request, payload):
        with Ledger(ledger.path) as other:
            body = canonical(payload)
            key = call_key("here", "m", body, 0)
            attempt = other.sent(key, name="here", model="m", request=body, draw=0)
            other.replied(attempt, Reply(text="first", finished=True))
        return await echoes(request, payload)

    with Server(other_run_is_faster) as server:
        assert Client(endpoint(server), ledger).chat([call("x")])[0].text == "first"


def test_counters_and_cost_count_what_was_spent(ledger):
    told = []
    with Server() as server:
        client = Client(
            endpoint(server, price_in=2.0, price_out=10.0),
            ledger,
            on_reply=lambda asked, reply: told.append(reply.text),
        )
        client.chat(calls(4))
    assert sorted(told) == ["echo 0", "echo 1", "echo 2", "echo 3"]
    assert (client.counts.prompt_tokens, client.counts.completion_tokens) == (28, 12)
    assert client.usd == pytest.approx((28 * 2 + 12 * 10) / 1e6)
    assert Client(endpoint(server), ledger).usd is None


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (fails(500), "500: scripted"),
        (fails(503), "503"),
        (fails(429), "too many requests"),
        (fails(408), "408"),
        (half_json, "no chat completion"),
        (wrong_content, "Welcome to the hotel"),
        (resets, "connection broke"),
        (breaks_off, "connection broke"),
        (says(""), "empty"),
        (says(None), "empty"),
    ],
    ids=["500", "503", "429", "408", "half_json", "wrong_content", "reset", "breaks_off", "empty", "null"],
)
def test_a_passing_fault_is_tried_again_and_kept_as_an_attempt(ledger, fault, said):
    with Server(fault) as server:
        client = Client(endpoint(server), ledger)
        assert client.chat([call("x")]) == [Reply(text="echo x", finished=True, prompt_tokens=7, completion_tokens=3)]
    assert len(server.requests) == client.counts.requests == 2
    first, second = attempts(ledger)
    assert said in first
    assert second == "reply"


@pytest.mark.parametrize("fault", [hangs, drips], ids=["hang", "drip"])
def test_a_reply_that_does_not_end_in_time_is_tried_again(ledger, fault):
    with Server(fault) as server:
        started = time.monotonic()
        (reply,) = Client(endpoint(server, timeout_seconds=0.3), ledger).chat([call("x")])
        assert time.monotonic() - started < 10
    assert reply.text == "echo x"
    assert attempts(ledger) == ["no whole reply within 0.3 s", "reply"]


def test_a_server_that_is_down_ends_everything_and_no_call_is_given_up(ledger):
    with Server() as server:
        pass
    client = Client(endpoint(server, concurrency=2), ledger)
    with pytest.raises(CallError, match=r"here: nobody answers at http://127.*; is it running\?"):
        client.chat(calls(30))
    assert client.counts.requests <= 2 * 3
    assert client.counts.failures == 0


def test_a_server_that_dies_mid_way_leaves_its_replies_in_the_ledger(ledger):
    with Server() as server:
        client = Client(endpoint(server), ledger)
        client.chat(calls(5))
    with pytest.raises(CallError, match="What was answered is kept"):
        client.chat(calls(10))
    assert client.counts.from_ledger == 5


def test_calls_that_time_out_together_halve_the_concurrency(ledger):
    with Server(*[hangs] * 8) as server:
        # A second is plenty for an echo even on a busy machine.
        client = Client(endpoint(server, concurrency=8, timeout_seconds=1, attempts=6, backoff_seconds=0.2), ledger)
        replies = client.chat(calls(8))
    assert all(isinstance(reply, Reply) for reply in replies)
    assert client.concurrency < 8


def test_a_call_that_fails_past_every_attempt_is_a_failure_and_stays_open(ledger):
    with Server(always=fails(500)) as server:
        client = Client(endpoint(server), ledger)
        assert client.chat([call("x")]) == [
            Failure(reason="here: the endpoint answers 500: scripted (attempt 3 of 3)"),
        ]
        assert len(server.requests) == 3
        assert client.counts.failures == 1
    with Server() as server:
        assert Client(endpoint(server), ledger).chat([call("x")])[0].text == "echo x"


@pytest.mark.parametrize("status", [400, 403, 413, 422])
def test_what_is_wrong_with_one_call_is_not_tried_again(ledger, status):
    with Server(fails(status, "too long")) as server:
        failure, reply = Client(endpoint(server, concurrency=1), ledger).chat(calls(2))
    assert failure == Failure(reason=f"here: the endpoint answers {status}: too long (attempt 1 of 3)")
    assert reply.text == "echo 1"
    assert len(server.requests) == 2


def test_a_refused_key_ends_everything_and_names_its_variable_but_never_itself(ledger, monkeypatch, tmp_path):
    monkeypatch.setenv("MY_KEY", "sesame-12345")
    with Server(always=fails(401, "Incorrect key sesame-12345, or sk-proj-abcdef")) as server:
        with pytest.raises(CallError, match=r"here: the endpoint refuses the key in MY_KEY \(401") as caught:
            Client(endpoint(server, key_env="MY_KEY"), ledger).chat(calls(30))
        assert server.headers[0]["Authorization"] == "Bearer sesame-12345"
        assert len(server.requests) <= 8
    ledger.commit()
    for path in tmp_path.iterdir():
        assert b"sesame" not in path.read_bytes()
    assert "sesame" not in str(caught.value) and "abcdef" not in str(caught.value)
    assert None not in attempts(ledger)


def test_an_endpoint_that_wants_a_key_and_has_none_says_what_to_set(ledger):
    with Server(always=fails(401)) as server, pytest.raises(CallError, match="set key_env"):
        Client(endpoint(server), ledger).chat(calls(1))
    assert "Authorization" not in server.headers[0]


def test_a_key_that_is_not_set_is_told_before_any_call(ledger, monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(UsageError, match="MY_KEY"):
        Client(Endpoint(name="n", urls=("http://x",), model="m", key_env="MY_KEY"), ledger)


def test_an_unknown_model_ends_everything(ledger):
    said = r"no model 'm'.*404: model not found"
    with Server(always=fails(404, "model not found")) as server, pytest.raises(CallError, match=said):
        Client(endpoint(server), ledger).chat(calls(9))


def test_a_redirect_is_not_followed_with_the_key(ledger):
    moved = fails(307, Location="http://127.0.0.1:9/")
    with Server(always=moved) as server, pytest.raises(CallError, match="another address"):
        Client(endpoint(server), ledger).chat(calls(1))


@pytest.mark.parametrize("as_date", [False, True], ids=["seconds", "date"])
def test_retry_after_is_waited_for(ledger, as_date):
    asked = formatdate(time.time() + 2, usegmt=True) if as_date else "1"  # a date has whole seconds
    with Server(fails(429, Retry_After=asked)) as server:
        started = time.monotonic()
        assert isinstance(Client(endpoint(server), ledger).chat([call("x")])[0], Reply)
        assert 0.9 <= time.monotonic() - started < 10


def test_a_wait_beyond_reason_is_a_failure_at_once(ledger):
    with Server(always=fails(429, "daily quota", Retry_After="86400")) as server:
        (failure,) = Client(endpoint(server), ledger).chat([call("x")])
    assert "daily quota" in failure.reason
    assert len(server.requests) == 1


def test_429_lowers_the_concurrency_and_replies_raise_it_again(ledger):
    with Server(*[fails(429)] * 8) as server:
        client = Client(endpoint(server, concurrency=8, attempts=6), ledger)
        seen = []
        client._on_reply = lambda asked, reply: seen.append((client.concurrency, type(reply)))
        client.chat(calls(60))
    assert all(kind is Reply for _, kind in seen)
    assert min(limit for limit, _ in seen) <= 5  # halved to 4, and the first replies may have raised it already
    assert client.concurrency == 8


def test_requests_per_minute_are_spaced(ledger):
    with Server() as server:
        client = Client(endpoint(server, requests_per_minute=1200), ledger)  # 20 a second
        started = time.monotonic()
        client.chat(calls(21))
        # 20 gaps of 50 ms, of which up to 100 ms are forgiven
        assert 0.85 <= time.monotonic() - started < 10


def test_tokens_per_minute_are_spaced_by_what_calls_really_used(ledger):
    with Server() as server:
        # Each call uses 10 tokens: 12,000 a minute are 20 calls a second; planned were 1,000 each, one in 5 seconds.
        client = Client(endpoint(server, tokens_per_minute=12_000, concurrency=1), ledger)
        started = time.monotonic()
        client.chat([call(str(index), max_tokens=1000) for index in range(21)])
        assert 0.85 <= time.monotonic() - started < 10


def test_a_reply_cut_at_the_cap_is_unfinished_and_one_without_text_is_a_failure_of_its_own(ledger):
    cut, nothing = says("so far", finish="length"), says("", finish="length")
    with Server(cut, nothing) as server:
        client = Client(endpoint(server, concurrency=1), ledger)
        unfinished, failure = client.chat(calls(2))
    assert unfinished == Reply(text="so far", finished=False, prompt_tokens=7, completion_tokens=3)
    assert "raise max_tokens" in failure.reason
    assert len(server.requests) == 2
    assert client.counts.completion_tokens == 6  # what was thought in vain is paid for, too


def test_an_empty_reply_is_told_apart_from_a_cut_one(ledger):
    with Server(always=says(" \n")) as server:
        (failure,) = Client(endpoint(server), ledger).chat([call("x")])
    assert failure.reason == "here: the reply is empty (attempt 3 of 3)"


def test_text_that_cannot_be_stored_is_mended(ledger):
    with Server(says("half \ud83d of a face")) as server:
        (reply,) = Client(endpoint(server), ledger).chat([call("say \ud83d")])
    assert reply.text == "half ? of a face"


def test_a_dead_url_of_a_pool_is_left_for_the_other(ledger):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        dead = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with Server() as server:
            client = Client(endpoint(server, urls=(dead, server.url), concurrency=1), ledger)
            assert all(isinstance(reply, Reply) for reply in client.chat(calls(10)))
    assert Counter(attempts(ledger))["reply"] == 10
    assert len(attempts(ledger)) == 11


def test_chat_works_where_an_event_loop_runs_already(ledger):
    import asyncio

    async def notebook(server):
        return Client(endpoint(server), ledger).chat([call("x")])

    with Server() as server:
        assert asyncio.run(notebook(server))[0].text == "echo x"


def test_no_calls_give_no_replies(ledger):
    assert Client(Endpoint(name="n", urls=("http://x",), model="m"), ledger).chat([]) == []


CHATTER = """
import sys
from starling.client import Client
from starling.endpoints import Endpoint
from starling.ledger import Ledger
from starling.records import Call
url, path = sys.argv[1:]
calls = [Call(messages=[{"role": "user", "content": str(n)}], max_tokens=5) for n in range(200)]
Client(Endpoint(name="n", urls=(url,), model="m", concurrency=8), Ledger(path)).chat(calls)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT], ids=["kill-9", "ctrl-c"])
def test_a_killed_run_repeats_at_most_the_calls_in_flight(tmp_path, sign):
    path = tmp_path / "calls.sqlite"
    with Server(always=says("ok", seconds=0.02)) as server:
        process = subprocess.Popen([sys.executable, "-c", CHATTER, server.url, str(path)], stderr=subprocess.DEVNULL)
        while len(server.requests) < 60:
            time.sleep(0.005)
        process.send_signal(sign)
        process.wait(10)
        with Ledger(path) as ledger:
            assert ledger.interrupted <= 8
            assert sign == signal.SIGKILL or ledger.interrupted == 0  # what was interrupted in order is closed
            client = Client(Endpoint(name="n", urls=(server.url,), model="m", concurrency=8), ledger)
            asked_before = len(server.requests)
            replies = client.chat([call(str(number), max_tokens=5) for number in range(200)])
            assert all(isinstance(reply, Reply) for reply in replies)
            assert client.counts.from_ledger >= asked_before - 8
            assert client.counts.from_ledger + client.counts.requests == 200
            assert len(server.requests) <= 200 + 8
            assert sum(number - 1 for number in Counter(server.asked()).values()) <= 8
            assert None not in attempts(ledger)


def test_an_endpoint_is_read_from_its_short_form():
    read = parse_endpoint("openai:org/model@1@http://localhost:8000/v1")
    assert (read.model, read.urls) == ("org/model@1", ("http://localhost:8000/v1",))
    assert (read.name, read.key_env) == ("org/model@1@localhost:8000", "")
    assert parse_endpoint("openai:m@http://a,http://b").urls == ("http://a", "http://b")
    assert parse_endpoint("openai:gpt@https://api.openai.com/v1").key_env == "OPENAI_API_KEY"
    assert parse_endpoint("openai:gpt@https://other.example/v1", key_env="MINE").key_env == "MINE"


@pytest.mark.parametrize(
    "text",
    ["gpt-4", "openai:gpt-4", "openai:@http://x", "openai:m@ftp://x", "openai:m@http://", "openai:m@http://me:pw@host"],
)
def test_a_bad_short_form_is_a_usage_error(text):
    with pytest.raises(UsageError):
        parse_endpoint(text)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"urls": ()}, "urls"), ({"urls": "http://x"}, "urls"), ({"concurrency": 0}, "concurrency"),
     ({"attempts": 0}, "attempts"), ({"urls": ("http://x?key=1",)}, "without keys")],
)  # fmt: skip
def test_an_endpoint_that_cannot_work_is_refused(changes, said):
    with pytest.raises(UsageError, match=said):
        Endpoint(**({"name": "n", "urls": ("http://x",), "model": "m"} | changes))
