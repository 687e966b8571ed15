"""Asking a language model: the one place where a template, a chat model and a strict reading meet.

What an answer says cannot pass for the frame around it, a reply that cannot be read is asked for again and never a
verdict, and the same question meets its reply in the ledger.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from random import Random
from string import Template
from typing import Literal

from starling.judges import frame
from starling.judges.parse import Unparsed, letters
from starling.judges.parse_json import read_object
from starling.judges.protocol import Chat
from starling.judges.strategy import Said, Strategy
from starling.records import Call, Candidate, Failure, Prompt, Reply

Output = Literal["text", "json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One thing to ask: which answers of a prompt are shown, in which order, for the how-manyth time."""

    item: int
    prompt: Prompt
    answers: Sequence[Candidate]
    shown: Sequence[int]
    repeat: int = 0


@dataclass(slots=True, kw_only=True)
class Heard:
    """What came of a look: every reply, what the last one says, and the ledger's keys of the calls."""

    look: Look
    said: Said
    attempts: list[tuple[str, Said]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)


def template_text(name: str, output: Output) -> str:
    """A strategy's template: what both forms of reply share, then how to reply in this one."""
    whole = files("starling.judges").joinpath(f"templates/{name}.txt").read_text(encoding="utf-8")
    shared, *parts = re.split(r"^=== (\w+)\n", whole, flags=re.MULTILINE)
    return shared + dict(zip(parts[::2], parts[1::2], strict=True))[output]


class Asker:
    """Puts looks to a chat model by one strategy; everything random follows from `seed`, the prompt and its answers.

    `attempts` bounds how often a look is asked about whose reply cannot be read.
    """

    def __init__(
        self, chat: Chat, strategy: Strategy, *, seed: int, max_tokens: int, attempts: int, output: Output
    ) -> None:
        text = template_text(strategy.name, output)
        self.template_hash = hashlib.sha256(text.encode()).hexdigest()[:16]
        self._template = Template(text)
        self._chat = chat
        self._strategy = strategy
        self._seed = seed
        self._max_tokens = max_tokens
        self._attempts = attempts
        self._output = output

    def hear(self, looks: Sequence[Look]) -> list[Heard]:
        """What the model says to each look, in order."""
        heard = [Heard(look=look, said=Said(Unparsed("not asked"))) for look in looks]
        waiting = heard
        for attempt in range(self._attempts):
            calls = [self._call(one.look, attempt) for one in waiting]
            unread = []
            for one, outcome in zip(waiting, self._chat.chat(calls) if calls else [], strict=True):
                one.said = self._read(outcome, len(one.look.shown))
                one.keys += [outcome.key] if outcome.key else []
                if isinstance(outcome, Failure):  # the client has tried it again already
                    continue
                one.attempts.append((outcome.text, one.said))
                if isinstance(one.said.verdict, Unparsed):
                    unread.append(one)
            waiting = unread
        return heard

    def _call(self, look: Look, attempt: int) -> Call:
        k = len(look.shown)
        shown = [look.answers[index].answer for index in look.shown]
        times = f"{attempt} repeat {look.repeat}" if look.repeat else str(attempt)
        identity = "\0".join([str(self._seed), times, look.prompt.id, *shown])
        digest = hashlib.sha256(identity.encode("utf-8", "replace")).hexdigest()
        tag = digest[:8]
        text = self._template.substitute(
            k=k,
            tag=tag,
            labels=", ".join(letters(k)),
            conversation=frame.conversation(look.prompt.messages, k, tag),
            answers=frame.answers(shown, tag),
            **self._strategy.fields(look.prompt, k, tag, Random(digest)),
        )
        return Call(
            messages=[{"role": "user", "content": text}],
            max_tokens=self._max_tokens,
            draw=attempt,
            schema=self._strategy.schema(k) if self._output == "json" else None,
        )

    def _read(self, outcome: Reply | Failure, k: int) -> Said:
        if isinstance(outcome, Failure):
            return Said(Unparsed(outcome.reason))
        if self._output == "text":
            said = self._strategy.read_text(frame.without_quotes(outcome.text), k)
        else:
            found = read_object(outcome.text)
            said = Said(found) if isinstance(found, Unparsed) else self._strategy.read_json(found, k)
        if not outcome.finished:  # its last word was not said
            said = said._replace(verdict=Unparsed(f"the reply was cut off at {self._max_tokens} tokens"))
        return said
