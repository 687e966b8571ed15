"""AlpacaEval's two outputs to an instruction, as a judge is shown them, and what its reply makes of them.

A preference is 1 where the rival is better, 2 where the model is. Version 1 reads a verdict, a tie is 1.5; version 2
reads the judge's log-probabilities of the two letters as its first token:

    preference = 1 + P(letter of the model) / (P(A) + P(B))

Shown in both orders, an instruction has the mean of both; so two verdicts that contradict each other are a draw.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from starling import models, progress
from starling.account import Account
from starling.benches import answers, scoring, verdicts
from starling.benches.answers import Answers
from starling.benches.verdicts import Form, Heard, Showing
from starling.judges import pairwise, ranks
from starling.judges.asking import Output
from starling.judges.parse import Ranked, Tied, Unparsed, parse_winner, ranks_of
from starling.judges.parse_json import read_winner
from starling.judges.protocol import Chat
from starling.ledger import Ledger
from starling.records import Call, Failure
from starling.speakers import SEED, open_speaker

VERDICT, LETTER = TEMPLATES = ("alpaca_pair", "alpaca_letter")  # of version 1 and of version 2
FORM = Form(parse_winner, read_winner, pairwise.STRATEGY.schema(2))  # of version 1
LONGEST = "Winner: [[tie]]"  # reply of version 1 in words
TOP = 20  # log-probabilities that are asked for: the most that OpenAI gives
RIVAL, MODEL = 1.0, 2.0


class Pair(NamedTuple):
    """Two outputs to an instruction."""

    instruction: str
    rival: str
    model: str


class Preferred(NamedTuple):
    """A preference, or None and why; and what the judge said in each order."""

    preference: float | None
    reason: str
    replies: Sequence[str]


class Judged(NamedTuple):
    """Who judged, in full and in a line with what it was asked by; its preference on each pair, in order."""

    identity: dict[str, Any]
    label: str
    said: list[Preferred]


def template_of(version: int) -> str:
    """The template by which a version asks."""
    return TEMPLATES[version - 1]


def pairs(ours: Answers, theirs: Answers) -> list[Pair]:
    """The outputs to each instruction that both sides answered."""
    rival = theirs.by_question
    return [
        Pair(instruction, rival[instruction][0], output)
        for instruction, (output,) in ours.by_question.items()
        if instruction in rival
    ]


def orders_of(pair: Pair, seed: int, *, one_order: bool) -> list[bool]:
    """Whether the model's output is shown first, in each look at the pair; which one comes first is drawn by seed."""
    digest = hashlib.sha256(f"{seed}\0{pair.instruction}".encode("utf-8", "replace")).digest()
    first = bool(digest[0] % 2)
    return [first] if one_order else [first, not first]


def showing_of(pair: Pair, version: int, *, model_first: bool) -> Showing:
    """A pair as a judge is shown it: instruction, answer A, answer B."""
    a, b = (pair.model, pair.rival) if model_first else (pair.rival, pair.model)
    return Showing(
        id=f"{pair.instruction} {'model' if model_first else 'rival'} first",
        template=template_of(version),
        texts=[("user", pair.instruction), ("answer A", a), ("answer B", b)],
        answers=2,
    )


def call_of(pair: Pair, version: int, output: Output, *, model_first: bool) -> Call:
    """The first call about a pair."""
    schema = FORM.schema if output == "json" else None
    return verdicts.call_of(showing_of(pair, version, model_first=model_first), SEED, 0, schema)


def tokens_of(version: int, output: Output) -> int:
    """About how many tokens a judge's reply takes: no version asks for an explanation."""
    if version == 2:
        return 1
    return verdicts.tokens_alone(FORM.schema) if output == "json" else len(LONGEST)


def judged(
    name: str,
    pairs: Sequence[Pair],
    version: int,
    ledger: Ledger,
    *,
    one_order: bool,
    output: Output = "text",
    account: Account | None = None,
) -> Judged:
    """What MODEL says of the pairs: a reward model by its rewards, any other asked by the version's template."""
    if scoring.is_reward_model(name, account):
        identity = models.identity(name)
        return Judged(identity, f"{identity['name']}, rewards", compare(name, pairs))
    with progress.track("verdicts", (1 if one_order else 2) * len(pairs), "verdicts") as advance:
        speaker = open_speaker(name, ledger, lambda call, reply: advance(1), account)
        said = judge(speaker.chat, pairs, version, seed=SEED, one_order=one_order, output=output)
    identity = verdicts.identity_of(speaker, template_of(version), output)
    return Judged(identity, f"{identity['name']}, v{version}, template {identity['template_hash']}", said)


def judge(
    chat: Chat, pairs: Sequence[Pair], version: int, *, seed: int, one_order: bool, output: Output = "text"
) -> list[Preferred]:
    """The judge's preference on each pair, in order; one that cannot be read in any of its orders has none."""
    looks = [(at, first) for at, pair in enumerate(pairs) for first in orders_of(pair, seed, one_order=one_order)]
    showings = [showing_of(pairs[at], version, model_first=first) for at, first in looks]
    heard: list[tuple[float | Unparsed, str]]
    if version == 1:
        asked = verdicts.ask(chat, showings, FORM, output=output, seed=seed)
        heard = [(_share_of_a(one), one.reply) for one in asked]
    else:
        heard = _by_letter(chat, showings, seed)
    found: list[list[tuple[float | Unparsed, str]]] = [[] for _ in pairs]
    for (at, model_first), (share, reply) in zip(looks, heard, strict=True):
        own = share if isinstance(share, Unparsed) or model_first else 1 - share
        found[at].append((own, reply))
    return [_preferred(both) for both in found]


def compare(reward_model: str, pairs: Sequence[Pair]) -> list[Preferred]:
    """A reward model's preference on each pair: the output with the higher reward, whatever the order."""
    shown = []
    for pair in pairs:
        messages = answers.conversation([pair.instruction], [])
        shown.append(((messages, pair.model), (messages, pair.rival)))
    return [_preferred([(_share_of_a(heard), heard.reply)]) for heard in scoring.compare(reward_model, shown)]


def _preferred(looks: Sequence[tuple[float | Unparsed, str]]) -> Preferred:
    replies = [reply for _, reply in looks]
    unread = [share.reason for share, _ in looks if isinstance(share, Unparsed)]
    if unread:
        return Preferred(None, "; ".join(dict.fromkeys(unread)), replies)
    shares = [share for share, _ in looks if not isinstance(share, Unparsed)]
    return Preferred(RIVAL + sum(shares) / len(shares), "", replies)


def _share_of_a(heard: Heard) -> float | Unparsed:
    verdict = heard.verdict
    if isinstance(verdict, Ranked | Tied):
        return ranks.preference(ranks_of(verdict))
    return verdict if isinstance(verdict, Unparsed) else Unparsed("no verdict on two answers")


def _by_letter(chat: Chat, showings: Sequence[Showing], seed: int) -> list[tuple[float | Unparsed, str]]:
    """P(A) of A and B, and the log-probabilities that it was read from; asked once, since the reply does not change."""
    calls = [replace(verdicts.call_of(one, seed, 0), max_tokens=1, top_logprobs=TOP) for one in showings]
    return [
        (Unparsed(one.reason), "") if isinstance(one, Failure) else (share_of_a(json.loads(one.text)), one.text)
        for one in (chat.chat(calls) if calls else [])
    ]


def share_of_a(logprobs: Mapping[str, float]) -> float | Unparsed:
    """P(A) / (P(A) + P(B)), summed over the tokens that spell a letter; Unparsed where neither is among them."""
    mass = {
        letter: sum(math.exp(logprob) for token, logprob in logprobs.items() if token.strip() == letter)
        for letter in ("A", "B")
    }
    total = sum(mass.values())
    if total <= 0:
        return Unparsed(f"neither A nor B is among the {len(logprobs)} likeliest first tokens")
    return mass["A"] / total
