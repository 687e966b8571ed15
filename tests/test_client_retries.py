"""What the client tries again, what fails one call, and what ends all of them."""

import time
from email.utils import formatdate

import pytest
from clients import attempts, call, calls, endpoint
from servers import (
    Server,
    breaks_off,
    counts_endless_tokens,
    drips,
    fails,
    half_json,
    hangs,
    resets,
    says,
    wrong_content,
)

from starling.client import Client
from starling.endpoints import Endpoint
from starling.errors import CallError, UsageError
from starling.records import Failure, Reply
from starling.replies import Fault, Reader


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (fails(500), "500: scripted"),
        (fails(503), "503"),
        (fails(429), "too many requests"),
        (fails(408), "408"),
        (half_json, "no chat completion"),
        (counts_endless_tokens, "no chat completion"),
        (wrong_content, "Welcome to the hotel"),
        (resets, "connection broke"),
        (breaks_off, "connection broke"),
        (says(""), "empty"),
        (says(None), "empty"),
    ],
    ids=["500", "503", "429", "408", "half_json", "endless", "wrong_content", "reset", "breaks_off", "empty", "null"],
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


def test_no_part_of_a_key_is_left_where_a_long_answer_is_cut():
    reader = Reader(Endpoint(name="here", urls=["http://here"], model="m"), "sesame-12345")
    for payload in (" " * 390 + "key sesame-12345", "x" * 195 + " sesame-12345"):
        fault = reader.read(401, {}, payload.encode(), "http://here")
        assert isinstance(fault, Fault) and "sesa" not in fault.reason and "***" in fault.reason


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
