"""The client against a real server: order, ledger, counts, pace, and a run that is killed."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
from aiohttp import web
from clients import attempts, call, calls, endpoint
from servers import Server, completion, echoes, says

from starling.client import Client
from starling.endpoints import Endpoint
from starling.errors import CallError, GivenUp
from starling.ledger import Ledger, call_key, canonical
from starling.records import Reply


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


def test_calls_that_are_given_up_are_broken_off_and_noted(ledger):
    gone, given_up = threading.Event(), threading.Event()

    async def notices(request, payload):
        given_up.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            gone.set()
            raise
        return web.Response()

    with Server(says("first"), always=notices) as server:
        client = Client(endpoint(server, concurrency=1), ledger)
        begun = time.monotonic()
        with pytest.raises(GivenUp):
            client.chat(calls(3), given_up)
        assert gone.wait(5) and time.monotonic() - begun < 5
        assert attempts(ledger) == ["reply", "cancelled"]
    with Server() as server:  # the first is on file
        again = Client(endpoint(server), ledger)
        assert [reply.text for reply in again.chat(calls(3), threading.Event())] == ["first", "echo 1", "echo 2"]


def test_a_call_that_was_answered_is_not_charged_as_cancelled(ledger, monkeypatch):
    with Server() as server:
        client, settled = Client(endpoint(server, price_in=1.0, price_out=1.0), ledger), ledger.settle
        seen = []

        async def cancelled_after_the_reply():
            seen.append(None)
            if len(seen) == 2:
                raise asyncio.CancelledError
            await settled()

        monkeypatch.setattr(ledger, "settle", cancelled_after_the_reply)
        with pytest.raises(asyncio.CancelledError):
            client.chat(calls(1))
    assert attempts(ledger) == ["reply"]
    (spent,) = ledger.spent()
    assert (spent.prompt_tokens, spent.completion_tokens) == (7, 3)


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


def test_log_probabilities_are_asked_for_and_come_as_the_text(ledger):
    async def behave(request, payload):
        body = completion("", finish="length")
        top = [{"token": "A", "logprob": -0.25}, {"token": " B", "logprob": -1.5}]
        body["choices"][0]["logprobs"] = {"content": [{"token": "A", "logprob": -0.25, "top_logprobs": top}]}
        return web.json_response(body)

    with Server(always=behave) as server:
        client = Client(endpoint(server), ledger)
        (reply,) = client.chat([call("x", top_logprobs=2)])
        (again,) = client.chat([call("x", top_logprobs=2)])
    assert json.loads(reply.text) == {"A": -0.25, " B": -1.5}
    assert reply == again
    (payload,) = server.requests
    assert (payload["logprobs"], payload["top_logprobs"]) == (True, 2)


def test_an_endpoint_without_log_probabilities_ends_everything_and_others_are_never_asked_for_them(ledger):
    with Server(always=says("A")) as server:
        with pytest.raises(CallError, match="gives no log-probabilities"):
            Client(endpoint(server), ledger).chat([call("x", top_logprobs=2)])
        Client(endpoint(server), ledger).chat([call("x")])
    assert [sorted(payload.keys() & {"logprobs", "top_logprobs"}) for payload in server.requests] == [
        ["logprobs", "top_logprobs"],
        [],
    ]


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
