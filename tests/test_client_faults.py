"""The client against outages, budgets, deadlines, reasoning models and a full disk; and a pool of faults at once."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import clients
import pytest
from aiohttp import web
from clients import attempts, calls
from servers import Server, breaks_off, drips, echoes, fails, half_json, hangs, resets, says

from starling import client as client_module
from starling.client import Client
from starling.errors import CallError, DataError, StopStage
from starling.ledger import Ledger
from starling.limits import Allowance
from starling.records import Failure, Reply


def endpoint(server, **changes):
    """An endpoint that is waited for."""
    return clients.endpoint(server, **{"patience_seconds": 3600, **changes})


@pytest.mark.parametrize("fault", [fails(503), fails(502), resets, breaks_off], ids=["503", "502", "reset", "broken"])
def test_an_endpoint_that_is_down_for_a_while_is_waited_for_and_no_call_is_given_up(ledger, fault, capsys):
    with Server(echoes, *[fault] * 16) as server:
        client = Client(endpoint(server, concurrency=4, patience_seconds=60), ledger)
        client.chat(calls(1))
        replies = client.chat(calls(20))
    assert all(isinstance(reply, Reply) for reply in replies)
    assert client.counts.failures == 0
    assert len(server.requests) == 20 + 16
    printed = capsys.readouterr().out
    assert printed.count("here is down (") == printed.count("here answers again") == 1


def test_an_endpoint_that_turns_every_call_away_is_waited_for_too(ledger, capsys):
    with Server(echoes, *[fails(429)] * 16) as server:
        client = Client(endpoint(server, concurrency=4, patience_seconds=60), ledger)
        replies = client.chat(calls(20))
    assert all(isinstance(reply, Reply) for reply in replies)
    assert "here turns calls away (too many requests" in capsys.readouterr().out


def test_a_call_that_is_turned_away_while_others_are_answered_fails_in_the_end(ledger, monkeypatch):
    async def only_small(request, payload):
        await asyncio.sleep(0.05)  # so that small ones are answered for as long as it is tried
        return await (fails(429) if "large" in str(payload) else echoes)(request, payload)

    monkeypatch.setattr(client_module, "LONGEST_REFUSAL_SECONDS", 0.2)
    with Server(always=only_small) as server:
        client = Client(endpoint(server, concurrency=2), ledger)
        begun = time.monotonic()
        large, *small = client.chat([clients.call("large"), *calls(12)])
    assert all(isinstance(reply, Reply) for reply in small)
    assert isinstance(large, Failure)
    assert 0.2 < time.monotonic() - begun < 10


def test_no_call_is_given_up_while_an_endpoint_answers_nobody(ledger, monkeypatch):
    monkeypatch.setattr(client_module, "LONGEST_REFUSAL_SECONDS", 0.1)
    with Server(echoes, always=fails(429)) as server:
        client = Client(endpoint(server, concurrency=2, patience_seconds=0.6), ledger)
        client.chat(calls(1))
        with pytest.raises(CallError, match=r"too many requests .*; go on later\. What was answered is kept"):
            client.chat(calls(9))
    assert client.counts.failures == 0


def test_an_endpoint_that_stays_down_ends_everything_after_the_patience_and_keeps_what_was_answered(ledger):
    with Server(echoes, always=fails(503, "asleep")) as server:
        client = Client(endpoint(server, concurrency=2, patience_seconds=0.3), ledger)
        client.chat(calls(1))
        started = time.monotonic()
        with pytest.raises(
            CallError, match=r"here: the endpoint answers 503: asleep; is it running\? What was answered"
        ):
            client.chat(calls(9))
        assert 0.2 < time.monotonic() - started < 10
    assert client.counts.failures == 0
    with Server() as server:
        again = Client(endpoint(server), ledger)
        assert all(isinstance(reply, Reply) for reply in again.chat(calls(9)))
        assert (again.counts.from_ledger, len(server.requests)) == (1, 8)


def test_a_server_that_goes_away_and_comes_back_is_waited_for(ledger):
    """The real thing: nobody listens on the port for a second, then somebody does again."""
    with Server() as first:
        port = int(first.url.rpartition(":")[2].partition("/")[0])
        client = Client(endpoint(first, concurrency=4, patience_seconds=60, backoff_seconds=0.1), ledger)
        client.chat(calls(3))
    script = BACK.format(port=port)
    process = subprocess.Popen([sys.executable, "-c", script])
    try:
        replies = client.chat(calls(12))
    finally:
        process.kill()
        process.wait()
    assert [reply.text for reply in replies[3:]] == ["back"] * 9
    assert client.counts.from_ledger == 3
    assert any(outcome.startswith("nobody answers") for outcome in attempts(ledger))


BACK = """
import time
from aiohttp import web
time.sleep(1)
async def answer(request):
    choice = {{"message": {{"content": "back"}}, "finish_reason": "stop"}}
    return web.json_response({{"choices": [choice], "usage": {{"prompt_tokens": 1, "completion_tokens": 1}}}})
app = web.Application()
app.router.add_post("/v1/chat/completions", answer)
web.run_app(app, host="127.0.0.1", port={port}, print=None)
"""


def test_a_call_that_fails_alone_is_given_up_while_the_endpoint_answers_others(ledger):
    async def behave(request, payload):
        poison = payload["messages"][-1]["content"] == "3"
        return await (fails(500) if poison else echoes)(request, payload)

    with Server(always=behave) as server:
        client = Client(endpoint(server, concurrency=4), ledger)
        replies = client.chat(calls(8))
    assert [isinstance(reply, Reply) for reply in replies] == [True] * 3 + [False] + [True] * 4
    assert client.counts.failures == 1


def test_all_faults_at_once_lose_no_call_and_none_is_answered_twice(ledger):
    faults = [fails(500), fails(429), fails(429, Retry_After="1"), resets, half_json, breaks_off, drips, hangs] * 3
    with Server(echoes, *faults) as server:
        client = Client(endpoint(server, concurrency=8, attempts=12, timeout_seconds=0.5), ledger)
        client.chat(calls(1))
        replies = client.chat(calls(60))
    assert [reply.text for reply in replies] == [f"echo {index}" for index in range(60)]
    assert server.busiest <= 8
    found = Counter(outcome == "reply" for outcome in attempts(ledger))
    assert found == {True: 60, False: len(faults)}


# money


def test_a_budget_is_never_passed_and_calls_in_flight_are_waited_for(ledger):
    """A call of 10 tokens at most at $100,000 a million may cost $1; its prompt costs nothing here."""
    slow = says("four", seconds=0.05, completion_tokens=4)  # and turns out to cost $0.40
    with Server(always=slow) as server:
        target = endpoint(server, concurrency=8, price_in=0.0, price_out=1e5)
        allowed = Allowance("rank", budget_usd=5.0, spent_usd=1.0, advice="raise it")
        client = Client(target, ledger, allowance=allowed)
        with pytest.raises(StopStage) as caught:
            client.chat(calls(100))
    # $4 are left. A call leaves while its $1 still fits: after 8 replies $3.20 are spent, and $0.80 are too little.
    assert len(server.requests) == 8
    assert client.usd == pytest.approx(3.2)
    assert allowed.spent_usd == pytest.approx(4.2)
    assert str(caught.value) == (
        "rank: stopped before the budget of $5 (run.budget_usd) is passed: $4.2000 is spent, $0.8000 is left, "
        "and the next call may cost up to $1.0000. What was answered is kept; raise it"
    )
    assert attempts(ledger) == ["reply"] * 8  # nothing in flight was cut off
    with Server(always=slow) as server:  # with more money it goes on, and pays for nothing twice
        client = Client(replace(target, urls=(server.url,)), ledger, allowance=Allowance("rank", budget_usd=100.0))
        assert all(isinstance(reply, Reply) for reply in client.chat(calls(20)))
        assert len(server.requests) == 12


def test_what_was_spent_counts_over_sessions_and_an_unknown_end_counts_as_the_worst(tmp_path):
    path = tmp_path / "calls.sqlite"
    with Server(says("", finish="length", completion_tokens=10), hangs, echoes) as server, Ledger(path, "rank") as one:
        client = Client(endpoint(server, concurrency=1, timeout_seconds=0.5, attempts=2), one)
        client.chat(calls(2))
        body = len('{"max_tokens":10,"messages":[{"content":"1","role":"user"}],"model":"m","temperature":0.0}')
        (spent,) = one.spent()
    # 10 tokens were thought in vain, the call that hung may have cost all it could, and the echo took 7 and 3
    assert (spent.calls, spent.failures) == (1, 2)
    assert (spent.prompt_tokens, spent.completion_tokens) == (7 + body // 2 + 7, 10 + 10 + 3)
    with Ledger(path, "sample") as two:
        assert two.spent() == [spent]
        attempt = two.sent("00" * 32, name="here", model="m", request="{}", draw=0, planned=(5, 6))
        two.commit()
        assert [(s.stage, s.calls, s.failures, s.prompt_tokens) for s in two.spent()] == [
            ("rank", 1, 2, spent.prompt_tokens),
            ("sample", 0, 1, 5),
        ]
        two.failed(attempt, "nobody answers")
        two.commit()
        assert two.spent()[1].prompt_tokens == 0


@pytest.mark.parametrize(("status", "tokens"), [(504, 10), (524, 10), (408, 10), (503, 0), (429, 0)])
def test_what_lost_patience_on_the_way_may_have_cost_all_it_could(ledger, status, tokens):
    with Server(fails(status)) as server:
        (reply,) = Client(endpoint(server), ledger).chat(calls(1))
    assert isinstance(reply, Reply)
    (spent,) = ledger.spent()
    assert spent.completion_tokens == tokens + 3  # the cap, then the echo


def test_an_endpoint_that_does_not_count_tokens_is_charged_by_the_text(ledger):
    with Server(always=says("x" * 16, prompt_tokens=0, completion_tokens=0)) as server:
        (reply,) = Client(endpoint(server), ledger).chat(calls(1))
    assert (reply.prompt_tokens, reply.completion_tokens) == (0, 0)  # as the endpoint has it
    (spent,) = ledger.spent()
    assert spent.completion_tokens == 1 + 16 // 4
    assert spent.prompt_tokens > 10


# time


def test_after_the_deadline_no_call_leaves_and_those_in_flight_are_kept(ledger):
    with Server(always=says("slow", seconds=0.2)) as server:
        allowed = Allowance("rank", deadline_seconds=0.3, advice="go on")
        client = Client(endpoint(server, concurrency=4), ledger, allowance=allowed)
        with pytest.raises(StopStage, match=r"^rank: the time of 0.3 s \(rank.deadline_seconds\) is over\. What was"):
            client.chat(calls(100))
    assert 4 <= len(server.requests) <= 12
    assert set(attempts(ledger)) == {"reply"}


# reasoning models


def test_a_reasoning_model_gets_the_parameters_that_it_knows(ledger):
    with Server() as server:
        changes = {"token_parameter": "max_completion_tokens", "sampling_parameters": False}
        Client(endpoint(server, **changes), ledger).chat(calls(1, temperature=0.7, top_p=0.9))
    assert server.requests == [
        {"model": "m", "messages": [{"role": "user", "content": "0"}], "max_completion_tokens": 10}
    ]


@pytest.mark.parametrize(
    ("text", "kept"),
    [("<think>no, yes</think>\n\nYes.", "Yes."), ("Yes. <think> is a tag.", "Yes. <think> is a tag.")],
)
def test_thinking_before_the_reply_is_taken_off_and_nothing_else(ledger, text, kept):
    with Server(always=says(text)) as server:
        (reply,) = Client(endpoint(server), ledger).chat(calls(1))
        (whole,) = Client(endpoint(server, strip_thinking=False), ledger).chat(calls(1))  # not the stored one
    assert (reply.text, whole.text) == (kept, text)


def test_thinking_that_eats_the_token_cap_is_told_apart(ledger):
    with Server(always=says("<think>hm, well,", finish="length")) as server:
        (failure,) = Client(endpoint(server), ledger).chat(calls(1))
    assert "the token cap was reached before any text" in failure.reason


def test_a_reasoning_field_is_no_part_of_the_reply(ledger):
    async def thinks(request, payload):
        message = {"role": "assistant", "content": "Yes.", "reasoning_content": "Let me see.", "reasoning": "Hm."}
        return web.json_response({"model": "m-2026", "choices": [{"message": message, "finish_reason": "stop"}]})

    with Server(always=thinks) as server:
        client = Client(endpoint(server), ledger)
        (reply,) = client.chat(calls(1))
    assert reply.text == "Yes."
    assert client.answered_as == {"m-2026"}


# the ledger


def test_an_error_with_half_a_character_and_a_count_past_all_bounds_lose_no_reply(ledger):
    async def odd(request, payload):
        return web.Response(status=400, body=b'{"error": "caf\\ud83d"}', content_type="application/json")

    with Server(echoes, odd, says("much", prompt_tokens=2**70)) as server:
        found = Client(endpoint(server, concurrency=3), ledger).chat(calls(3))
    replies = [one for one in found if isinstance(one, Reply)]
    failed = [one.reason for one in found if not isinstance(one, Reply)]
    assert failed == ["here: the endpoint answers 400: caf? (attempt 1 of 3)"]
    assert sorted(one.prompt_tokens for one in replies) == [0, 7]
    assert sorted(attempts(ledger), key=str).count("reply") == 2


@pytest.mark.parametrize("finish", ["abort", "error"])
def test_a_reply_that_was_broken_off_closes_no_call(ledger, finish):
    with Server(says("half a", finish=finish)) as server:
        (reply,) = Client(endpoint(server), ledger).chat(calls(1))
    assert (reply.text, len(server.requests)) == ("echo 0", 2)


@pytest.mark.parametrize(
    ("finish", "finished"), [("stop", True), (None, True), ("length", False), ("max_tokens", False)]
)
def test_a_reply_is_cut_where_the_endpoint_says_so(ledger, finish, finished):
    with Server(says("half a", finish=finish)) as server:
        (reply,) = Client(endpoint(server), ledger).chat(calls(1))
    assert (reply.text, reply.finished) == ("half a", finished)


def test_a_disk_that_is_full_stops_the_calls_and_uses_no_reply_that_is_not_on_file(ledger):
    told = []
    with Server(echoes, always=says("long " * 50_000)) as server:
        client = Client(endpoint(server, concurrency=4), ledger, on_reply=lambda call, reply: told.append(reply))
        client.chat(calls(1))
        pages = ledger._db.execute("PRAGMA page_count").fetchone()[0]
        ledger._db.execute(f"PRAGMA max_page_count = {pages + 8}")
        with pytest.raises(DataError, match=r"cannot be used as the ledger of calls: .*full"):
            client.chat(calls(40))
        assert len(told) == 2  # the first call, and again from the ledger
        ledger._db.execute("PRAGMA max_page_count = 1000000")  # space is made
        again = Client(endpoint(server), ledger)
        assert all(isinstance(reply, Reply) for reply in again.chat(calls(6)))
        assert again.counts.from_ledger >= 1


CHATTER = """
import sys
from starling.client import Client
from starling.endpoints import Endpoint
from starling.ledger import Ledger
from starling.records import Call
url, path = sys.argv[1:]
calls = [Call(messages=[{"role": "user", "content": str(n)}], max_tokens=5) for n in range(300)]
target = Endpoint(name="n", urls=(url,), model="m", concurrency=16, attempts=20, backoff_seconds=0.01)
Client(target, Ledger(path, "rank")).chat(calls)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs kill -9")
def test_kill_9_three_times_amid_faults_asks_no_completed_call_again(tmp_path):
    path = tmp_path / "calls.sqlite"
    answered = Counter()

    async def behave(request, payload):
        await asyncio.sleep(0.01)
        if len(server.requests) % 7 == 0:
            return await fails(500)(request, payload)
        answered[payload["messages"][-1]["content"]] += 1
        return await echoes(request, payload)

    with Server(always=behave) as server:
        interrupted = 0
        for round_ in range(1, 4):
            process = subprocess.Popen(
                [sys.executable, "-c", CHATTER, server.url, str(path)], stderr=subprocess.DEVNULL
            )
            while len(server.requests) < 60 * round_ and process.poll() is None:
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            process.wait(10)
            with Ledger(path) as ledger:
                assert ledger.interrupted <= 16
                interrupted += ledger.interrupted
        assert subprocess.run([sys.executable, "-c", CHATTER, server.url, str(path)], check=False).returncode == 0
    assert len(answered) == 300
    assert sum(number - 1 for number in answered.values()) <= interrupted
    with Ledger(path) as ledger:
        (spent,) = ledger.spent()
        assert spent.calls == 300
