"""What a request to the server wants, checked: the fields of OpenAI's API that a model here can honour."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from starling.errors import StarlingError
from starling.records import Message

MAX_CHOICES = 128  # of one request, over its prompts
MAX_STOPS, LONGEST_STOP = 16, 1000  # texts on which an answer ends, and characters of each
# What may be given as long as it asks for nothing; None always may.
_NEUTRAL: Mapping[str, Sequence[Any]] = {
    "best_of": (1,), "echo": (False,), "frequency_penalty": (0,), "function_call": ("none", "auto"), "functions": ([],),
    "logit_bias": ({},), "logprobs": (False,), "parallel_tool_calls": (True, False), "presence_penalty": (0,),
    "response_format": ({"type": "text"},), "service_tier": ("auto", "default"), "store": (False,), "suffix": ("",),
    "tool_choice": ("none", "auto"), "tools": ([],), "top_logprobs": (),
}  # fmt: skip
_UNREAD = ("user", "metadata", "safety_identifier")  # say who asks, not what is wanted


class Refused(StarlingError):
    """A request that the server does not serve, with the HTTP status and OpenAI's code and parameter for it.

    `again_seconds` is after what time the same request may be served; None where it never will be.
    """

    def __init__(
        self, message: str, *, status: int = 400, code: str | None = None, param: str | None = None,
        again_seconds: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.code, self.param, self.again_seconds = status, code, param, again_seconds


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _StreamOptions(_Body):
    include_usage: bool = False


class Sampled(_Body):
    """What chat and plain completions have in common; None is the server's default."""

    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None

    @field_validator("stop")
    @classmethod
    def _are_few(cls, stop: str | list[str] | None) -> str | list[str] | None:
        stops = [stop] if isinstance(stop, str) else stop or []
        if len(stops) > MAX_STOPS or not all(0 < len(text) <= LONGEST_STOP for text in stops):
            said = f"stop: at most {MAX_STOPS} texts of 1 to {LONGEST_STOP:,} characters end an answer"
            raise Refused(said, code="invalid_value", param="stop")
        return stop

    @property
    def stops(self) -> list[str]:
        """The texts on which an answer ends."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def with_usage(self) -> bool:
        """Whether a stream is to end on its usage counts."""
        return bool(self.stream_options and self.stream_options.include_usage)


class _Part(_Body):
    type: str
    text: str | None = None


class _Turn(_Body):
    role: str
    content: str | list[_Part]
    name: None = None
    refusal: None = None


class Chat(Sampled):
    """A conversation that waits for an answer."""

    messages: Annotated[list[_Turn], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None

    @property
    def limit(self) -> int | None:
        """The most tokens of an answer."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def turns(self) -> list[Message]:
        """The conversation as chat templates read it."""
        return [_message(turn, f"messages[{at}]") for at, turn in enumerate(self.messages)]


class Completion(Sampled):
    """Texts, or their token ids, that are to be gone on with."""

    prompt: str | list[str] | list[int] | list[list[int]]

    @property
    def prompts(self) -> Sequence[str | list[int]]:
        """One entry a prompt."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        ids = [one for one in self.prompt if isinstance(one, int)]
        return [ids] if ids else [one for one in self.prompt if not isinstance(one, int)]


class _Scored(_Body):
    answers: Annotated[list[str], Field(min_length=1)]
    prompt: str | None = None
    messages: list[_Turn] | None = None


class Scores(_Body):
    """Prompts with answers of which the rewards are wanted."""

    inputs: Annotated[list[_Scored], Field(min_length=1)]
    model: str | None = None
    scaled: bool = False

    @property
    def prompts(self) -> list[str | list[Message]]:
        """The prompt or the conversation of each input."""
        found: list[str | list[Message]] = []
        for at, row in enumerate(self.inputs):
            if (row.prompt is None) == (row.messages is None):
                raise Refused(f"inputs[{at}]: give either prompt or messages", param="inputs")
            turns = [
                _message(turn, f"inputs[{at}].messages[{number}]") for number, turn in enumerate(row.messages or ())
            ]
            found.append(turns if row.prompt is None else row.prompt)
        return found


Kind = TypeVar("Kind", bound=_Body)


def read(kind: type[Kind], body: Any) -> Kind:
    """The body of a request as `kind`; what cannot be honoured is refused by name."""
    if not isinstance(body, dict):
        raise Refused("the body is to be a JSON object")
    kept = {}
    for key, value in body.items():
        if key in kind.model_fields or key not in (*_NEUTRAL, *_UNREAD):
            kept[key] = value
        elif key in _NEUTRAL and value is not None and not any(_same(value, neutral) for neutral in _NEUTRAL[key]):
            raise Refused(f"{key} is not supported here; leave it out", code="unsupported_parameter", param=key)
    try:
        return kind.model_validate(kept)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        param = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise Refused(
                f"{param} is not known here; leave it out", code="unsupported_parameter", param=param
            ) from error
        raise Refused(f"{param}: {first['msg']}", code="invalid_value", param=param) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What a model's window leaves for an answer to a prompt."""

    window: int
    prompt_tokens: int

    def limit(self, wanted: int | None) -> int:
        """The most tokens of the answer; refuses what does not fit."""
        left = self.window - self.prompt_tokens
        if left < 1 or (wanted or 0) > left:
            answer = f" and up to {wanted:,} of the answer" if wanted else ""
            raise Refused(
                f"the model's window is {self.window:,} tokens; the prompt takes {self.prompt_tokens:,}{answer}",
                code="context_length_exceeded",
                param="messages",
            )
        return wanted or left


def _same(value: Any, neutral: Any) -> bool:
    return bool(value == neutral) and isinstance(value, bool) == isinstance(neutral, bool)


def _message(turn: _Turn, where: str) -> Message:
    role = "system" if turn.role == "developer" else turn.role
    if role not in ("system", "user", "assistant"):
        raise Refused(f"{where}.role is {role!r}; system, user and assistant are known here", param="messages")
    if isinstance(turn.content, str):
        return Message(role=role, content=turn.content)
    other = next((part.type for part in turn.content if part.type != "text" or part.text is None), None)
    if other is not None:
        raise Refused(f"{where}.content has a part of type {other!r}; only text is read here", param="messages")
    return Message(role=role, content="".join(part.text or "" for part in turn.content))
