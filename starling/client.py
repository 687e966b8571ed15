"""The one door to the network: chat with any OpenAI-compatible endpoint, every call through the ledger.

Callers see a reply or a failure for each call, never a retry. What concerns every call alike, such as a refused key,
an unknown model or a server that is down, is raised as CallError.
"""

import asyncio
import json
import os
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from starling.errors import CallError, UsageError
from starling.ledger import Ledger, call_key, canonical
from starling.limits import Gate, Pace
from starling.records import Call, Failure, Reply

LONGEST_WAIT_SECONDS = 600.0  # an endpoint that asks for more, such as a spent day's quota, is not waited for
LONGEST_BACKOFF_SECONDS = 60.0
URL_REST_SECONDS = 5.0  # a URL that broke a connection is tried last for so long
CHARACTERS_PER_TOKEN = 4  # only for planning; the endpoint's own count replaces it

_LEAST = {"concurrency": 1, "attempts": 1, "requests_per_minute": 0, "tokens_per_minute": 0, "timeout_seconds": 1e-3}

OnReply = Callable[[Call, Reply | Failure], None]
Session = aiohttp.ClientSession


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One model behind one URL or several alike, with what may be asked of it; 0 is no limit, or an unknown price.

    `name` stands in the ledger's keys, so that URLs may change; `key_env` is the environment variable with the key
    ("" = none). `timeout_seconds` is for one attempt, prices are in dollars per million tokens.
    """

    name: str
    urls: Sequence[str]
    model: str
    key_env: str = ""
    concurrency: int = 8
    requests_per_minute: float = 0.0
    tokens_per_minute: float = 0.0
    timeout_seconds: float = 120.0
    attempts: int = 6
    backoff_seconds: float = 0.5
    price_in: float = 0.0
    price_out: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if not self.urls or isinstance(self.urls, str):
            raise UsageError(f"endpoint {self.name}: urls must be a list of at least one URL")
        for url in self.urls:
            if not re.fullmatch(r"https?://[^/\s@?#]+(/[^\s?#]*)?", url):
                raise UsageError(
                    f"endpoint {self.name}: urls are http(s)://host/path, without keys or parameters in them"
                )
        for field, least in _LEAST.items():
            if getattr(self, field) < least:
                raise UsageError(f"endpoint {self.name}: {field} must be at least {least:g}")


def parse_endpoint(text: str, *, key_env: str = "") -> Endpoint:
    """The endpoint that `openai:NAME@URL` spells; further URLs of a pool follow after commas.

    Its ledger name holds the host, since two servers may call different models by one name. OPENAI_API_KEY is sent to
    OpenAI's own host only.
    """
    match = re.fullmatch(r"openai:(.+?)@(https?://\S+)", text.strip())
    if match is None:
        raise UsageError(f"{text!r} is no endpoint; write openai:NAME@URL, as in openai:qwen3@http://localhost:8000/v1")
    urls = tuple(match[2].split(","))
    hosts = [urlsplit(url).netloc for url in urls]
    if not key_env and hosts == ["api.openai.com"]:
        key_env = "OPENAI_API_KEY"
    return Endpoint(name=f"{match[1]}@{hosts[0]}", urls=urls, model=match[1], key_env=key_env)


@dataclass(slots=True, kw_only=True)
class Counts:
    """Requests that left, calls that the ledger answered, calls that failed, tokens."""

    requests: int = 0
    from_ledger: int = 0
    failures: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fault:
    """An attempt without a valid reply: worth another one, or the end of this call, or of all of them."""

    reason: str
    retry: bool = True
    fatal: bool = False
    unreachable: bool = False
    throttled: bool = False
    wait_seconds: float = 0.0


class Client:
    """A chat model behind an endpoint; implements `judges.protocol.Chat`.

    `on_reply` is told of each call as it ends. `counts` and `usd` say what was spent.
    """

    def __init__(self, endpoint: Endpoint, ledger: Ledger, *, on_reply: OnReply | None = None) -> None:
        self.endpoint = endpoint
        self.name = endpoint.name
        self.counts = Counts()
        self._ledger = ledger
        self._on_reply = on_reply
        self._key = os.environ.get(endpoint.key_env or "-", "").strip()
        if endpoint.key_env and not self._key:
            raise UsageError(
                f"{self.name}: put the key into the environment variable {endpoint.key_env}; it is not set"
            )
        self._load = dict.fromkeys(map(_chat_url, endpoint.urls), 0)
        self._rests_until = dict.fromkeys(self._load, 0.0)
        self._gate = Gate(endpoint.concurrency)
        self._requests = Pace(endpoint.requests_per_minute)
        self._tokens = Pace(endpoint.tokens_per_minute)
        self._replies = 0

    @property
    def usd(self) -> float | None:
        """What the calls made so far cost; None where a price is unknown."""
        price_in, price_out = self.endpoint.price_in, self.endpoint.price_out
        spent = self.counts.prompt_tokens * price_in + self.counts.completion_tokens * price_out
        return spent / 1e6 if price_in and price_out else None

    @property
    def concurrency(self) -> int:
        """How many calls may be in flight now."""
        return self._gate.limit

    def chat(self, calls: Sequence[Call]) -> list[Reply | Failure]:
        """One reply or failure for each call; what the ledger holds is not asked again."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(self._chat(calls))
        with ThreadPoolExecutor(1) as pool:  # a notebook already runs an event loop in this thread
            return pool.submit(asyncio.run, self._chat(calls)).result()

    async def _chat(self, calls: Sequence[Call]) -> list[Reply | Failure]:
        outcomes: dict[int, Reply | Failure] = {}
        waiting = iter(enumerate(calls))
        flying: dict[str, asyncio.Event] = {}
        self._gate.begin()
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {self._key}"} if self._key else {}
        timeout = aiohttp.ClientTimeout(total=self.endpoint.timeout_seconds)
        async with Session(connector=aiohttp.TCPConnector(limit=0), timeout=timeout, headers=headers) as session:

            async def work() -> None:
                for index, call in waiting:
                    outcomes[index] = outcome = await self._answer(session, call, flying)
                    if self._on_reply:
                        self._on_reply(call, outcome)

            workers = [asyncio.create_task(work()) for _ in range(min(self.endpoint.concurrency, len(calls)))]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
                self._ledger.commit()
        return [outcomes[index] for index in range(len(calls))]

    async def _answer(self, session: Session, call: Call, flying: dict[str, asyncio.Event]) -> Reply | Failure:
        body = _body(self.endpoint.model, call)
        key = call_key(self.name, self.endpoint.model, body, call.draw)
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
        longest = self.endpoint.backoff_seconds
        tried = 0
        while True:
            tried += 1
            outcome = await self._attempt(session, call, key, body)
            if isinstance(outcome, Reply):
                # Another run on this ledger may have been first; the reply that stands there is the one to use.
                return self._ledger.get(key) or outcome
            if outcome.fatal:
                raise CallError(f"{self.name}: {outcome.reason}")
            jitter = random.uniform(0.5, 1.0) * longest
            wait = outcome.wait_seconds + min(jitter, 1.0) if outcome.wait_seconds else jitter
            if outcome.throttled:
                self._gate.throttle(wait)
            if outcome.unreachable and tried == self.endpoint.attempts:  # the other calls would go the same way
                raise CallError(f"{self.name}: {outcome.reason}; is it running? What was answered is kept")
            if not outcome.retry or tried == self.endpoint.attempts:
                self.counts.failures += 1
                said = f"{self.name}: {outcome.reason} (attempt {tried} of {self.endpoint.attempts})"
                return Failure(reason=said, key=key)
            await asyncio.sleep(wait)
            longest = min(LONGEST_BACKOFF_SECONDS, 2 * longest)

    async def _attempt(self, session: Session, call: Call, key: str, body: str) -> Reply | _Fault:
        mean = self.counts.completion_tokens / self._replies if self._replies else call.max_tokens
        planned = len(body) / CHARACTERS_PER_TOKEN + min(mean, call.max_tokens)
        async with self._gate:
            await self._tokens.wait(planned)
            await self._requests.wait(1.0)
            attempt = self._ledger.sent(key, name=self.name, model=self.endpoint.model, request=body, draw=call.draw)
            try:
                await self._ledger.settle()
                outcome = await self._post(session, body)
            except asyncio.CancelledError:
                self._ledger.failed(attempt, "cancelled")  # committed where `_chat` ends
                raise
            if isinstance(outcome, Reply):
                self._ledger.replied(attempt, outcome)
                self._gate.replied()
                self._replies += 1
                self._tokens.correct((outcome.prompt_tokens + outcome.completion_tokens or planned) - planned)
            else:
                self._ledger.failed(attempt, outcome.reason)
            await self._ledger.settle()
        return outcome

    async def _post(self, session: Session, body: str) -> Reply | _Fault:
        now = time.monotonic()
        url = min(self._load, key=lambda known: (self._rests_until[known] > now, self._load[known]))
        self._load[url] += 1
        self.counts.requests += 1
        unreachable = slow = False
        try:
            # A redirect would turn the request into a GET and might carry the key elsewhere.
            async with session.post(url, data=body, allow_redirects=False) as response:
                return self._read(response.status, response.headers, await response.read(), url)
        except TimeoutError:
            slow = True  # most often since more calls are under way than the endpoint works on at once
            reason = f"no whole reply within {self.endpoint.timeout_seconds:g} s"
        except aiohttp.ClientConnectorError as error:
            unreachable = True
            reason = f"nobody answers at {url}: {self._plain(error.os_error)}"
        except (aiohttp.ClientError, OSError) as error:
            reason = f"the connection broke: {type(error).__name__}: {self._plain(error)}"
        finally:
            self._load[url] -= 1
        self._rests_until[url] = time.monotonic() + URL_REST_SECONDS
        return _Fault(reason=reason, unreachable=unreachable, throttled=slow)

    def _read(self, status: int, headers: Mapping[str, str], payload: bytes, url: str) -> Reply | _Fault:
        try:
            content = json.loads(payload)
        except (ValueError, RecursionError):
            content = None
        if 200 <= status < 300:
            return self._read_reply(content, payload)
        said = f"{status}: {self._plain(_complaint(content, payload))}"
        if status == 401:
            cause = "the key in " + self.endpoint.key_env if self._key else "calls without a key; set key_env"
            return _Fault(reason=f"the endpoint refuses {cause} ({said})", fatal=True)
        if status == 404:
            return _Fault(reason=f"no model {self.endpoint.model!r}, or no chat at {url} ({said})", fatal=True)
        if 300 <= status < 400:
            return _Fault(reason=f"{url} sends calls on to another address; use that one ({said})", fatal=True)
        wait = _retry_after(headers.get("Retry-After", ""))
        spent = b"insufficient_quota" in payload or wait > LONGEST_WAIT_SECONDS
        retry = not spent and (status in (408, 409, 425, 429) or (status >= 500 and status != 501))
        reason = f"too many requests ({said})" if status == 429 else f"the endpoint answers {said}"
        return _Fault(reason=reason, retry=retry, throttled=retry and status == 429, wait_seconds=wait)

    def _read_reply(self, content: Any, payload: bytes) -> Reply | _Fault:
        try:
            choice = content["choices"][0]
            text = choice["message"].get("content") or ""
            if not isinstance(text, str):  # some servers answer in parts
                text = "".join(part.get("text") or "" for part in text)
            usage = content.get("usage") or {}
            tokens = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
            finish = choice.get("finish_reason")
        except (TypeError, KeyError, IndexError, AttributeError, ValueError):
            return _Fault(reason=f"the reply is no chat completion: {self._plain(_complaint(content, payload))}")
        self.counts.prompt_tokens += tokens[0]
        self.counts.completion_tokens += tokens[1]
        text = text.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be stored
        if finish == "content_filter":
            return _Fault(reason="the provider's content filter stopped the reply", retry=False)
        if not text.strip() and finish == "length":
            return _Fault(reason="the token cap was reached before any text; raise max_tokens", retry=False)
        if not text.strip():
            return _Fault(reason="the reply is empty")
        return Reply(text=text, finished=finish != "length", prompt_tokens=tokens[0], completion_tokens=tokens[1])

    def _plain(self, text: object) -> str:
        """One short line without the key, which some endpoints repeat when they refuse it."""
        line = " ".join(str(text).split())
        line = line.replace(self._key, "***") if self._key else line
        return re.sub(r"\bsk-[\w*-]+", "***", line)[:200]


def _body(model: str, call: Call) -> str:
    optional: dict[str, Any] = {} if call.top_p == 1.0 else {"top_p": call.top_p}  # not every server knows it
    if call.schema is not None:
        wanted = {"name": "verdict", "strict": True, "schema": dict(call.schema)}
        optional["response_format"] = {"type": "json_schema", "json_schema": wanted}
    sampling = {"max_tokens": call.max_tokens, "temperature": call.temperature}
    return canonical({"model": model, "messages": list(call.messages), **sampling, **optional})


def _chat_url(url: str) -> str:
    url = url.rstrip("/")
    if url.endswith("/chat/completions"):
        return url
    return url + ("/chat/completions" if urlsplit(url).path else "/v1/chat/completions")


def _retry_after(value: str) -> float:
    """Seconds to wait, from a number or a date; 0 where there is neither."""
    if re.fullmatch(r"\d+(\.\d+)?", value.strip()):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0


def _complaint(content: Any, payload: bytes) -> str:
    """What the endpoint says is wrong, in its own words."""
    said = content.get("error", content) if isinstance(content, dict) else content
    if isinstance(said, dict):
        said = said.get("message") or said.get("detail") or said
    return str(said or payload[:400].decode(errors="replace") or "no text")
