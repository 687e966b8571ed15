"""What many prompts begin with, such as a system prompt or worked examples: it runs once and is kept once."""

from collections.abc import Iterable
from itertools import groupby
from os.path import commonprefix  # works on any sequences, token ids too

PROMPTS = 8  # that must share a beginning
TOKENS = 16  # that it must have more than the beginning which it goes on from


def shared(prompts: Iterable[tuple[int, ...]]) -> dict[tuple[int, ...], int]:
    """For each distinct prompt, of how many tokens the beginning is that it shares; at least its last is its own.

    A beginning that goes on from another, shorter one stands for itself: every prompt has one at most.
    """
    found: dict[tuple[int, ...], int] = {}
    _divide(sorted(set(prompts)), 0, found)
    return found


def _divide(members: list[tuple[int, ...]], known: int, found: dict[tuple[int, ...], int]) -> None:
    """Note the beginnings of sorted prompts that are known to share `known` tokens."""
    if len(members) < PROMPTS:
        found.update(dict.fromkeys(members, known))
        return
    common = min(len(commonprefix([members[0], members[-1]])), min(map(len, members)) - 1)
    if common - known >= TOKENS:
        known = common
    for _, alike in groupby(members, key=lambda prompt: prompt[: common + TOKENS]):
        _divide(list(alike), known, found)
