"""What a judge says of answers to a benchmark's questions: asked through the ledger, read strictly, never made up.

What is shown stands between borders with a tag of its own (`judges.frame`), so no answer can pass for the frame.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import Template
from typing import Any, NamedTuple

from starling.judges import frame
from starling.judges.asking import Output, template_text
from starling.judges.parse import Unparsed, Verdict
from starling.judges.parse_json import read_object
from starling.judges.protocol import Chat
from starling.records import Call, Failure
from starling.speakers import Speaker

ATTEMPTS = 2  # how often a judge is asked at most until its reply can be read
MAX_TOKENS = 2048  # of a judge's reply, as in FastChat


class Form(NamedTuple):
    """A kind of verdict: how a reply in words is read, and how an object of the JSON schema is."""

    read_text: Callable[[str], Verdict]
    read_json: Callable[[dict[str, Any]], Verdict]
    schema: Mapping[str, Any]


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


def template_hash(name: str, output: Output = "text") -> str:
    """Tells the wording of a template, with how to reply, from every other."""
    return hashlib.sha256(template_text(name, output).encode()).hexdigest()[:16]


def ask(chat: Chat, showings: Sequence[Showing], form: Form, *, output: Output = "text", seed: int = 0) -> list[Heard]:
    """The verdict on each showing, in order; one that cannot be read is asked for once more, then stays Unparsed."""
    schema = form.schema if output == "json" else None
    heard = [Heard(id=showing.id, verdict=Unparsed("not asked")) for showing in showings]
    waiting = list(zip(showings, heard, strict=True))
    for attempt in range(ATTEMPTS):
        calls = [call_of(showing, seed, attempt, schema) for showing, _ in waiting]
        unread = []
        for (showing, one), call, outcome in zip(waiting, calls, chat.chat(calls) if calls else [], strict=True):
            one.prompt, one.key = call.messages[0]["content"], outcome.key
            if isinstance(outcome, Failure):  # the client has tried it again already
                one.verdict = Unparsed(outcome.reason)
                continue
            one.reply = outcome.text
            one.verdict = _read(outcome.text, form, output)
            if not outcome.finished:  # its last word was not said
                one.verdict = Unparsed(f"the reply was cut off at {MAX_TOKENS} tokens")
            if isinstance(one.verdict, Unparsed):
                unread.append((showing, one))
        waiting = unread
    return heard


def _read(reply: str, form: Form, output: Output) -> Verdict:
    if output == "text":
        return form.read_text(frame.without_quotes(reply))
    if not reply.strip():
        return Unparsed("an empty reply")
    found = read_object(reply)
    return found if isinstance(found, Unparsed) else form.read_json(found)


def call_of(showing: Showing, seed: int, attempt: int, schema: Mapping[str, Any] | None = None) -> Call:
    """The call of an attempt, in words or by a JSON schema; its tag follows from the seed and all that is shown."""
    shown = [text for pair in showing.texts for text in pair]
    identity = "\0".join([str(seed), str(attempt), showing.template, *shown])
    tag = hashlib.sha256(identity.encode("utf-8", "replace")).hexdigest()[:8]
    texts = "\n\n".join(
        frame.block(name, tag, frame.defuse(text, showing.answers, tag)) for name, text in showing.texts
    )
    template = template_text(showing.template, "text" if schema is None else "json")
    content = Template(template).substitute(tag=tag, texts=texts)
    return Call(messages=[{"role": "user", "content": content}], max_tokens=MAX_TOKENS, draw=attempt, schema=schema)


def tokens_alone(schema: Mapping[str, Any]) -> int:
    """About how many tokens a verdict of a JSON schema takes: one for each character of the longest, written in a line.

    A word takes fewer, but judges that are held to a schema also write line breaks and indentation: SmolLM2 took 15 to
    17 tokens where this says 14 and 17.
    """
    return len(_longest(schema))


def _longest(schema: Mapping[str, Any]) -> str:
    """The longest that a schema of objects, choices and bounded numbers allows."""
    if schema["type"] == "object":
        said = (f"{json.dumps(key)}: {_longest(value)}" for key, value in schema["properties"].items())
        return "{" + ", ".join(said) + "}"
    values = schema["enum"] if "enum" in schema else (schema["minimum"], schema["maximum"])
    return max(map(json.dumps, values), key=len)


def identity_of(speaker: Speaker, template: str, output: Output = "text") -> dict[str, Any]:
    """Who judges: the model, and the hash of the wording that it is asked by."""
    found = dict(speaker.identity)
    if "template_hash" in found:  # that of its chat template
        found["chat_template_hash"] = found.pop("template_hash")
    return found | {"template_hash": template_hash(template, output)} | ({"output": output} if output == "json" else {})
