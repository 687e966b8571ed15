"""A port of this machine, and when to let it go."""

import asyncio
import os
import signal

import pytest

from starling.errors import UsageError
from starling.listening import bound, stop_asked


def test_port_0_takes_a_free_one_each_time() -> None:
    with bound("serve", "127.0.0.1", 0) as one, bound("serve", "127.0.0.1", 0) as other:
        assert one.getsockname()[1] != other.getsockname()[1]


def test_a_port_in_use_is_told_with_the_command_that_wanted_it() -> None:
    with bound("serve", "127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        with pytest.raises(UsageError, match=f"^report: port {port} on 127.0.0.1 is in use; .*--port$"):
            bound("report", "127.0.0.1", port)


def test_an_address_that_does_not_exist_is_told() -> None:
    with pytest.raises(UsageError, match="no-such-host"):
        bound("serve", "no-such-host.invalid", 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_either_signal_asks_to_stop(number: int) -> None:
    async def work() -> None:
        stopped = stop_asked()
        assert not stopped.is_set()
        os.kill(os.getpid(), number)
        await asyncio.wait_for(stopped.wait(), 10)

    kept = signal.getsignal(number)
    asyncio.run(work())
    signal.signal(number, kept)
