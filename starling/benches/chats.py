"""A MODEL that a benchmark talks to, here or behind a URL: every call stands in the benchmark's ledger."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from starling import chat, endpoints, models, offer, progress
from starling.client import Client
from starling.endpoints import Endpoint
from starling.errors import explained
from starling.ledger import Ledger, call_key, canonical
from starling.local import LocalChat
from starling.models import Model
from starling.packing import window
from starling.records import Call, Failure, Reply

SEED = 0
TIMEOUT_SECONDS = 900.0  # of a call: a small server needs minutes for the longest replies
AT_ONCE = 32  # calls that a model in this process answers together, and files together

OnReply = Callable[[Call, Reply | Failure], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    """Who answers, and what tells it from all others."""

    chat: Any  # judges.protocol.Chat
    identity: dict[str, Any]


def endpoint_of(name: str) -> Endpoint | None:
    """The endpoint that MODEL names; None for a model in this process."""
    if not name.startswith("openai:"):
        return None
    return replace(endpoints.parse_endpoint(name), timeout_seconds=TIMEOUT_SECONDS)


def stage_of(name: str) -> str:
    """What MODEL is called in the ledger."""
    endpoint = endpoint_of(name)
    return endpoint.name if endpoint else name


def open_speaker(name: str, ledger: Ledger, on_reply: OnReply | None = None) -> Speaker:
    """Load or reach MODEL: smollm2, a folder, a Hub name, the tuned policy of a RUN, or openai:NAME@URL."""
    endpoint = endpoint_of(name)
    if endpoint is not None:
        identity = {"name": endpoint.model, "endpoint": endpoint.name}
        return Speaker(chat=Client(endpoint, ledger, on_reply=on_reply), identity=identity)
    path = offer.policy_of(name)
    model = models.load_policy(path)
    found = models.identity(path)
    return Speaker(
        chat=FiledChat(model, name, ledger, weights=found["weights_sha256"], on_reply=on_reply),
        identity=found | {"name": name, "dtype": "bfloat16"},
    )


@contextmanager
def filed(out: Path, purpose: str) -> Iterator[Ledger]:
    """The ledger of a benchmark's folder, which is made where need be, on the account of `purpose`."""
    with explained(f"making {out}"):
        out.mkdir(parents=True, exist_ok=True)
    with Ledger(ledger_of(out), purpose) as ledger:
        progress.note_interrupted(ledger.interrupted)
        yield ledger


def ledger_of(out: Path) -> Path:
    """Where the calls of a benchmark's folder stand."""
    return out / "calls.sqlite"


class FiledChat:
    """A model in this process whose answers stand in a ledger: what it answered once it is not asked again.

    `weights` stand in the ledger's keys in the place of a model's name at an endpoint. An answer has what room the
    model's window leaves; a conversation that leaves none is a failure.
    """

    def __init__(
        self, model: Model, name: str, ledger: Ledger, *, weights: str, on_reply: OnReply | None = None
    ) -> None:
        self.name = name
        self._tokenizer = model.tokenizer
        self._window = window(model.network.config)
        self._chat = LocalChat(model, weights[:16], seed=SEED, slots=AT_ONCE)
        self._ledger = ledger
        self._weights = weights
        self._on_reply = on_reply

    def chat(self, calls: Sequence[Call]) -> list[Reply | Failure]:
        """One reply or failure for each call, in order."""
        outcomes: list[Reply | Failure] = []
        for start in range(0, len(calls), AT_ONCE):
            some = calls[start : start + AT_ONCE]
            answered = self._answered(some)
            outcomes += answered
            for call, outcome in zip(some, answered, strict=True):
                if self._on_reply:
                    self._on_reply(call, outcome)
        return outcomes

    def _answered(self, calls: Sequence[Call]) -> list[Reply | Failure]:
        bodies = [canonical(_body(call)) for call in calls]
        keys = [call_key(self.name, self._weights, body, call.draw) for call, body in zip(calls, bodies, strict=True)]
        room = [self._window - len(chat.prompt_ids(self._tokenizer, call.messages)) for call in calls]
        open_ = {
            key: at for at, key in enumerate(keys) if room[at] > 0 and self._ledger.get(key) is None
        }  # the same call twice is answered once
        asked = [replace(calls[at], max_tokens=min(calls[at].max_tokens, room[at])) for at in open_.values()]
        replies = self._chat.chat(asked) if asked else []
        for (key, at), reply in zip(open_.items(), replies, strict=True):
            assert isinstance(reply, Reply)
            attempt = self._ledger.sent(
                key, name=self.name, model=self._weights, request=bodies[at], draw=calls[at].draw
            )
            self._ledger.replied(attempt, reply)
        self._ledger.commit()
        too_long = f"the conversation leaves no room for an answer in the model's window of {self._window} tokens"
        return [self._ledger.get(key) or Failure(reason=too_long) for key in keys]


def _body(call: Call) -> dict[str, Any]:
    return {
        "messages": list(call.messages),
        "max_tokens": call.max_tokens,
        "temperature": call.temperature,
        "top_p": call.top_p,
        "seed": SEED,
    }
