"""Rows as the published prompt sets lay them out -> a prompt, and the answers that stand beside it."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from starling import tables, turns
from starling.errors import DataError
from starling.judges.ranks import ranks_with_ties
from starling.records import Message, Prompt

Row = Mapping[str, Any]
_ROLES = {
    "user": "user", "human": "user", "prompter": "user", "assistant": "assistant", "gpt": "assistant",
    "chatgpt": "assistant", "bing": "assistant", "bard": "assistant", "model": "assistant", "system": "system",
}  # fmt: skip
_INST = re.compile(r"\[/?INST\]")
_SYSTEM = re.compile(r"\s*<<SYS>>(.*?)<</SYS>>", re.DOTALL)
_SEQUENCE_ENDS = re.compile(r"</?s>")
_TRANSCRIPT = re.compile(r"\s*Human: ")


class Answer(NamedTuple):
    """An answer that came with its source; `model` is who gave it, `rank` its place in its row, 1 = best."""

    model: str
    text: str
    rank: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A prompt as a source has it; `dealt` where the row names no split."""

    prompt: Prompt
    answers: Sequence[Answer] = ()
    dealt: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class At:
    """Where a row stands, and what its source says of rows that do not say it themselves."""

    id: str
    where: str
    source: str
    model: str
    first_turn: bool


class Unusable(DataError):
    """A row that cannot become a prompt: `reason` is one word to count by, the text says what is wrong."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Form(NamedTuple):
    """One layout: whether a row has it, how it is read, and whether its prompt is the first user turn alone."""

    has: Callable[[Row], bool]
    read: Callable[[Row, At], Iterator[Found]]
    first_turn: bool
    columns: str


def form_of(row: Row, where: str) -> str:
    """The name of the layout that a row has."""
    for name, form in FORMS.items():
        if form.has(row):
            return name
    known = "; ".join(f"{name}: {form.columns}" for name, form in FORMS.items() if name != "plain")
    found = ", ".join(sorted(row))
    raise DataError(f"{where}: a prompt needs a column `messages` or `prompt`; found: {found}. Other forms: {known}")


def read(row: Row, form: str, at: At) -> Iterator[Found]:
    """The prompts of one row; a row of a published set that has none is `Unusable`, one of your own stops."""
    if form == "plain":
        yield from _plain(row, at)
        return
    if not FORMS[form].has(row):
        found = ", ".join(sorted(key for key, value in row.items() if value is not None))
        raise Unusable("bad_row", f"{at.where}: form {form!r} needs {FORMS[form].columns}; found: {found}")
    try:
        yield from FORMS[form].read(row, at)
    except Unusable:
        raise
    except DataError as error:
        raise Unusable("bad_row", str(error)) from None


def _plain(row: Row, at: At) -> Iterator[Found]:
    told = {key: value for key, value in row.items() if value is not None}
    prompt = tables.prompt_from_row({"id": at.id, "source": at.source} | told, at.where)
    yield Found(prompt=prompt, dealt="split" not in told)


def _nectar(row: Row, at: At) -> Iterator[Found]:
    messages = row.get("messages") or turns.messages_from_text(str(row.get("prompt")))
    entries = row["answers"]
    if isinstance(entries, list):
        entries = tables.beside(entries, "ranks", "rank", row, at.where)
    answers = [
        Answer(str(entry.get("model") or at.model), _text(entry.get("answer"), "answer", at), _rank(entry.get("rank")))
        for entry in _objects(entries, "answers", at)
    ]
    named = row.get("source") or at.source
    yield _found(
        at, messages, answers, source=", ".join(map(str, named)) if isinstance(named, list) else str(named),
        id=str(row.get("prompt_id") or row.get("id") or at.id),
        good_natured=tables.is_true(row.get("good_natured"), "good_natured", at.where),
    )  # fmt: skip


def _pairs(row: Row, at: At) -> Iterator[Found]:
    ranking = tables.ranking_from_row(row, at.where)
    answers = [Answer(at.model, text.answer, rank) for text, rank in zip(ranking.answers, ranking.ranks, strict=True)]
    yield _found(at, ranking.messages, answers)


def _sharegpt(row: Row, at: At) -> Iterator[Found]:
    yield _conversation(_turns(row["conversations"], "conversations", at), row, at)


def _lmsys(row: Row, at: At) -> Iterator[Found]:
    turns = _turns(row["conversation"], "conversation", at)
    flags = row.get("openai_moderation") or []
    first = next((number for number, turn in enumerate(turns) if turn["role"] == "user"), 0)
    flagged = first < len(flags) and isinstance(flags[first], Mapping) and flags[first].get("flagged") is True
    yield _conversation(turns, row, at, good_natured=not flagged)


def _chat(row: Row, at: At) -> Iterator[Found]:
    yield _conversation(_turns(row["messages"], "messages", at), row, at)


def _hh(row: Row, at: At) -> Iterator[Found]:
    chosen, rejected = (
        _conversation(turns.messages_from_text(_text(row[side], side, at)), row, at) for side in ("chosen", "rejected")
    )
    if chosen.prompt.messages == rejected.prompt.messages:
        answers = [*chosen.answers, *rejected.answers]
        ranked = [answer._replace(rank=float(rank)) for rank, answer in enumerate(answers, 1)]
        yield Found(prompt=chosen.prompt, answers=ranked, dealt=True)
        return
    yield chosen
    yield _found(at, rejected.prompt.messages, rejected.answers, id=f"{at.id}-rejected")


def _ultrafeedback(row: Row, at: At) -> Iterator[Found]:
    messages = [Message(role="user", content=_text(row["instruction"], "instruction", at))]
    completions = _objects(row["completions"], "completions", at)
    ranks = _ranks_of_scores([entry.get("overall_score") for entry in completions])
    answers = [
        Answer(str(entry.get("model") or at.model), _text(entry.get("response"), "response", at), rank)
        for entry, rank in zip(completions, ranks, strict=True)
    ]
    yield _found(at, messages, answers, source=str(row.get("source") or at.source))


def _llama_instruct(row: Row, at: At) -> Iterator[Found]:
    head, *pieces = _INST.split(_SEQUENCE_ENDS.sub("", _text(row["text"], "text", at)))
    if head.strip():
        raise Unusable("bad_row", f"{at.where}: text stands before the first [INST]")
    turns: list[Message] = []
    for number, piece in enumerate(pieces):
        if system := _SYSTEM.match(piece):
            turns.append(Message(role="system", content=system[1].strip()))
            piece = piece[system.end() :]
        if number % 2 and not piece.strip() and number == len(pieces) - 1:
            break  # the last answer is still to come
        turns.append(Message(role=("user", "assistant")[number % 2], content=piece.strip()))
    yield _conversation(turns, row, at)


def _conversation(turns: Sequence[Message], row: Row, at: At, **more: Any) -> Found:
    """The prompt of a conversation (its first user turn, or all up to the last), and the answer that follows."""
    asked = [number for number, turn in enumerate(turns) if turn["role"] == "user"]
    if not asked:
        raise Unusable("no_user_turn", f"{at.where}: the conversation has no user turn")
    last = asked[0] if at.first_turn else asked[-1]
    following = turns[last + 1 : last + 2]
    model = str(row.get("model") or at.model)
    answers = [Answer(model, turn["content"]) for turn in following if turn["role"] == "assistant"]
    return _found(at, list(turns[last if at.first_turn else 0 : last + 1]), answers, **more)


def _found(at: At, messages: Any, answers: Sequence[Answer], **more: Any) -> Found:
    last = messages[-1] if isinstance(messages, list) and messages else None
    if isinstance(last, Mapping) and not str(last.get("content") or "").strip():
        raise Unusable("empty", f"{at.where}: the prompt is empty")
    turns.check_messages(messages, at.where)
    return Found(prompt=Prompt(**{"id": at.id, "source": at.source, "messages": messages} | more), answers=answers,
                 dealt=True)  # fmt: skip


def _turns(value: Any, column: str, at: At) -> list[Message]:
    turns = []
    for entry in _objects(value, column, at):
        named = str(entry.get("role") or entry.get("from"))
        if named not in _ROLES:
            raise Unusable("unknown_role", f"{at.where}: {named!r} in `{column}` is not one of {', '.join(_ROLES)}")
        text = _text(entry["content"] if "content" in entry else entry.get("value"), column, at)
        turns.append(Message(role=_ROLES[named], content=text))
    return turns


def _objects(value: Any, column: str, at: At) -> list[Row]:
    if not isinstance(value, list) or not all(isinstance(entry, Mapping) for entry in value):
        raise Unusable("bad_row", f"{at.where}: `{column}` must be a list of objects")
    return value


def _text(value: Any, column: str, at: At) -> str:
    if not isinstance(value, str):
        raise Unusable("bad_row", f"{at.where}: `{column}` holds {value!r:.40}, not a text")
    return value


def _rank(told: Any) -> float | None:
    """A place as a row has it; None where it is not known, or is none."""
    return float(told) if told and tables.is_rank(told) else None


def _ranks_of_scores(scores: Sequence[Any]) -> Sequence[float | None]:
    """The places of answers by their scores, of which the highest is best; None where one of them has no score."""
    known = [score for score in scores if isinstance(score, int | float) and math.isfinite(score)]
    return ranks_with_ties(known, 0.0) if len(known) == len(scores) else [None] * len(scores)


def _has(*columns: str) -> Callable[[Row], bool]:
    return lambda row: all(row.get(column) is not None for column in columns)


def _has_answered_messages(row: Row) -> bool:
    turns = row.get("messages")
    last = turns[-1] if isinstance(turns, list) and turns else None
    return isinstance(last, Mapping) and last.get("role") == "assistant"


def _has_question(row: Row) -> bool:
    return row.get("prompt") is not None or row.get("messages") is not None


def _has_transcripts(row: Row) -> bool:
    return all(isinstance(row.get(side), str) and bool(_TRANSCRIPT.match(row[side])) for side in ("chosen", "rejected"))


# In the order in which a row is tried; a row may have the columns of several.
FORMS = {
    "ultrafeedback": Form(_has("instruction", "completions"), _ultrafeedback, True,
                          "`instruction` and `completions` [{model, response}]"),
    "sharegpt": Form(_has("conversations"), _sharegpt, True, "`conversations` [{from, value}]"),
    "lmsys": Form(_has("conversation"), _lmsys, True, "`conversation` [{role, content}]"),
    "hh": Form(_has_transcripts, _hh, False, "`chosen` and `rejected`, texts with Human: and Assistant: turns"),
    "pairs": Form(_has("chosen", "rejected"), _pairs, False, "`prompt`, `chosen` and `rejected`"),
    "nectar": Form(lambda row: _has_question(row) and row.get("answers") is not None, _nectar, False,
                   "`prompt` and `answers` [{answer, model}]"),
    "chat": Form(_has_answered_messages, _chat, False, "`messages` [{role, content}] that end on an answer"),
    "llama_instruct": Form(lambda row: "[INST]" in str(row.get("text")), _llama_instruct, True,
                           "`text` with [INST] and [/INST]"),
    "plain": Form(_has_question, _plain, False, "`prompt` or `messages`"),
}  # fmt: skip
