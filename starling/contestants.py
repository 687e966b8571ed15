"""The models that meet in the arena: in this process or behind a URL, each asked for one answer at a time."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from starling import chat, endpoints, models, offer, packing
from starling.client import Client
from starling.errors import CallError, ModelError, UsageError
from starling.judges.protocol import Chat
from starling.ledger import Ledger
from starling.local import LocalChat
from starling.records import Call, Failure, Message, Reply
from starling.rollout import own_settings

ENDPOINT_TEMPERATURE = 1.0  # what an endpoint takes where it is told nothing


def _always_fits(messages: Sequence[Message]) -> None:
    """An endpoint says itself what is too long."""


class Contestant:
    """A model under the name that is shown after the vote; threads may share it."""

    def __init__(
        self,
        name: str,
        model: Chat,
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

    def answer(self, messages: Sequence[Message], draw: int) -> Reply:
        """The model's answer; `draw` tells repeated identical conversations apart."""
        with self._lock:
            self._require_room(messages)
            (outcome,) = self._model.chat([replace(self._call, messages=messages, draw=draw)])
        if isinstance(outcome, Failure):
            raise CallError(outcome.reason)
        if not outcome.text.strip():
            raise CallError(f"{self.name}: an empty answer")
        return outcome


def load(names: Sequence[str], ledger_path: Path, answer_tokens: int) -> tuple[list[Contestant], list[Ledger]]:
    """The models by the names a person gives: smollm2, a folder, a run (its tuned policy), or an endpoint.

    Each endpoint has a connection of its own to the ledger, for threads to ask at the same time; they are the caller's
    to close.
    """
    named = [name if "@" in name else name.rstrip("/") for name in names]
    if len(named) < 2 or len(set(named)) < len(named):
        raise UsageError(f"arena: give at least two models, each once; given: {', '.join(named) or 'none'}")
    behind = {name: endpoints.parse_endpoint(name) for name in named if name.startswith("openai:")}
    for endpoint in behind.values():
        endpoints.key(endpoint, "arena")
    folders = {name: models.resolve(offer.policy_of(name)) for name in named if name not in behind}
    found, ledgers = [], []
    for name in named:
        if name in behind:
            ledgers.append(Ledger(ledger_path, "arena"))
            model: Chat = Client(behind[name], ledgers[-1])
            found.append(Contestant(name, model, max_tokens=answer_tokens, temperature=ENDPOINT_TEMPERATURE))
        else:
            found.append(_local(name, folders[name], answer_tokens))
    return found, ledgers


def _local(name: str, folder: str, answer_tokens: int) -> Contestant:
    loaded = models.load_policy(folder)
    window = packing.window(loaded.network.config)

    def require_room(messages: Sequence[Message]) -> None:
        length = len(chat.prompt_ids(loaded.tokenizer, messages)) + answer_tokens
        if length > window:
            raise ModelError(f"{name}: a conversation of {length:,} tokens passes its window of {window:,}")

    model = LocalChat(loaded, name, seed=0)
    return Contestant(name, model, max_tokens=answer_tokens, require_room=require_room, **own_settings(loaded.network))
