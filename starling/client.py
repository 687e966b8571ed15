"""Chat with any OpenAI-compatible endpoint, every call through the ledger.

Callers see a reply or a failure for each call, never a retry. What concerns every call alike, such as a refused key,
an unknown model or a server that is down, is raised as CallError.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from starling import endpoints, progress
from starling.endpoints import Endpoint
from starling.errors import CallError
from starling.ledger import Ledger, call_key, canonical
from starling.limits import Allowance, Gate, Pace
from starling.records import Call, Failure, Reply
from starling.replies import Fault, Reader
from starling.waiting import all_of, run_to_end

LONGEST_BACKOFF_SECONDS = 60.0
START_SECONDS = 0.0008  # between the first calls of two workers: in lockstep, replies would wait for each other
LONGEST_REFUSAL_SECONDS = 600.0  # for which one call is turned away (429) while others are answered, before it fails
URL_REST_SECONDS = 5.0  # a URL that broke a connection is tried last for so long
CHARACTERS_PER_TOKEN = 4  # only for planning; the endpoint's own count replaces it
SHARE_OF_CAP = 0.5  # of its token cap that a reply is planned to take, where none has been seen
FEWEST_CHARACTERS_PER_TOKEN = 2  # what a call is taken to cost at most before the endpoint has counted

OnReply = Callable[[Call, Reply | Failure], None]
Session = aiohttp.ClientSession


@dataclass(slots=True, kw_only=True)
class Counts:
    """Requests that left, calls that the ledger answered, calls that failed, tokens."""

    requests: int = 0
    from_ledger: int = 0
    failures: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Client:
    """A chat model behind an endpoint; implements `judges.protocol.Chat`.

    `on_reply` is told of each call as it ends. `counts` and `usd` say what was spent. No call leaves that `allowance`
    does not cover.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        ledger: Ledger,
        *,
        on_reply: OnReply | None = None,
        allowance: Allowance | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.name = endpoint.name
        self.counts = Counts()
        self._ledger = ledger
        self._on_reply = on_reply
        self._allowance = allowance or Allowance()
        self._key = endpoints.key(endpoint)
        self._reader = Reader(endpoint, self._key)
        self._load = dict.fromkeys(map(chat_url, endpoint.urls), 0)
        self._rests_until = dict.fromkeys(self._load, 0.0)
        self._gate = Gate(endpoint.concurrency)
        self._requests = Pace(endpoint.requests_per_minute)
        self._tokens = Pace(endpoint.tokens_per_minute)
        self._replies = 0
        self._answered = 0.0  # when the last valid reply came
        self._is_down = False

    @property
    def usd(self) -> float | None:
        """What the calls made so far cost; None where a price is unknown."""
        return self.endpoint.usd(self.counts.prompt_tokens, self.counts.completion_tokens)

    @property
    def answered_as(self) -> set[str]:
        """The names that the endpoint itself gave for the model behind it."""
        return self._reader.models

    @property
    def concurrency(self) -> int:
        """How many calls may be in flight now."""
        return self._gate.limit

    def chat(self, calls: Sequence[Call], given_up: Event | None = None) -> list[Reply | Failure]:
        """One reply or failure for each call; what the ledger holds is not asked again.

        Calls are broken off once they are `given_up`.
        """
        return run_to_end(self._chat(calls, given_up))

    async def _chat(self, calls: Sequence[Call], given_up: Event | None) -> list[Reply | Failure]:
        outcomes: dict[int, Reply | Failure] = {}
        waiting = iter(enumerate(calls))
        flying: dict[str, asyncio.Event] = {}
        self._gate.begin()
        self._allowance.begin()
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {self._key}"} if self._key else {}
        timeout = aiohttp.ClientTimeout(total=self.endpoint.timeout_seconds)
        async with Session(connector=aiohttp.TCPConnector(limit=0), timeout=timeout, headers=headers) as session:

            async def work(number: int) -> None:
                await asyncio.sleep(number * START_SECONDS)
                for index, call in waiting:
                    outcomes[index] = outcome = await self._answer(session, call, flying)
                    if self._on_reply:
                        self._on_reply(call, outcome)

            count = min(self.endpoint.concurrency, len(calls))
            workers = [asyncio.create_task(work(number)) for number in range(count)]
            try:
                await all_of(workers, given_up)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
                self._ledger.commit()
        return [outcomes[index] for index in range(len(calls))]

    async def _answer(self, session: Session, call: Call, flying: dict[str, asyncio.Event]) -> Reply | Failure:
        body = _body(self.endpoint, call)
        whole = "" if self.endpoint.strip_thinking else " with its thinking"  # a stored reply has lost that
        key = call_key(self.name + whole, self.endpoint.model, body, call.draw)
        while key in flying:  # the same call twice in one list is asked once
            await flying[key].wait()
        stored = self._ledger.get(key)
        if stored is not None:
            self.counts.from_ledger += 1
            return stored
        flying[key] = asyncio.Event()
        try:
            return await self._ask(session, call, key, body)
        finally:
            flying.pop(key).set()

    async def _ask(self, session: Session, call: Call, key: str, body: str) -> Reply | Failure:
        longest, began = self.endpoint.backoff_seconds, time.monotonic()
        tried = 0
        while True:
            tried += 1
            outcome = await self._attempt(session, call, key, body)
            if isinstance(outcome, Reply):
                # Another run on this ledger may have been first; the reply that stands there is the one to use.
                return self._ledger.get(key) or outcome
            if outcome.fatal:
                raise CallError(f"{self.name}: {outcome.reason}")
            jitter = random.SystemRandom().uniform(0.5, 1.0) * longest  # runs of one seed must not wait alike
            wait = outcome.wait_seconds + min(jitter, 1.0) if outcome.wait_seconds else jitter
            if outcome.throttled:
                self._gate.throttle(wait)
            is_last = not outcome.retry or tried >= self.endpoint.attempts
            if is_last and not (outcome.down and self._is_waited_for(outcome, began)):
                self.counts.failures += 1
                said = f"{self.name}: {outcome.reason} (attempt {tried} of {self.endpoint.attempts})"
                return Failure(reason=said, mute=outcome.mute, key=key)
            await asyncio.sleep(wait)
            longest = min(LONGEST_BACKOFF_SECONDS, 2 * longest)

    def _is_waited_for(self, fault: Fault, began: float) -> bool:
        """Whether an endpoint that is down, or lets no call through, is given more time, since it has answered not too
        long ago.

        Where it is not, and no call could fare better, everything ends: no call is given up for it. A call that it has
        turned away for long, while it answered others, is one that it never lets through.
        """
        patience, now = self.endpoint.patience_seconds if self._answered else 0.0, time.monotonic()
        if patience and now - self._answered < patience:
            if fault.throttled and self._answered - began > LONGEST_REFUSAL_SECONDS:
                return False
            if not self._is_down:
                self._is_down = True
                state = "turns calls away" if fault.throttled else "is down"
                progress.say(f"{self.name} {state} ({fault.reason}); waiting up to {patience / 60:.0f} minutes")
            return True
        if fault.unreachable or patience:
            hint = "go on later." if fault.throttled else "is it running?"
            raise CallError(f"{self.name}: {fault.reason}; {hint} What was answered is kept")
        return False

    async def _attempt(self, session: Session, call: Call, key: str, body: str) -> Reply | Fault:
        mean = self.counts.completion_tokens / self._replies if self._replies else call.max_tokens
        planned = len(body) / CHARACTERS_PER_TOKEN + min(mean, call.max_tokens)
        worst = (len(body) // FEWEST_CHARACTERS_PER_TOKEN, call.max_tokens)
        held = self.endpoint.usd(*worst) or 0.0
        async with self._gate:
            await self._tokens.wait(planned)
            await self._requests.wait(1.0)
            await self._allowance.hold(held)
            cost, ended = held, False
            attempt = self._ledger.sent(
                key, name=self.name, model=self.endpoint.model, request=body, draw=call.draw, planned=worst
            )
            try:
                await self._ledger.settle()
                outcome = await self._post(session, body, wants_logprobs=call.top_logprobs > 0)
                tokens = self._tokens_of(outcome, body, worst)
                cost = self.endpoint.usd(*tokens) or 0.0
                if isinstance(outcome, Reply):
                    self._ledger.replied(attempt, outcome, tokens)
                    self._note_reply(sum(tokens) - planned)
                else:
                    self._ledger.failed(attempt, outcome.reason, tokens)
                ended = True
                await self._ledger.settle()
            except asyncio.CancelledError:
                if not ended:
                    self._ledger.failed(attempt, "cancelled", worst)  # committed where `_chat` ends
                raise
            finally:
                self._allowance.settle(held, cost)
        return outcome

    def _tokens_of(self, outcome: Reply | Fault, body: str, worst: tuple[int, int]) -> tuple[int, int]:
        """What an attempt is charged: the endpoint's own count, or else a cautious guess."""
        counted = outcome.prompt_tokens, outcome.completion_tokens
        self.counts.prompt_tokens += counted[0]
        self.counts.completion_tokens += counted[1]
        if isinstance(outcome, Fault):
            return worst if outcome.uncertain else counted
        if any(counted):
            return counted
        return len(body) // CHARACTERS_PER_TOKEN, min(worst[1], 1 + len(outcome.text) // CHARACTERS_PER_TOKEN)

    def _note_reply(self, beyond_plan: float) -> None:
        self._gate.replied()
        self._replies += 1
        self._answered = time.monotonic()
        self._tokens.correct(beyond_plan)
        if self._is_down:
            self._is_down = False
            progress.say(f"{self.name} answers again")

    async def _post(self, session: Session, body: str, *, wants_logprobs: bool) -> Reply | Fault:
        now = time.monotonic()
        url = min(self._load, key=lambda known: (self._rests_until[known] > now, self._load[known]))
        self._load[url] += 1
        self.counts.requests += 1
        unreachable = down = slow = False
        try:
            # A redirect would turn the request into a GET and might carry the key elsewhere.
            async with session.post(url, data=body.encode(), allow_redirects=False) as response:
                payload = await response.read()
                return self._reader.read(response.status, response.headers, payload, url, wants_logprobs=wants_logprobs)
        except TimeoutError:
            slow = True  # most often since more calls are under way than the endpoint works on at once
            reason = f"no whole reply within {self.endpoint.timeout_seconds:g} s"
        except aiohttp.ClientConnectorError as error:
            unreachable = down = True
            reason = f"nobody answers at {url}: {self._reader.plain(error.os_error)}"
        except (aiohttp.ClientError, OSError) as error:
            down = True
            reason = f"the connection broke: {type(error).__name__}: {self._reader.plain(error)}"
        finally:
            self._load[url] -= 1
        self._rests_until[url] = time.monotonic() + URL_REST_SECONDS
        return Fault(reason=reason, unreachable=unreachable, down=down, throttled=slow, uncertain=not unreachable)


def _body(endpoint: Endpoint, call: Call) -> str:
    fields: dict[str, Any] = {"model": endpoint.model, "messages": list(call.messages)}
    fields[endpoint.token_parameter] = call.max_tokens
    if endpoint.sampling_parameters:
        fields |= {"temperature": call.temperature}
        fields |= {} if call.top_p == 1.0 else {"top_p": call.top_p}  # not every server knows it
    if call.schema is not None:
        wanted = {"name": "verdict", "strict": True, "schema": dict(call.schema)}
        fields["response_format"] = {"type": "json_schema", "json_schema": wanted}
    if call.top_logprobs:
        fields |= {"logprobs": True, "top_logprobs": call.top_logprobs}
    return canonical(fields)


def chat_url(url: str) -> str:
    """Where an endpoint's URL takes chat calls."""
    url = url.rstrip("/")
    if url.endswith("/chat/completions"):
        return url
    return url + ("/chat/completions" if urlsplit(url).path else "/v1/chat/completions")
