"""How fast and how many at once: what holds calls back so that an endpoint can keep up."""

import asyncio
import time
from collections import deque


class Pace:
    """Spaces what is asked so that a minute holds about `per_minute` of it (0 = no limit)."""

    slack_seconds = 0.1  # unused time is kept for so long, or timers that wake late would lower the rate

    def __init__(self, per_minute: float) -> None:
        self._seconds = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0

    async def wait(self, cost: float) -> None:
        while self._seconds and (delay := self._next - time.monotonic()) > 0:
            await asyncio.sleep(min(delay, 0.2))  # `correct` may have brought the time forward
        self._next = max(self._next, time.monotonic() - self.slack_seconds) + cost * self._seconds

    def correct(self, cost: float) -> None:
        """Add what a call turned out to cost beyond its plan; may be negative."""
        self._next += cost * self._seconds


class Gate:
    """At most `limit` calls at once: 429 halves it and shuts the gate for a while, a round of replies adds one."""

    def __init__(self, most: int) -> None:
        self.limit = self._most = most
        self._opens = 0.0
        self.begin()

    def begin(self) -> None:
        """Forget who waits: each event loop starts with an empty gate, at the limit that was learnt."""
        self._busy = self._replies = 0
        self._waiters: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        while self._busy >= self.limit:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        self._busy += 1
        while (delay := self._opens - time.monotonic()) > 0:
            await asyncio.sleep(delay)

    async def __aexit__(self, *_: object) -> None:
        self._busy -= 1
        for _free in range(self.limit - self._busy):
            if self._waiters and not (waiter := self._waiters.popleft()).done():
                waiter.set_result(None)

    def throttle(self, seconds: float) -> None:
        now = time.monotonic()
        if now >= self._opens:  # the calls that were in flight together are one complaint
            self.limit = max(1, self.limit // 2)
        self._opens = max(self._opens, now + seconds)

    def replied(self) -> None:
        self._replies += 1
        if self._replies >= self.limit:
            self._replies = 0
            self.limit = min(self._most, self.limit + 1)
