"""Waiting for what was asked: to its end, or until nobody wants it any more."""

import asyncio
from collections.abc import Collection, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event, Lock
from typing import Any, TypeVar

from starling.errors import GivenUp

LOOK_SECONDS = 0.1  # between two looks whether something is given up

T = TypeVar("T")


def refuse_given_up(given_up: Event | None) -> None:
    """Go no further where nobody waits; None where nobody can give up."""
    if given_up is not None and given_up.is_set():
        raise GivenUp("nobody waits for the answer any more")


@contextmanager
def turn(lock: Lock, given_up: Event) -> Iterator[None]:
    """What the lock guards for oneself, after those before; whoever has given up does not queue."""
    while not lock.acquire(timeout=LOOK_SECONDS):
        refuse_given_up(given_up)
    try:
        refuse_given_up(given_up)
        yield
    finally:
        lock.release()


def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; in a thread of its own where this one has an event loop already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    broken_off = Event()
    with ThreadPoolExecutor(1) as pool:
        try:
            return pool.submit(asyncio.run, _until(broken_off, work)).result()
        finally:
            broken_off.set()


async def _until(broken_off: Event, work: Coroutine[Any, Any, T]) -> T:
    """What the work returns; it is cancelled once the thread that waits for it is broken off."""
    task = asyncio.ensure_future(work)
    while not task.done():
        await asyncio.wait([task], timeout=LOOK_SECONDS)
        if broken_off.is_set():
            task.cancel()
    return await task


async def all_of(tasks: Collection[asyncio.Task[None]], given_up: Event | None) -> None:
    """Wait until all are done, or the first has failed, or they are given up; those that are left are the caller's."""
    while tasks:
        done, tasks = await asyncio.wait(
            tasks, timeout=None if given_up is None else LOOK_SECONDS, return_when=asyncio.FIRST_EXCEPTION
        )
        for task in done:
            task.result()
        if tasks:
            refuse_given_up(given_up)
