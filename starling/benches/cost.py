"""`starling bench --estimate`: the calls, tokens and money that a benchmark will take, before any is spent."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starling import figures, ledger, progress, speakers
from starling.account import Account
from starling.benches.answers import Question
from starling.client import CHARACTERS_PER_TOKEN, FEWEST_CHARACTERS_PER_TOKEN, SHARE_OF_CAP
from starling.ledger import Spent


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What is asked of one MODEL for one purpose: calls, characters in all of them, and the cap of one reply.

    `written` is how many tokens a reply is expected to have, 0 for `SHARE_OF_CAP`. `read` is how many replies of
    another part stand in the calls, each in so many of them, with their cap.
    """

    purpose: str
    model: str
    calls: int
    characters: int
    max_tokens: int
    written: int = 0
    read: int = 0
    read_cap: int = 0


def of_answers(purpose: str, model: str, questions: Sequence[Question], max_tokens: int) -> Part:
    """What asking a model for an answer to each turn of the questions takes; earlier turns are read again."""
    calls = [(question, turn) for question in questions for turn in range(len(question.turns))]
    return Part(
        purpose=purpose,
        model=model,
        calls=len(calls),
        characters=sum(sum(map(len, question.turns[: turn + 1])) for question, turn in calls),
        max_tokens=max_tokens,
        read=sum(turn for _, turn in calls),
        read_cap=max_tokens,
    )


def expected(parts: Sequence[Part], path: Path, account: Account | None = None) -> list[dict[str, Any]]:
    """What the parts will take, less what the ledger of `path` holds."""
    spent = ledger.read_spent(path)
    return [_estimated(part, spent, account) for part in parts]


def estimate(parts: Sequence[Part], path: Path, account: Account | None = None) -> dict[str, Any]:
    """Print and return what the parts will take, less what the ledger of `path` holds."""
    found = expected(parts, path, account)
    for part in found:
        progress.say(_line(part))
    alone = " or ".join(str(tokens) for tokens in sorted({part.written for part in parts} - {0}))
    verdict = f", a verdict alone {alone} token{'' if alone == '1' else 's'}" if alone else ""
    progress.say(
        f"  assumed: a token is {CHARACTERS_PER_TOKEN} characters, at the most expensive "
        f"{FEWEST_CHARACTERS_PER_TOKEN}; a reply takes {SHARE_OF_CAP:.0%} of its cap{verdict}; what was seen, where "
        "any was"
    )
    return {"estimate": found}


def _estimated(part: Part, spent: Sequence[Spent], account: Account | None) -> dict[str, Any]:
    name = speakers.ledger_name(part.model, account)
    stage = account.stage(part.purpose) if account else part.purpose
    seen = [one for one in spent if (one.stage, one.name) == (stage, name) and one.calls]
    on_file = min(part.calls, sum(one.calls for one in seen))
    left = part.calls - on_file
    written = part.written or SHARE_OF_CAP * part.max_tokens
    if on_file:
        written = sum(one.completion_tokens for one in seen) / sum(one.calls for one in seen)
    share = left / part.calls if part.calls else 0.0
    shown = part.read * part.read_cap
    tokens_in = {
        "expected": round(share * (part.characters / CHARACTERS_PER_TOKEN + SHARE_OF_CAP * shown)),
        "at_most": round(share * (part.characters / FEWEST_CHARACTERS_PER_TOKEN + shown)),
    }
    tokens_out = {"expected": round(left * written), "at_most": left * part.max_tokens}
    endpoint = speakers.endpoint_of(part.model, account)
    usd = {key: endpoint.usd(tokens_in[key], tokens_out[key]) if endpoint else 0.0 for key in tokens_in}
    return {
        "purpose": part.purpose,
        "model": name,
        "calls": left,
        "on_file": on_file,
        "prompt_tokens": tokens_in,
        "completion_tokens": tokens_out,
        "usd": None if usd["at_most"] is None else usd,
        "in_this_process": endpoint is None,
        "concurrency": endpoint.concurrency if endpoint else 0,
    }


def _line(part: dict[str, Any]) -> str:
    on_file = f" ({part['on_file']:,} more are on file)" if part["on_file"] else ""
    tokens = ", ".join(
        f"{figures.number(part[key]['expected'])} (at most {figures.number(part[key]['at_most'])}) tokens {way}"
        for key, way in (("prompt_tokens", "in"), ("completion_tokens", "out"))
    )
    usd = part["usd"]
    cost = "price unknown" if usd is None else f"${usd['expected']:,.2f} (at most ${usd['at_most']:,.2f})"
    cost = "in this process" if part["in_this_process"] else cost
    return f"{part['purpose']}: {part['model']}: {part['calls']:,} calls{on_file}, {tokens}, {cost}"
