"""Contestants whose answers are scripted."""

from collections.abc import Callable, Sequence
from threading import Event

from starling.records import Call, Failure, Reply
from starling.speakers import Contestant


class Scripted:
    """A chat model that answers with a function of the call, and remembers what it was asked."""

    def __init__(self, name: str, write: Callable[[Call], str | Failure]) -> None:
        self.name = name
        self.asked: list[Call] = []
        self._write = write

    def chat(self, calls: Sequence[Call], given_up: Event | None = None) -> list[Reply | Failure]:
        self.asked += calls
        said = [self._write(call) for call in calls]
        return [each if isinstance(each, Failure) else Reply(text=each, finished=True) for each in said]


def scripted(name: str, write: Callable[[Call], str | Failure] | None = None) -> Contestant:
    def answers(call: Call) -> str:
        return f"{name} on {call.messages[-1]['content']}"

    return Contestant(name, Scripted(name, write or answers), max_tokens=8, temperature=0.5)
