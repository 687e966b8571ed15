"""A MODEL that speaks, in this process or behind a URL.

A benchmark asks a `Speaker` for many whole answers through a ledger, the arena a `Contestant` for one at a time; a
`Voice` answers in a chat, piece by piece.
"""

import secrets
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol

from starling import chat, device, endpoint_stream, endpoints, models, offer, packing
from starling.account import Account
from starling.client import Client
from starling.endpoints import Endpoint
from starling.errors import CallError, DataError, ModelError, UsageError
from starling.generate import Request, Sampling, stop_ids
from starling.judges.protocol import Chat
from starling.ledger import Ledger
from starling.local import FiledChat, LocalChat, OnReply
from starling.models import Model
from starling.pieces import Pieces
from starling.records import Call, Failure, Message, Reply
from starling.rollout import own_settings
from starling.waiting import turn

SEED = 0  # of what a benchmark asks a model in this process
TIMEOUT_SECONDS = 900.0  # of a benchmark's call: a small server needs minutes for the longest replies
ENDPOINT_TEMPERATURE = 1.0  # what an endpoint takes where it is told nothing
ATTEMPTS = 3  # at an answer in the arena, where a person waits: an endpoint that is down is soon said to be
ANSWER_TOKENS = 1024  # after which an answer in a chat is cut, and said to be


def endpoint_of(name: str, account: Account | None = None) -> Endpoint | None:
    """The endpoint that MODEL names, in a run also by its own name; None for a model in this process."""
    if account is not None:
        return endpoints.find(account.config, name)
    return endpoints.parse_endpoint(name) if name.startswith("openai:") else None


def ledger_name(name: str, account: Account | None = None) -> str:
    """What MODEL is called in the ledger."""
    endpoint = endpoint_of(name, account)
    return endpoint.name if endpoint else name


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    """Who gives whole answers to many calls, and what tells it from all others."""

    chat: Chat
    identity: dict[str, Any]


def open_speaker(name: str, ledger: Ledger, on_reply: OnReply | None = None, account: Account | None = None) -> Speaker:
    """Load or reach MODEL: smollm2, a folder, a Hub name, the tuned policy of a RUN, openai:NAME@URL, or an endpoint
    that the settings behind `account` name."""
    endpoint = endpoint_of(name, account)
    if endpoint is not None:
        identity = {"name": endpoint.model, "endpoint": endpoint.name}
        if name.startswith("openai:"):  # one with a table of its own has its own patience
            endpoint = replace(endpoint, timeout_seconds=TIMEOUT_SECONDS)
        allowance = account.allowance if account else None
        return Speaker(chat=Client(endpoint, ledger, on_reply=on_reply, allowance=allowance), identity=identity)
    path = offer.policy_of(name)
    model = models.load_policy(path)
    found = models.identity(path) | {"name": name, "dtype": device.dtype_name(model.network.dtype)}
    weights = found["weights_sha256"] + ("" if found["dtype"] == "bfloat16" else f" in {found['dtype']}")
    return Speaker(
        chat=FiledChat(model, name, ledger, weights=weights, seed=SEED, on_reply=on_reply),
        identity=found,
    )


def refuse_one_name(name: str, other: str, account: Account | None) -> None:
    """Refuse two MODELs whose answers would stand under one name; a FILE of answers says its name itself."""
    if Path(name).is_file() or Path(other).is_file():
        return
    found = [endpoint_of(one, account) for one in (name, other)]
    endpoints.refuse_alike(*found)
    called = [endpoint.model if endpoint else one for endpoint, one in zip(found, (name, other), strict=True)]
    if called[0] == called[1]:
        raise UsageError(
            f"bench: both sides are called {called[0]}; ask one of them first, and give its answers as a FILE in which "
            "it has another name"
        )


def _always_fits(messages: Sequence[Message]) -> None:
    """An endpoint says itself what is too long."""


class Answerer(Protocol):
    """A chat model whose answers can be given up while they are written."""

    name: str

    def chat(self, calls: Sequence[Call], given_up: threading.Event | None = None) -> list[Reply | Failure]:
        """One reply or failure for each call; GivenUp once the event is set."""
        ...


class Contestant:
    """A model under the name that is shown after the vote; threads may share it."""

    def __init__(
        self,
        name: str,
        model: Answerer,
        *,
        max_tokens: int,
        temperature: float,
        top_p: float = 1.0,
        require_room: Callable[[Sequence[Message]], None] = _always_fits,
    ) -> None:
        self.name = name
        self._model = model
        self._call = Call(messages=(), max_tokens=max_tokens, temperature=temperature, top_p=top_p)
        self._require_room = require_room
        self._lock = threading.Lock()

    def answer(self, messages: Sequence[Message], draw: int, given_up: threading.Event) -> Reply:
        """The model's answer; `draw` tells repeated identical conversations apart. GivenUp once the event is set."""
        with turn(self._lock, given_up):
            self._require_room(messages)
            (outcome,) = self._model.chat([replace(self._call, messages=messages, draw=draw)], given_up)
        if isinstance(outcome, Failure):
            raise CallError(outcome.reason)
        if not outcome.text.strip():
            raise CallError(f"{self.name}: an empty answer")
        return outcome


def load_contestants(
    names: Sequence[str], ledger_path: Path, answer_tokens: int
) -> tuple[list[Contestant], list[Ledger]]:
    """The models by the names a person gives: smollm2, a folder, a run (its tuned policy), or an endpoint.

    Each endpoint has a connection of its own to the ledger, for threads to ask at the same time; they are the caller's
    to close.
    """
    named = [name if "@" in name else name.rstrip("/") for name in names]
    if len(named) < 2 or len(set(named)) < len(named):
        raise UsageError(f"arena: give at least two models, each once; given: {', '.join(named) or 'none'}")
    behind = {name: endpoint for name in named if (endpoint := endpoint_of(name))}
    for one, other in combinations(behind.values(), 2):
        endpoints.refuse_alike(one, other)
    for endpoint in behind.values():
        endpoints.key(endpoint, "arena")
    folders = {name: models.resolve(offer.policy_of(name)) for name in named if name not in behind}
    found, ledgers = [], []
    for name in named:
        if name in behind:
            ledgers.append(Ledger(ledger_path, "arena"))
            model = Client(replace(behind[name], attempts=ATTEMPTS, patience_seconds=0.0), ledgers[-1])
            found.append(Contestant(name, model, max_tokens=answer_tokens, temperature=ENDPOINT_TEMPERATURE))
        else:
            found.append(_local_contestant(name, folders[name], answer_tokens))
    return found, ledgers


def _local_contestant(name: str, folder: str, answer_tokens: int) -> Contestant:
    loaded = models.load_policy(folder)
    window = packing.window(loaded.network.config)

    def require_room(messages: Sequence[Message]) -> None:
        length = len(chat.prompt_ids(loaded.tokenizer, messages)) + answer_tokens
        if length > window:
            raise ModelError(f"{name}: a conversation of {length:,} tokens passes its window of {window:,}")

    model = LocalChat(loaded, name, seed=0)
    return Contestant(name, model, max_tokens=answer_tokens, require_room=require_room, **own_settings(loaded.network))


class Voice(Protocol):
    """One side of a chat. After an answer `tokens` is its length, `remark` what a person should know about it."""

    name: str
    tokens: int
    remark: str

    def answer(self, messages: Sequence[Message]) -> Generator[str, None, None]:
        """The answer's pieces, possibly empty ones; closing it breaks the answer off."""
        ...


class LocalVoice:
    """A model in this process; samples as its own `generation_config` says."""

    def __init__(self, model: Model, name: str) -> None:
        self.name = name
        self.tokens = 0
        self.remark = ""
        self._model = model

    def answer(self, messages: Sequence[Message]) -> Generator[str, None, None]:
        """Of a conversation that has outgrown the window, the earliest part is left out, and that is said."""
        network, tokenizer = self._model
        self.tokens, self.remark = 0, ""
        cap = min(ANSWER_TOKENS, packing.window(network.config) // 2)
        prompt = self._fitting(messages, packing.window(network.config) - cap)
        request = Request(prompt=prompt, seed=secrets.randbits(63), **own_settings(network))
        sampling = Sampling(network, stop_ids(network), 1)
        sampling.admit({0: request}, {0: cap}, {prompt: 0})
        pieces = Pieces(tokenizer)
        while len(sampling):
            [drawn] = sampling.step()
            self.tokens += 1
            yield pieces.feed(drawn.token)
            if drawn.ended and not drawn.finished:
                self._add(f"cut after {cap:,} tokens")
        yield pieces.end()

    def _fitting(self, messages: Sequence[Message], room: int) -> tuple[int, ...]:
        prompt = chat.prompt_ids(self._model.tokenizer, messages)
        if len(prompt) <= room:
            return prompt
        kept = chat.shortened(self._model.tokenizer, messages, len(prompt) - room)
        if kept is None:
            raise DataError(
                f"{self.name}: this takes {len(prompt):,} tokens, the model has room for {room:,}; shorten it"
            )
        shorter = chat.prompt_ids(self._model.tokenizer, kept)
        self._add(
            f"the window is full: the first {len(prompt) - len(shorter):,} tokens of the conversation are left out"
        )
        return shorter

    def _add(self, remark: str) -> None:
        self.remark = "; ".join(filter(None, (self.remark, remark)))


class EndpointVoice:
    """A model behind a URL; samples as the endpoint does by default."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.name = endpoint.name
        self.tokens = 0
        self.remark = ""
        self._endpoint = endpoint

    def answer(self, messages: Sequence[Message]) -> Generator[str, None, None]:
        """The answer as the endpoint writes it; until it gives its own count, each piece counts as a token."""
        self.tokens, self.remark = 0, ""
        for text, tokens, cut in endpoint_stream.written(self._endpoint, messages):
            self.tokens = self.tokens + bool(text) if tokens is None else tokens
            if cut:
                self.remark = "cut by the endpoint's token cap"
            yield text


def open_voice(source: str) -> Voice:
    """The voice that MODEL means: `openai:NAME@URL`, a run's tuned policy, or a model to load."""
    endpoint = endpoint_of(source)
    if endpoint is not None:
        return EndpointVoice(endpoint)
    return LocalVoice(models.load_policy(offer.policy_of(source)), source)
