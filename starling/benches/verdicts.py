"""What a judge says of answers to a benchmark's questions: asked through the ledger, read strictly, never made up.

What is shown stands between borders with a tag of its own (`judges.frame`), so no answer can pass for the frame.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from string import Template
from typing import Any

from starling.judges import frame
from starling.judges.asking import template_text
from starling.judges.parse import Unparsed, Verdict
from starling.judges.protocol import Chat
from starling.records import Call, Failure
from starling.speakers import Speaker

ATTEMPTS = 2  # how often a judge is asked at most until its reply can be read
MAX_TOKENS = 2048  # of a judge's reply, as in FastChat

Read = Callable[[str], Verdict]


@dataclass(frozen=True, slots=True, kw_only=True)
class Showing:
    """One thing to ask a judge: by which template, and the texts that it is shown, each with the name on its border.

    A name begins with "user", "answer", "reference" or "conversation". `answers` is how many answers are compared.
    """

    id: str
    template: str
    texts: Sequence[tuple[str, str]]
    answers: int = 1


@dataclass(slots=True, kw_only=True)
class Heard:
    """What came of a showing: the verdict, the prompt and the reply that it was read from, the ledger's key."""

    id: str
    verdict: Verdict
    prompt: str = ""
    reply: str = ""
    key: str = ""


def template_hash(*names: str) -> str:
    """Tells the wording of these templates from every other."""
    text = "\0".join(template_text(name, "text") for name in names)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def ask(chat: Chat, showings: Sequence[Showing], read: Read, *, seed: int = 0) -> list[Heard]:
    """The verdict on each showing, in order; one that cannot be read is asked for once more, then stays Unparsed."""
    heard = [Heard(id=showing.id, verdict=Unparsed("not asked")) for showing in showings]
    waiting = list(zip(showings, heard, strict=True))
    for attempt in range(ATTEMPTS):
        calls = [call_of(showing, seed, attempt) for showing, _ in waiting]
        unread = []
        for (showing, one), call, outcome in zip(waiting, calls, chat.chat(calls) if calls else [], strict=True):
            one.prompt, one.key = call.messages[0]["content"], outcome.key
            if isinstance(outcome, Failure):  # the client has tried it again already
                one.verdict = Unparsed(outcome.reason)
                continue
            one.reply = outcome.text
            one.verdict = read(frame.without_quotes(outcome.text))
            if not outcome.finished:  # its last word was not said
                one.verdict = Unparsed(f"the reply was cut off at {MAX_TOKENS} tokens")
            if isinstance(one.verdict, Unparsed):
                unread.append((showing, one))
        waiting = unread
    return heard


def call_of(showing: Showing, seed: int, attempt: int) -> Call:
    """The call of an attempt; its tag follows from the seed and all that is shown."""
    shown = [text for pair in showing.texts for text in pair]
    identity = "\0".join([str(seed), str(attempt), showing.template, *shown])
    tag = hashlib.sha256(identity.encode("utf-8", "replace")).hexdigest()[:8]
    texts = "\n\n".join(
        frame.block(name, tag, frame.defuse(text, showing.answers, tag)) for name, text in showing.texts
    )
    content = Template(template_text(showing.template, "text")).substitute(tag=tag, texts=texts)
    return Call(messages=[{"role": "user", "content": content}], max_tokens=MAX_TOKENS, draw=attempt)


def identity_of(speaker: Speaker, *templates: str) -> dict[str, Any]:
    """Who judges: the model, and the hash of the wording that it is asked by."""
    found = dict(speaker.identity)
    if "template_hash" in found:  # that of its chat template
        found["chat_template_hash"] = found.pop("template_hash")
    return found | {"template_hash": template_hash(*templates)}
