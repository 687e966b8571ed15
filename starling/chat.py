"""Messages <-> token ids: the only door between text and ids.

A conversation is tokenised exactly as every other tool does it: through the tokenizer's own chat template, with no
special token added by us.
"""

import re
from bisect import bisect_left
from collections.abc import Sequence
from datetime import date
from os.path import commonprefix  # works on any sequences, token ids too
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from starling.errors import DataError, ModelError
from starling.records import Message

_ENDS_ON_REWARD = "{{ '' }}{% endset %}{{ rendered if add_generation_prompt else rendered.rstrip() }}"
_TODAY = "strftime_now("  # what transformers and vLLM let a template call
_DAY = date(2025, 1, 1)
_ASKED = (Message(role="user", content="Is rain wet?"), Message(role="assistant", content="Yes."))


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> tuple[int, ...]:
    """The ids of a conversation that waits for the assistant's turn."""
    return tuple(_render(tokenizer, messages, waiting=True))


def answer_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of sampled ids, without special tokens and surrounding blanks."""
    return bare_text(tokenizer, ids).strip()


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """The ids of a bare text that is to be gone on with, with what the tokenizer itself puts in front."""
    return tuple(tokenizer.encode(text))


def bare_text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of ids without special tokens, its blanks as they are."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))


def answer_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], answer: str) -> tuple[int, ...]:
    """The ids that follow `prompt_ids` when the assistant gives `answer` and ends its turn."""
    prompt = prompt_ids(tokenizer, messages)
    whole = _render(tokenizer, [*messages, Message(role="assistant", content=answer)], waiting=False)
    if tuple(whole[: len(prompt)]) != prompt:
        raise ModelError(
            "the chat template does not continue a waiting conversation with the answer; cannot split them"
        )
    return tuple(whole[len(prompt) :])


def turn_ids(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    answer: str,
    stop: frozenset[int],
    *,
    finished: bool,
) -> tuple[int, ...]:
    """The ids a model would have sampled for `answer`, with its stop token only where it was finished."""
    ids = answer_ids(tokenizer, messages, answer)
    end = next((at for at, token in enumerate(ids) if token in stop), len(ids))
    return ids[: end + 1] if finished else ids[:end]


def holds(tokenizer: PreTrainedTokenizerBase, text: str, tokens: frozenset[int]) -> bool:
    """Whether one of these tokens stands in a text, which then is more to the model than what it says."""
    return not tokens.isdisjoint(tokenizer(text, add_special_tokens=False)["input_ids"])


def conversation_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], answers: Sequence[str], finished: Sequence[bool]
) -> tuple[list[int], list[list[int]]]:
    """The ids that all the conversations share, and what each adds; never empty on either side.

    The reward is read at each conversation's last token. An answer that the token cap cut does not get the token that
    ends a turn: that token is what tells a finished answer apart.
    """
    wholes = []
    for answer, whole_answer in zip(answers, finished, strict=True):
        if not answer:
            raise DataError("an empty answer cannot be scored; leave it out")
        ids = _render(tokenizer, [*messages, Message(role="assistant", content=answer)], waiting=False)
        wholes.append(ids if whole_answer else without_end(tokenizer, ids))
    shortest = min(len(ids) for ids in wholes)
    shared = list(commonprefix([ids[: shortest - 1] for ids in wholes]))
    return shared, [ids[len(shared) :] for ids in wholes]


def or_blank(answer: str) -> str:
    """An answer as a reward model can read it: of one with nothing but white space a blank, the bare end of a turn."""
    return answer if answer.strip() else " "


def shortened(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], tokens: int) -> Sequence[Message] | None:
    """The conversation at least `tokens` shorter, cut from the left; None where nothing of the last turn would remain.

    Whole turns go first, the earliest before the others, so that a user's turn stands first again; then the beginning
    of the last turn's text. The system's message stays. The template writes what is left, so that it begins, ends and
    changes turns as the model knows it.
    """
    goal = len(_render(tokenizer, messages, waiting=True)) - tokens
    first = next(at for at, message in enumerate(messages) if message["role"] != "system")
    system, starts = messages[:first], [at for at, message in enumerate(messages) if message["role"] == "user"]
    for start in starts:
        kept = [*system, *messages[start:]]
        if len(_render(tokenizer, kept, waiting=True)) <= goal:
            return kept
    text = messages[-1]["content"].strip()

    def from_character(start: int) -> list[Message]:
        return [*system, Message(role="user", content=text[start:].lstrip())]

    cut = bisect_left(
        range(len(text)), True, key=lambda start: len(_render(tokenizer, from_character(start), waiting=True)) <= goal
    )
    return from_character(cut) if cut < len(text) else None


def without_end(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    """The ids without the special tokens and blanks that close the last turn."""
    added = tokenizer.added_tokens_decoder.items()  # a token that ends turns need not be one of the named special ones
    special = {*tokenizer.all_special_ids, *(token for token, added_token in added if added_token.special)}
    stop = len(ids)
    while stop > 0 and (ids[stop - 1] in special or not str(tokenizer.decode([ids[stop - 1]])).strip()):
        stop -= 1
    return ids[:stop]


def require_template(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Refuse a tokenizer that does not say how a conversation is written."""
    if not tokenizer.chat_template:
        raise ModelError(f"{name}: its tokenizer has no chat template; save one into the model's folder")
    if isinstance(tokenizer.chat_template, dict) and "default" not in tokenizer.chat_template:
        named = ", ".join(tokenizer.chat_template)
        raise ModelError(f"{name}: its tokenizer has chat templates named {named} and no default; call one `default`")


def end_on_reward(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Give the tokenizer the template of a reward model: what it writes ends where the assistant's turn ends, and is
    the same every day."""
    template = on_one_day(tokenizer.get_chat_template())
    if _TODAY in template:
        raise ModelError(
            f"{name}: its chat template writes today's date in a way that is not known, so that rewards would change "
            "over night; write a fixed date into it"
        )
    tokenizer.chat_template = template if template.endswith(_ENDS_ON_REWARD) else ending_on_reward(template)
    after = rendered(tokenizer, _ASKED, waiting=False).rpartition(_ASKED[-1]["content"])[2]
    if without_end(tokenizer, tokenizer.encode(after, add_special_tokens=False)):
        raise ModelError(
            f"{name}: its chat template writes {after!r} after a finished answer, where the reward would be read; "
            "save one into the model's folder that ends there"
        )


def on_one_day(template: str) -> str:
    """A chat template that writes the same but for today's date, in the place of which stands that of one day."""
    return re.sub(rf"{re.escape(_TODAY)}(['\"])(.*?)\1\)", lambda found: repr(_DAY.strftime(found[2])), template)


def last_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id on which a finished conversation ends: what the reward is read at, and no padding may be."""
    return _render(tokenizer, _ASKED, waiting=False)[-1]


def ending_on_reward(template: str) -> str:
    """A chat template that writes the same conversation but ends on the token that closes the last turn.

    Many templates put a line break after it, on which other tools would read the reward.
    """
    # Line breaks: the first after a block and the last of a template are not written, all others are.
    return "{%- set rendered %}\n" + template.removesuffix("\n") + _ENDS_ON_REWARD


def rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, waiting: bool) -> str:
    """The conversation as the template writes it; `waiting`: with what asks for an answer after it."""
    return str(_applied(tokenizer, list(messages), waiting=waiting, tokenize=False))


def _render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, waiting: bool) -> list[int]:
    return list(_applied(tokenizer, list(messages), waiting=waiting))


def _applied(tokenizer: PreTrainedTokenizerBase, turns: list[Any], *, waiting: bool, tokenize: bool = True) -> Any:
    try:
        return tokenizer.apply_chat_template(turns, add_generation_prompt=waiting, return_dict=False, tokenize=tokenize)
    # a broken template, or one that raises an exception over these turns; it is a program, so any may be
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise ModelError(
            f"{tokenizer.name_or_path}: its chat template does not write this conversation: {error}"
        ) from error
