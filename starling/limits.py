"""How fast and how many at once: what holds calls back so that an endpoint can keep up."""

import asyncio
import time
from collections import deque

from starling.errors import StopStage


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


class Allowance:
    """The money and the time of a stage: a call leaves only while both last, at the price that it may have at most.

    Where they do not, the calls in flight are waited for, since they may turn out cheaper; only then the stage stops.
    `advice` says how to go on. A limit of 0 is none.
    """

    def __init__(
        self,
        stage: str = "",
        *,
        budget_usd: float = 0.0,
        spent_usd: float = 0.0,
        deadline_seconds: float = 0.0,
        advice: str = "",
    ) -> None:
        self.spent_usd = spent_usd
        self._stage = stage
        self._budget = budget_usd
        self._seconds = deadline_seconds
        self._ends = time.monotonic() + deadline_seconds if deadline_seconds else float("inf")
        self._advice = advice
        self.begin()

    def begin(self) -> None:
        """Forget who waits: each event loop starts with nothing in flight."""
        self._held = 0.0
        self._out = 0
        self._waiters: list[asyncio.Future[None]] = []

    async def hold(self, usd: float) -> None:
        """Set `usd` aside for a call that is about to leave."""
        while self._is_over() or not self._covers(usd):
            if self._out == 0:
                raise StopStage(self._why(usd))
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        self._held += usd
        self._out += 1

    def settle(self, held: float, cost: float) -> None:
        """Note that a call for which `held` was set aside has ended and did cost `cost`."""
        self._held -= held
        self._out -= 1
        self.spent_usd += cost
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def refuse_late(self) -> None:
        """Stop where the time is over."""
        if self._is_over():
            raise StopStage(self._why(0.0))

    def _is_over(self) -> bool:
        return time.monotonic() >= self._ends

    def _covers(self, usd: float) -> bool:
        return not self._budget or usd == 0 or self.spent_usd + self._held + usd <= self._budget

    def _why(self, usd: float) -> str:
        if self._is_over():
            why = f"the time of {self._seconds:g} s ({self._stage}.deadline_seconds) is over"
        else:
            left = max(0.0, self._budget - self.spent_usd)
            why = (
                f"stopped before the budget of ${self._budget:,.4g} (run.budget_usd) is passed: ${self.spent_usd:,.4f} "
                f"is spent, ${left:,.4f} is left, and the next call may cost up to ${usd:,.4f}"
            )
        return f"{self._stage}: {why}. What was answered is kept; {self._advice}"
