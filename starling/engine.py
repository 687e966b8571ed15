"""One thread in which a model answers all requests at once, each as it comes."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Self, TypeVar

from starling.errors import StarlingError
from starling.generate import Drawn, Request, Sampling, stop_ids
from starling.models import Model
from starling.prepacked import prepacked

CLOSING = "the server is closing"
Result = TypeVar("Result")


class Closing(StarlingError):
    """The engine ends, and with it what it was asked."""


@dataclass(eq=False, slots=True)
class _Job:
    request: Request
    max_new_tokens: int
    heard: asyncio.Queue[Drawn | StarlingError] = field(default_factory=asyncio.Queue)


class Engine:
    """Requests wait in order for one of `slots` slots; those under way advance together, a token a step.

    It works within `async with`; at its end every answer ends too, with a reason. All state belongs to the event loop.
    The thread has a step, or a call, to do at a time; between two steps requests join, and those that nobody listens to
    any more leave.
    """

    def __init__(self, model: Model | None, slots: int) -> None:
        self._model = model
        self._slots = slots
        self._thread = ThreadPoolExecutor(1, "model")
        self._sampling: Sampling | None = None
        self._waiting: deque[_Job] = deque()
        self._running: dict[int, _Job] = {}
        self._left: set[int] = set()
        self._wake = asyncio.Event()
        self._count = 0
        self._closed = False

    async def __aenter__(self) -> Self:
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *_: object) -> None:
        """End every answer and wait for the step that is under way."""
        self._worker.cancel()
        with suppress(asyncio.CancelledError):
            await self._worker
        self._closed = True
        self._fail(Closing(CLOSING))
        self._thread.shutdown(wait=True, cancel_futures=True)

    @property
    def num_jobs(self) -> int:
        """Answers that wait or are under way."""
        return len(self._waiting) + len(self._running)

    async def tokens(self, request: Request, max_new_tokens: int) -> AsyncGenerator[Drawn, None]:
        """The tokens of one answer as they are drawn; closing the generator gives the answer up."""
        self._refuse_when_closed()
        job = _Job(request, max_new_tokens)
        self._waiting.append(job)
        self._wake.set()
        try:
            while True:
                heard = await job.heard.get()
                if isinstance(heard, StarlingError):
                    raise heard
                yield heard
                if heard.ended:
                    return
        finally:
            self._leave(job)

    async def call(self, function: Callable[[], Result]) -> Result:
        """Run a function in the thread, between two steps; one that still waits at the end is refused."""
        self._refuse_when_closed()
        work = asyncio.get_running_loop().run_in_executor(self._thread, function)
        try:
            await asyncio.wait([work])
        finally:
            work.cancel()  # where its caller is gone; what is done stays done
        if work.cancelled():
            raise Closing(CLOSING)
        return work.result()

    async def _work(self) -> None:
        with prepacked(self._model.network) if self._model else nullcontext():
            while True:
                while not self.num_jobs:
                    self._sampling = None  # an idle server holds no keys and values
                    self._wake.clear()
                    await self._wake.wait()
                await self._advance()

    async def _advance(self) -> None:
        free = self._slots - len(self._running.keys() - self._left)
        fresh: dict[int, _Job] = {}
        while self._waiting and len(fresh) < free:
            self._count += 1
            fresh[self._count] = self._waiting.popleft()
        self._running |= fresh
        left, self._left = self._left, set()
        for key in left:
            del self._running[key]
        step = asyncio.get_running_loop().run_in_executor(self._thread, self._step, left, fresh)
        await asyncio.wait([step])
        if error := step.exception():
            said = " ".join(str(error).split())[:300]
            self._sampling = None
            self._fail(StarlingError(f"the model failed in the middle of an answer: {type(error).__name__}: {said}"))
            return
        for drawn in step.result():
            self._running[drawn.key].heard.put_nowait(drawn)
            if drawn.ended:
                del self._running[drawn.key]
                self._left.discard(drawn.key)

    def _step(self, left: set[int], fresh: dict[int, _Job]) -> list[Drawn]:
        """In the thread: leave, join, draw."""
        assert self._model is not None
        if self._sampling is None:
            self._sampling = Sampling(self._model.network, stop_ids(self._model.network), self._slots)
        self._sampling.drop(left)
        if fresh:
            requests = {key: job.request for key, job in fresh.items()}
            caps = {key: job.max_new_tokens for key, job in fresh.items()}
            alone = {request.prompt: 0 for request in requests.values()}  # no shared beginnings: they come one by one
            self._sampling.admit(requests, caps, alone)
        return self._sampling.step() if len(self._sampling) else []

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise Closing(CLOSING)

    def _fail(self, error: StarlingError) -> None:
        for job in (*self._waiting, *self._running.values()):
            job.heard.put_nowait(error)
        self._waiting.clear()
        self._running.clear()
        self._left.clear()

    def _leave(self, job: _Job) -> None:
        if job in self._waiting:
            self._waiting.remove(job)
        self._left |= {key for key, running in self._running.items() if running is job}
