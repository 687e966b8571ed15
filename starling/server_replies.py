"""The shapes in which the server answers: OpenAI's, so that its clients read them."""

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


@dataclass(slots=True, kw_only=True)
class Choice:
    """One answer as far as it has come; `finish` is "stop", "length", or None while it is under way."""

    index: int
    text: str = ""
    finish: str | None = None
    tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What all replies to one request have in common; `chat` tells messages from bare text."""

    model: str
    chat: bool
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, choices: Sequence[Choice], prompt_tokens: int) -> dict[str, Any]:
        """The reply to a request that does not stream."""
        found = [self._choice(choice.index, choice.text, choice.finish, "message") for choice in choices]
        kind = "chat.completion" if self.chat else "text_completion"
        return self._head(kind) | {"choices": found, "usage": usage(choices, prompt_tokens)}

    def chunk(self, index: int, text: str, finish: str | None = None) -> dict[str, Any]:
        """A piece of a stream."""
        return self._stream([self._choice(index, text, finish, "delta")])

    def last_chunk(self, choices: Sequence[Choice], prompt_tokens: int) -> dict[str, Any]:
        """The piece that has no text but the usage counts."""
        return self._stream([]) | {"usage": usage(choices, prompt_tokens)}

    def _stream(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return self._head("chat.completion.chunk" if self.chat else "text_completion") | {"choices": choices}

    def _head(self, kind: str) -> dict[str, Any]:
        prefix = "chatcmpl" if self.chat else "cmpl"
        return {"id": f"{prefix}-{self.id}", "object": kind, "created": self.created, "model": self.model}

    def _choice(self, index: int, text: str, finish: str | None, part: str) -> dict[str, Any]:
        said = {part: {"role": "assistant", "content": text}} if self.chat else {"text": text}
        return {"index": index, **said, "logprobs": None, "finish_reason": finish}


def usage(choices: Sequence[Choice], prompt_tokens: int) -> dict[str, int]:
    """Tokens read and drawn; each prompt counts once, however many answers it gets."""
    drawn = sum(choice.tokens for choice in choices)
    return {"prompt_tokens": prompt_tokens, "completion_tokens": drawn, "total_tokens": prompt_tokens + drawn}


def error(message: str, status: int, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """What a client shows of a request that failed."""
    kind = _KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def models(names: Sequence[str], created: int) -> dict[str, Any]:
    """The list of what can be asked."""
    rows = [{"id": name, "object": "model", "created": created, "owned_by": "starling"} for name in names]
    return {"object": "list", "data": rows}


def rewards(model: str, found: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Rewards by input, in the order of its answers."""
    rows = [{"index": at, "object": "rewards", "rewards": list(row)} for at, row in enumerate(found)]
    return {"object": "list", "model": model, "data": rows}


def event(content: dict[str, Any]) -> bytes:
    """A piece of a stream as server-sent events are written."""
    return b"data: " + json.dumps(content).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
