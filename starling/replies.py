"""What an endpoint's answer over HTTP means: a reply, or a fault and whether to try again."""

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from starling import texts
from starling.endpoints import Endpoint
from starling.records import Reply

CUT, _BROKEN_OFF = ("length", "max_tokens", "model_length"), ("abort", "error", "cancelled")  # of finish_reason
_FILTERED = (b"content_filter", b"content_policy")  # in refusals of a prompt by OpenAI and Azure
_TOO_SLOW = (408, 504, 524)  # something between lost patience; who was asked may have answered, and charge for it
_MOST_TOKENS = 2**53  # a count beyond it is none
LONGEST_WAIT_SECONDS = 600.0  # an endpoint that asks for more, such as a spent day's quota, is not waited for


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """An attempt without a valid reply: worth another one, or the end of this call, or of all of them.

    `down` is whether the endpoint seems to take no calls at all, rather than not this one; the tokens are those it
    counted all the same; `uncertain` is whether it may have worked on the call, and charge for it, without our knowing;
    `mute` is as in `Failure`.
    """

    reason: str
    retry: bool = True
    fatal: bool = False
    unreachable: bool = False
    down: bool = False
    throttled: bool = False
    wait_seconds: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncertain: bool = False
    mute: bool = False


def text_of(content: Any) -> str:
    """A message's text, or a piece of it; some servers write it in parts."""
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content or ())


class Reader:
    """Reads the answers of one endpoint; `models` are the names that it gave for the model behind them."""

    def __init__(self, endpoint: Endpoint, key: str) -> None:
        self._endpoint = endpoint
        self._key = key
        self.models: set[str] = set()

    def read(
        self, status: int, headers: Mapping[str, str], payload: bytes, url: str, *, wants_logprobs: bool = False
    ) -> Reply | Fault:
        """What came back from `url`, as a reply or as what is wrong with it."""
        try:
            content = json.loads(payload)
        except (ValueError, RecursionError):
            content = None
        if 200 <= status < 300:
            return self._read_reply(content, payload, wants_logprobs)
        said = f"{status}: {self.plain(_complaint(content, payload))}"
        if status == 401:
            cause = "the key in " + self._endpoint.key_env if self._key else "calls without a key; set key_env"
            return Fault(reason=f"the endpoint refuses {cause} ({said})", fatal=True)
        if status == 404:
            return Fault(reason=f"no model {self._endpoint.model!r}, or no chat at {url} ({said})", fatal=True)
        if 300 <= status < 400:
            return Fault(reason=f"{url} sends calls on to another address; use that one ({said})", fatal=True)
        wait = _retry_after(headers.get("Retry-After", ""))
        spent = b"insufficient_quota" in payload or wait > LONGEST_WAIT_SECONDS
        retry = not spent and (status in (408, 409, 425, 429) or (status >= 500 and status != 501))
        reason = f"too many requests ({said})" if status == 429 else f"the endpoint answers {said}"
        down = retry and status in (429, 502, 503, 504)
        return Fault(
            reason=reason,
            retry=retry,
            down=down,
            throttled=retry and status == 429,
            wait_seconds=wait,
            uncertain=status in _TOO_SLOW,
            mute=status == 400 and any(sign in payload for sign in _FILTERED),
        )

    def _read_reply(self, content: Any, payload: bytes, wants_logprobs: bool) -> Reply | Fault:
        try:
            choice = content["choices"][0]
            text = text_of(choice["message"].get("content"))
            usage = content.get("usage") or {}
            tokens = [_count(usage.get(name)) for name in ("prompt_tokens", "completion_tokens")]
            finish = choice.get("finish_reason")
        except (TypeError, KeyError, IndexError, AttributeError, ValueError, OverflowError):
            said = self.plain(_complaint(content, payload))
            return Fault(reason=f"the reply is no chat completion: {said}", uncertain=True)
        if isinstance(named := content.get("model"), str):
            self.models.add(named)
        counted: Any = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
        if wants_logprobs:
            return _first_logprobs(choice, counted)
        text = text.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be stored
        if self._endpoint.strip_thinking and text.lstrip().startswith("<think>"):
            text = text.partition("</think>")[2].lstrip()
        if finish == "content_filter":
            return Fault(reason="the provider's content filter stopped the reply", retry=False, mute=True, **counted)
        if finish in _BROKEN_OFF:
            return Fault(reason=f"the endpoint broke the reply off ({finish})", uncertain=True, **counted)
        if not text.strip() and finish in CUT:
            said = "the token cap was reached before any text; raise max_tokens"
            return Fault(reason=said, retry=False, mute=True, **counted)
        if not text.strip():
            return Fault(reason="the reply is empty", mute=True, **counted)
        return Reply(text=text, finished=finish not in CUT, **counted)

    def plain(self, text: object) -> str:
        """One short line without the endpoint's key."""
        return texts.passed_on(text, self._key)


def _count(told: Any) -> int:
    count = int(told or 0)
    return count if 0 <= count < _MOST_TOKENS else 0


def _first_logprobs(choice: Mapping[str, Any], counted: Any) -> Reply | Fault:
    """The likeliest first tokens with their log-probabilities, as a reply's text."""
    try:
        listed = choice["logprobs"]["content"][0]["top_logprobs"]
        found = {str(one["token"]): float(one["logprob"]) for one in listed}
    except (TypeError, KeyError, IndexError, ValueError):
        found = {}
    if not found:
        said = "the endpoint gives no log-probabilities of tokens, though it was asked for them"
        return Fault(reason=said, fatal=True, **counted)
    return Reply(text=json.dumps(found), finished=True, **counted)


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
    return str(said or payload.decode(errors="replace") or "no text")
