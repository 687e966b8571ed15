"""Conversations as messages and as Nectar's text, one from the other; and what is none."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from starling.errors import DataError
from starling.records import Message

_NAMES = {"user": "Human", "assistant": "Assistant", "system": "System"}
_ROLES = {name: role for role, name in _NAMES.items()}
_MARKS = re.compile(
    r"\[/?INST\]|<</?SYS>>|</?s>|<\|im_start\|>(?:user|assistant|system)\b|<\|im_(?:start|end)\|>"
    r"|^(?:#|[^\S\n])*+(?:human|assistant|user|system|instruction)\s*:",
    re.IGNORECASE | re.MULTILINE,
)
_TURN = re.compile(r"\n\n(Human(?=: )|Assistant): ?")


def text_from_messages(messages: Sequence[Message]) -> str:
    """Nectar's prompt text: Human and Assistant turns, ending on an empty assistant turn."""
    _check_roles(messages, "prompt")
    return "".join(f"\n\n{_NAMES[m['role']]}: {m['content']}" for m in messages) + "\n\nAssistant: "


def messages_from_text(text: str) -> list[Message]:
    """The turns of a prompt in Nectar's text form, and what stands before them as the system's.

    That form begins with a turn or ends on an empty one of the assistant. Any other text is one user message, also
    where it quotes turns.
    """
    head, *pieces = _TURN.split(text)
    begins = not head.strip() or head.startswith("\n\nSystem: ")
    waits = pieces[-2:-1] == ["Assistant"] and not pieces[-1].strip()
    if not pieces or not (begins or waits):
        return [Message(role="user", content=text)]
    turns = [Message(role=_ROLES[name], content=turn) for name, turn in zip(pieces[::2], pieces[1::2], strict=True)]
    waiting = turns[:-1] if not turns[-1]["content"].strip() else turns
    system = [Message(role="system", content=head.removeprefix("\n\nSystem: "))] if head.strip() else []
    return [*system, *waiting]


def text_of(messages: Sequence[Message]) -> str:
    """A conversation as one text."""
    return "\n".join(message["content"] for message in messages)


def without_marks(text: str) -> str:
    """A text without the marks by which files tell whose turn it is: "Human:", "[INST]", "<|im_start|>user"."""
    return _MARKS.sub("", text)


def as_messages(prompt: Any) -> Any:
    """A prompt's turns where it is a text; what is none stays as it is."""
    return messages_from_text(prompt) if isinstance(prompt, str) else prompt


def check_messages(messages: Any, where: str) -> None:
    """Refuse what is no conversation that waits for an answer."""
    if not isinstance(messages, list) or not messages:
        raise DataError(f"{where}: `messages` must be a list of at least one turn")
    for message in messages:
        if not is_message(message):
            raise DataError(f"{where}: every message needs a `role` and a text `content`")
        if not message["content"].strip():
            raise DataError(f"{where}: the {message['role']}'s message is empty; fill it or take the row out")
    _check_roles(messages, where)
    if messages[-1]["role"] != "user":
        raise DataError(f"{where}: the last message is the {messages[-1]['role']}'s; a prompt ends on the user's")


def _check_roles(messages: Sequence[Message], where: str) -> None:
    for message in messages:
        if message["role"] not in _NAMES:
            raise DataError(f"{where}: role {message['role']!r} is not one of {', '.join(_NAMES)}")


def is_message(value: Any) -> bool:
    """Whether this has the form of a message: a role and a text."""
    return isinstance(value, Mapping) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)
