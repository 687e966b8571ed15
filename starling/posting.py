"""Bodies POSTed to a server of our own, many at once, with no ledger between."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import aiohttp

from starling.errors import CallError
from starling.waiting import run_to_end

ATTEMPTS = 3
REPLY_SECONDS = 3600.0
CONNECTIONS = 512  # at once: the server queues what it does not work on yet

T = TypeVar("T")


def post_all(
    url: str,
    bodies: Sequence[Mapping[str, Any]],
    read: Callable[[int, int, str], T],
    *,
    key: str = "",
) -> list[T]:
    """POST each body and return what `read` makes of each reply.

    `read` gets the body's number, the HTTP status and the text. Where the connection fails it is tried
    `ATTEMPTS` times; the bodies have to be such that asking again does no harm.
    """
    return run_to_end(_post_all(url, bodies, read, key))


async def _post_all(
    url: str, bodies: Sequence[Mapping[str, Any]], read: Callable[[int, int, str], T], key: str
) -> list[T]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    timeout = aiohttp.ClientTimeout(total=REPLY_SECONDS)
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session:

        async def post(number: int, body: Mapping[str, Any]) -> T:
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    async with session.post(url, json=body, allow_redirects=False) as response:
                        status, text = response.status, await response.text()
                    return read(number, status, text)
                except (aiohttp.ClientError, OSError) as error:  # a TimeoutError is an OSError
                    if attempt == ATTEMPTS:
                        said = f"no reply within {REPLY_SECONDS:g} s" if isinstance(error, TimeoutError) else str(error)
                        raise CallError(f"{url}: asked {attempt} times: {said}; is the server running?") from error
                    await asyncio.sleep(attempt / 2)
            raise AssertionError("the last attempt returns or raises")

        tasks = [asyncio.create_task(post(number, body)) for number, body in enumerate(bodies)]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
