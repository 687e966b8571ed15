"""An endpoint's answer as it is being written, for a person who reads along: no ledger, no second attempt."""

import asyncio
import json
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple

import aiohttp

from starling import endpoints
from starling.client import chat_url
from starling.endpoints import Endpoint
from starling.errors import CallError
from starling.records import Message
from starling.replies import CUT, Fault, Reader, text_of

PATIENCE_SECONDS = 0.05  # after which a reader hears that nothing has come yet


class Written(NamedTuple):
    """Text that has come, possibly none, and the tokens of the whole answer once the endpoint has counted them."""

    text: str = ""
    tokens: int | None = None
    cut: bool = False


def written(endpoint: Endpoint, messages: Sequence[Message]) -> Generator[Written, None, None]:
    """The pieces of one answer; an empty one now and then while nothing comes. Closing it breaks the call off.

    No token cap is sent: an endpoint refuses one that its window has no room for, and who reads along can stop it.
    """
    key = endpoints.key(endpoint)
    with asyncio.Runner() as runner:
        stream = _stream(endpoint, key, messages)
        try:
            coming: asyncio.Task[Written | None] | None = None
            while True:
                coming = coming or runner.get_loop().create_task(_next(stream))
                runner.run(_waited(coming))
                if not coming.done():
                    yield Written()
                    continue
                piece = coming.result()
                coming = None
                if piece is None:
                    return
                yield piece
        finally:
            if coming is not None and not coming.done():
                coming.cancel()
                runner.run(_waited(coming, None))
            runner.run(stream.aclose())


async def _stream(endpoint: Endpoint, key: str, messages: Sequence[Message]) -> AsyncGenerator[Written, None]:
    url, reader = chat_url(endpoint.urls[0]), Reader(endpoint, key)
    body = {
        "model": endpoint.model,
        "messages": list(messages),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    timeout = aiohttp.ClientTimeout(total=None, connect=30, sock_read=endpoint.timeout_seconds)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
            session.post(url, json=body, allow_redirects=False) as response,
        ):
            if response.status != 200 or response.content_type != "text/event-stream":
                outcome = reader.read(response.status, response.headers, await response.read(), url)
                if isinstance(outcome, Fault):
                    raise CallError(f"{endpoint.name}: {outcome.reason}")
                yield Written(outcome.text, outcome.completion_tokens or None, not outcome.finished)
                return
            async with aclosing(_events(response.content)) as events:
                async for event in events:
                    yield _read(event, endpoint, reader)
    except TimeoutError:
        raise CallError(f"{endpoint.name}: nothing came for {endpoint.timeout_seconds:g} s") from None
    except (aiohttp.ClientError, OSError) as error:
        raise CallError(f"{endpoint.name}: the connection to {url} failed: {reader.plain(error)}") from error


async def _events(content: aiohttp.StreamReader) -> AsyncGenerator[str, None]:
    """The data of each server-sent event, up to the one that says [DONE]."""
    while line := await content.readline():
        field, _, value = line.decode(errors="replace").rstrip("\r\n").partition(":")
        if field == "data" and value.strip() == "[DONE]":
            return
        if field == "data" and value.strip():
            yield value


def _read(event: str, endpoint: Endpoint, reader: Reader) -> Written:
    try:
        content: Any = json.loads(event)
        if "error" in content:
            raise CallError(f"{endpoint.name}: {reader.plain(content['error'])}")
        choice = (content.get("choices") or [{}])[0]
        text = text_of((choice.get("delta") or {}).get("content"))
        tokens = (content.get("usage") or {}).get("completion_tokens")
        return Written(text, tokens, choice.get("finish_reason") in CUT)
    except (ValueError, RecursionError, TypeError, AttributeError, LookupError):
        raise CallError(
            f"{endpoint.name}: a piece of the stream is no chat completion: {reader.plain(event)}"
        ) from None


async def _next(stream: AsyncGenerator[Written, None]) -> Written | None:
    return await anext(stream, None)


async def _waited(task: asyncio.Task[Any], seconds: float | None = PATIENCE_SECONDS) -> None:
    await asyncio.wait([task], timeout=seconds)
