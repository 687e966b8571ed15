"""Waiting to the end, or until it is given up."""

import asyncio
import signal
import threading
import time
from threading import Event, Lock

import pytest

from starling.errors import CallError, GivenUp
from starling.waiting import all_of, refuse_given_up, run_to_end, turn


def given_up() -> Event:
    event = Event()
    event.set()
    return event


def test_nothing_is_refused_before_it_is_given_up() -> None:
    refuse_given_up(None)
    refuse_given_up(Event())
    with pytest.raises(GivenUp):
        refuse_given_up(given_up())


def test_whoever_gives_up_leaves_the_queue_and_takes_no_turn() -> None:
    lock, left = Lock(), Event()
    threading.Timer(0.05, left.set).start()
    with turn(lock, Event()):
        begun = time.monotonic()
        with pytest.raises(GivenUp), turn(lock, left):
            raise AssertionError
        assert time.monotonic() - begun < 2
        assert lock.locked()
    with pytest.raises(GivenUp), turn(lock, given_up()):
        raise AssertionError
    assert not lock.locked()
    with turn(lock, Event()):  # free for the next
        assert lock.locked()


async def waited(event: Event | None, *seconds: float) -> list[bool]:
    """Wait for tasks that take so long, the negative ones to fail; which of them are done then."""

    async def work(long: float) -> None:
        await asyncio.sleep(abs(long))
        if long < 0:
            raise CallError("broken")

    tasks = [asyncio.create_task(work(long)) for long in seconds]
    try:
        await all_of(tasks, event)
        return [task.done() for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("event", [None, Event()], ids=["nobody can give up", "nobody does"])
def test_all_tasks_are_waited_for_and_the_first_failure_ends_it(event: Event | None) -> None:
    assert run_to_end(waited(event)) == []
    assert run_to_end(waited(event, 0.0, 0.15, 0.3)) == [True] * 3
    begun = time.monotonic()
    with pytest.raises(CallError, match="broken"):
        run_to_end(waited(event, 30.0, -0.05))
    assert time.monotonic() - begun < 5


def test_what_is_given_up_is_not_waited_for_and_what_is_done_by_then_counts() -> None:
    begun = time.monotonic()
    with pytest.raises(GivenUp):
        run_to_end(waited(given_up(), 30.0))
    assert time.monotonic() - begun < 5
    assert run_to_end(waited(given_up(), 0.0)) == [True]


def test_work_runs_to_its_end_beside_a_loop_that_is_there_already() -> None:
    async def outer() -> list[bool]:
        return run_to_end(waited(None, 0.0))

    assert asyncio.run(outer()) == [True]


def test_an_interruption_in_a_notebook_ends_the_work() -> None:
    ended = Event()

    async def work() -> None:
        try:
            threading.Timer(0.1, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)).start()
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            ended.set()
            raise

    async def cell() -> None:  # a notebook's loop is running, and its thread is the one that Ctrl-C reaches
        run_to_end(work())

    notebook, begun = asyncio.new_event_loop(), time.monotonic()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background begins without it
    try:
        with pytest.raises(KeyboardInterrupt):
            notebook.run_until_complete(cell())
    finally:
        signal.signal(signal.SIGINT, before)
    notebook.close()
    assert ended.is_set()
    assert time.monotonic() - begun < 10
