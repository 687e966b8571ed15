"""A row of `chosen` and `rejected`: the conversation that both answer, and the two answers."""

from collections.abc import Mapping, Sequence
from typing import Any

from starling import turns
from starling.errors import DataError


def read(row: Mapping[str, Any], where: str) -> tuple[Any, dict[str, str]]:
    """The conversation, which is still to be checked, and both answers, the better one first.

    Both are texts that answer `prompt`, or both are message lists whose last message is the answer. What such lists
    hold before it is the conversation, or its end, and must be the same in both.
    """
    chosen, rejected, prompt = row["chosen"], row["rejected"], row.get("prompt")
    if isinstance(chosen, str) and isinstance(rejected, str):
        if prompt is None:
            raise DataError(
                f"{where}: `chosen` and `rejected` are texts, so the row needs the `prompt` that they answer"
            )
        return turns.as_messages(prompt), {"chosen": chosen, "rejected": rejected}
    if not (chosen and rejected and isinstance(chosen, list) and isinstance(rejected, list)):
        raise DataError(f"{where}: `chosen` and `rejected` must both be texts or both be message lists")
    if not all(map(turns.is_message, [*chosen, *rejected])):
        raise DataError(f"{where}: every message of `chosen` and `rejected` needs a `role` and a text `content`")
    for name, last in (("chosen", chosen[-1]), ("rejected", rejected[-1])):
        if last["role"] != "assistant":
            raise DataError(f"{where}: `{name}` ends on the {last['role']}'s message; its last is the answer to rank")
    if _said(chosen[:-1]) != _said(rejected[:-1]):
        raise DataError(f"{where}: `chosen` and `rejected` differ before the last message; both must answer the same")
    return _conversation(prompt, chosen[:-1], where), {
        "chosen": chosen[-1]["content"],
        "rejected": rejected[-1]["content"],
    }


def _conversation(prompt: Any, earlier: list[Any], where: str) -> Any:
    """`prompt` and the turns before the answers as one: these may repeat it or go on from it.

    Where it is a text they may also write it otherwise, such as with a system's message; then they are what counts.
    """
    asked = turns.as_messages(prompt)
    if not earlier or not asked:
        return earlier or asked
    if not isinstance(asked, list) or not all(map(turns.is_message, asked)):
        return asked  # no conversation, which is told to whoever checks it
    if _said(earlier[: len(asked)]) == _said(asked):
        return earlier
    system = asked[:1] if asked[0]["role"] == "system" else []
    if system and _said(earlier[: len(asked) - 1]) == _said(asked[1:]):
        return [*system, *earlier]
    if earlier[0]["role"] == ("assistant" if asked[-1]["role"] == "user" else "user"):
        return [*asked, *earlier]
    if isinstance(prompt, str):
        return earlier
    raise DataError(f"{where}: the turns before the answers neither begin with `prompt` nor go on from it")


def _said(messages: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Who said what, blanks around it aside."""
    return [(message["role"], message["content"].strip()) for message in messages]
