"""What Ollama is told about a GGUF file: how a conversation is written, where an answer ends, how to sample."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from starling import chat
from starling.errors import ModelError
from starling.records import Message

_ROLES = ("system", "user", "assistant")
_SYSTEM, _USER, _ANSWER, _AGAIN = "SYSTEM-TEXT", "USER-TEXT", "ANSWER-TEXT", "AGAIN-TEXT"
MARK = "# written by starling export"
_SAMPLING = ("temperature", "top_p", "top_k", "min_p")


class Turns(NamedTuple):
    """What a chat template writes before and after the text of each role, where a conversation begins with what is
    `system` by default ("" = nothing), and what asks for an answer."""

    before: Mapping[str, str]
    after: Mapping[str, str]
    system: str
    opening: str

    def render(self, messages: Sequence[Message]) -> str:
        first: list[Message] = [Message(role="system", content=self.system)] if self.system else []
        said = [*(first if messages[0]["role"] != "system" else []), *messages]
        return "".join(self.before[m["role"]] + m["content"] + self.after[m["role"]] for m in said) + self.opening


def turns(tokenizer: Any, adds_bos: bool) -> Turns | None:
    """The template of `tokenizer` as turns that stand one after the other; None where it is no such template.

    `adds_bos`: whether whoever reads the file puts the first token there itself.
    """

    def written(*messages: tuple[str, str], opening: bool = False) -> str:
        said = [Message(role=role, content=content) for role, content in messages]
        text = chat.rendered(tokenizer, said, waiting=opening)
        return text.removeprefix(tokenizer.bos_token) if adds_bos else text

    system, user, answer, again = zip((*_ROLES, "user"), (_SYSTEM, _USER, _ANSWER, _AGAIN), strict=True)
    try:
        whole, alone = written(system, user, answer, again), written(user)
        opened = written(system, user, answer, again, opening=True)
    except ModelError:
        return None
    parts = _between(whole, (_SYSTEM, _USER, _ANSWER, _AGAIN))
    lead = _between(alone, (_USER,))
    if parts is None or lead is None or not opened.startswith(whole):
        return None
    before_system, to_user, to_answer, to_again, end = parts
    begins_with_user = to_user.endswith(lead[0])  # else with a system's text of its own
    before_user = lead[0] if begins_with_user else to_user.removeprefix(end)
    found = Turns(
        before={"system": before_system, "user": before_user, "assistant": to_answer.removeprefix(end)},
        after={
            "system": to_user.removesuffix(before_user),
            "user": end,
            "assistant": to_again.removesuffix(before_user),
        },
        system="" if begins_with_user else lead[0].removesuffix(to_user).removeprefix(before_system),
        opening=opened[len(whole) :],
    )
    for said in ([user], [user, answer, again], [system, user], [system, user, answer, again]):
        if found.render([Message(role=role, content=text) for role, text in said]) != written(*said, opening=True):
            return None
    return found


def _between(text: str, marks: Sequence[str]) -> list[str] | None:
    """What stands before, between and after the marks; None where one is missing or out of place."""
    found = []
    for mark in marks:
        head, met, text = text.partition(mark)
        if not met:
            return None
        found.append(head)
    return [*found, text]


def text(gguf: str, found: Turns | None, stops: Sequence[str], settings: Mapping[str, Any], context: int) -> str:
    """The Modelfile of a GGUF file beside it. Without turns Ollama goes by the template that the file itself holds."""
    lines = [MARK, f"FROM ./{gguf}", f"PARAMETER num_ctx {context}"]
    lines += [f"PARAMETER {name} {settings[name]}" for name in _SAMPLING if settings.get(name) is not None]
    if settings and not settings.get("do_sample"):
        lines = [*lines[:3], "PARAMETER temperature 0"]
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    if found is not None and not any(mark in part for part in _literals(found) for mark in ('"""', "{{")):
        roles = [f'eq .Role "{role}" }}}}{found.before[role]}{{{{ .Content }}}}{found.after[role]}' for role in _ROLES]
        body = "{{ else if ".join(roles)
        lines.append(
            f'TEMPLATE """{{{{- range .Messages }}}}{{{{ if {body}{{{{ end }}}}{{{{ end }}}}{found.opening}"""'
        )
        lines += [f'SYSTEM """{found.system}"""'] if found.system else []
    return "\n".join(lines) + "\n"


def _literals(found: Turns) -> list[str]:
    return [*found.before.values(), *found.after.values(), found.system, found.opening]
