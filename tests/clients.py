"""Calls for the tests of the client, an endpoint that takes them, and how they ended."""

from dataclasses import replace

from starling.endpoints import Endpoint
from starling.records import Call


def endpoint(server, **changes):
    """The server as an endpoint that is given up soon."""
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


def calls(number, **changes):
    return [call(str(index), **changes) for index in range(number)]


def attempts(ledger):
    """How all attempts on file ended, in order."""
    return [row[0] for row in ledger._db.execute("SELECT outcome FROM attempts ORDER BY number")]
