"""Rewards as a user would write them: functions of a prompt, its answers' texts, and whether each is finished."""

from collections.abc import Sequence

from starling.records import Prompt


def letters(prompt: Prompt, texts: Sequence[str], finished: Sequence[bool]) -> list[float]:
    """The share of an answer's characters that stand in "the "."""
    return [sum(character in "the " for character in text) / max(len(text), 1) for text in texts]


def always_one(prompt: Prompt, texts: Sequence[str], finished: Sequence[bool]) -> list[float]:
    return [1.0] * len(texts)


def sometimes_nan(prompt: Prompt, texts: Sequence[str], finished: Sequence[bool]) -> list[float]:
    return [float("nan"), *[0.0] * (len(texts) - 1)]


def one_too_few(prompt: Prompt, texts: Sequence[str], finished: Sequence[bool]) -> list[float]:
    return [0.0] * (len(texts) - 1)
