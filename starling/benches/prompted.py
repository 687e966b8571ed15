"""One answer to each prompt, from a MODEL, or from a FILE as IFEval's own tool reads it (`prompt`, `response`)."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from starling import contamination, data_files, endpoints, paired, progress, turns
from starling.account import Account
from starling.benches import answers, cost, filing
from starling.benches.answers import Answers, Given, Question, Side
from starling.benches.asked import Asked, refuse_files
from starling.benches.left_out import LeftOut
from starling.errors import DataError, UsageError
from starling.records import Call, Failure, Prompt
from starling.speakers import endpoint_of, open_speaker

OPTIONS = frozenset(("model", "answers", "against", "data", "run", "out", "estimate"))
Found = TypeVar("Found")


class Change(NamedTuple):
    """The paired change of a figure, with 1 where more is better and -1 where less is, and what its cases are.

    `row` names the row of either side's table that it is the change of; "" where it is over other cases.
    """

    change: paired.Change
    good: int
    unit: str
    row: str = ""

    @property
    def told(self) -> dict[str, Any]:
        """What stands in a result."""
        return asdict(self.change) | {"row": self.row, "says": paired.verdict(self.change, self.good)}


def text_of(prompt: Prompt) -> str:
    """The prompt as it stands in an answer file: the request itself, a conversation in Nectar's text form."""
    first = prompt.messages[0]
    if len(prompt.messages) == 1 and first["role"] == "user":
        return first["content"]
    return turns.text_from_messages(prompt.messages)


def digest(prompts: Sequence[Prompt], more: Mapping[str, Any]) -> str:
    """A hash of what is asked and of what is verified, whatever form of file it came from."""
    rows = [[one.id, list(one.messages), more.get(one.id)] for one in prompts]
    return hashlib.sha256(json.dumps(rows, sort_keys=True, default=str).encode()).hexdigest()


def parts(asked: Asked, prompts: Sequence[Prompt], max_tokens: int) -> list[cost.Part]:
    """What asking takes; answers from a FILE take nothing."""
    _refuse_unclear(asked)
    characters = sum(len(message["content"]) for one in prompts for message in one.messages)
    return [
        cost.Part(purpose=role, model=name, calls=len(prompts), characters=characters, max_tokens=max_tokens)
        for role, name in (("answers", asked.model), ("against", asked.against))
        if name and not Path(name).is_file()
    ]


def estimate(asked: Asked, prompts: Sequence[Prompt], out: Path, max_tokens: int) -> dict[str, Any]:
    """Print and return what asking takes."""
    return cost.estimate(parts(asked, prompts, max_tokens), filing.ledger_of(out))


def sides(asked: Asked, prompts: Sequence[Prompt], out: Path, max_tokens: int) -> list[Side]:
    """The answers of the model that is tested, then of the one that it is compared with, if any."""
    named = [("answers", tested(asked), asked.answers is not None)]
    if asked.against:
        endpoints.refuse_alike(endpoint_of(tested(asked), asked.account), endpoint_of(asked.against, asked.account))
        named.append(("against", asked.against, Path(asked.against).is_file()))
    return [
        _of_file(Path(name), prompts) if is_file else _of_model(name, role, prompts, out, max_tokens, asked.account)
        for role, name, is_file in named
    ]


def tested(asked: Asked) -> str:
    """The MODEL that is tested, or the FILE of its answers; refuses both and neither."""
    _refuse_unclear(asked)
    return str(asked.answers or asked.model)


def _refuse_unclear(asked: Asked) -> None:
    if bool(asked.model) == (asked.answers is not None):
        raise UsageError("bench: give either --model MODEL or --answers FILE")
    refuse_files(asked)


def beside(
    asked: Asked,
    prompts: Sequence[Prompt],
    both: Sequence[Side],
    found: Sequence[Found],
    figures_of: Callable[[Found], list[dict[str, Any]]],
    changes: Callable[[Found, Found], Sequence[Change]],
) -> tuple[dict[str, Any], list[str]]:
    """What a result and the terminal say beside the figures of the tested side: the other side, what a run has seen.

    `found` is what was found in each side's answers, as `figures_of` takes it; `changes` takes before and after.
    """
    more: dict[str, Any] = {}
    notes: list[str] = []
    if len(both) > 1:
        more["against"], notes = _compared(both[1], figures_of(found[1]), changes(found[1], found[0]))
    if asked.run is not None:
        more["contamination"] = contamination.check(prompts, asked.run)
        notes += contamination.lines(more["contamination"])
    return more, notes


def _compared(
    other: Side, rows: Sequence[Mapping[str, Any]], changes: Sequence[Change]
) -> tuple[dict[str, Any], list[str]]:
    said = [paired.sentence(one.change, good=one.good, unit=one.unit) for one in changes]
    about = {
        "model": other.identity,
        "rows": list(rows),
        "left_out": [one._asdict() for one in other.answers.left_out],
        "cut": other.answers.cut,
        "changes": [one.told for one in changes],
        "says": said,
    }
    lost = other.answers.left_out
    more = [f"{len(lost):,} left out of {other.name}, first {lost[0].item}"] if lost else []
    return about, [f"Against {other.name}:", *said, *more]


def _of_model(
    name: str, role: str, prompts: Sequence[Prompt], out: Path, max_tokens: int, account: Account | None
) -> Side:
    """Ask greedily through the ledger in `out`, where `<role>.jsonl` is written in the form that `_of_file` reads."""
    with filing.filed(out, role, account) as ledger, progress.track(role, len(prompts), "answers") as advance:
        speaker = open_speaker(name, ledger, lambda call, reply: advance(1), account)
        outcomes = speaker.chat.chat([Call(messages=one.messages, max_tokens=max_tokens) for one in prompts])
    given = {
        prompt.id: outcome
        for prompt, outcome in zip(prompts, outcomes, strict=True)
        if not isinstance(outcome, Failure)
    }
    lost = [
        LeftOut(prompt.id, "no answer", outcome.reason)
        for prompt, outcome in zip(prompts, outcomes, strict=True)
        if isinstance(outcome, Failure)
    ]
    rows = [{"prompt": text_of(one), "response": given[one.id].text} for one in prompts if one.id in given]
    data_files.write_jsonl(out / f"{role}.jsonl", rows)
    found = Answers(
        by_question={key: (reply.text,) for key, reply in given.items()},
        left_out=lost,
        cut=sum(not reply.finished for reply in given.values()),
    )
    return Side(name=speaker.identity["name"], identity=speaker.identity, answers=found)


def _of_file(path: Path, prompts: Sequence[Prompt]) -> Side:
    ids = {text_of(prompt): prompt.id for prompt in prompts}
    found, lost = [], []
    content = hashlib.sha256()
    for number, row in enumerate(data_files.stream_rows(path), 1):
        where = f"{path.name}:{number}"
        asked, answer = row.get("prompt"), row.get("response")
        if not isinstance(asked, str) or not isinstance(answer, str):
            lost.append(LeftOut(where, "no texts `prompt` and `response`", f"found: {', '.join(sorted(row))}"))
            continue
        content.update(json.dumps([asked, answer]).encode())
        found.append(Given(ids.get(asked, where), (answer,), where))
    if not found:
        raise DataError(f"bench: {path} holds no row with the texts `prompt` and `response`")
    matched = answers.match([Question(id=one.id, turns=(text_of(one),)) for one in prompts], found)
    identity = {"name": path.name, "answers_sha256": content.hexdigest()}
    return Side(name=path.name, identity=identity, answers=replace(matched, left_out=[*lost, *matched.left_out]))
