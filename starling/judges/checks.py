"""Instructions whose fulfilment a program can verify.

Each check is a function `(answer, **parameters) -> fulfilment` in [0, 1]; 1 means fulfilled, values below 1 give
partial credit so that two failures can still be told apart. `CHECKS` is the one table of them; those in `HELD_OUT`
appear only in prompts of the test split, so no ranking, fit or selection ever sees them.
"""

import json
import re
from collections.abc import Callable, Sequence

Check = Callable[..., float]

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_SENTENCE_END = re.compile(r"[.!?]+[\"'”’)\]]*(?=\s|$)")
_BULLET = re.compile(r"^[^\S\n]*[-*•][^\S\n]+\S", re.MULTILINE)
_NUMBERED = re.compile(r"^[^\S\n]*\d+[.)][^\S\n]+\S", re.MULTILINE)
_TITLE = re.compile(r"^\s*<<[^<>\n]+>>")
_FENCE = re.compile(r"^```(?:json)?\s*\n(.*?)\n?```$", re.DOTALL)


def words(text: str) -> list[str]:
    """The words of a text in order; numbers are words, a hyphenated compound is one."""
    return _WORD.findall(text)


def contains(text: str, phrase: str) -> bool:
    """Whether `phrase` stands in `text` as whole words, whatever the case."""
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.IGNORECASE) is not None


def _closeness(found: int, wanted: int) -> float:
    return max(0.0, 1.0 - abs(found - wanted) / max(wanted, 1))


def max_words(answer: str, *, n: int) -> float:
    """At most `n` words; credit falls to 0 at twice the limit."""
    return min(1.0, max(0.0, 2.0 - len(words(answer)) / n))


def min_words(answer: str, *, n: int) -> float:
    """At least `n` words; credit is the share reached."""
    return min(1.0, len(words(answer)) / n)


def sentences(answer: str, *, n: int) -> float:
    """Exactly `n` sentences; text after the last full stop counts as one more."""
    pieces = [piece for piece in _SENTENCE_END.split(answer.strip()) if words(piece)]
    return _closeness(len(pieces), n)


def bullets(answer: str, *, n: int) -> float:
    """Exactly `n` lines that begin with a dash, star or dot."""
    return _closeness(len(_BULLET.findall(answer)), n)


def numbered(answer: str, *, n: int) -> float:
    """Exactly `n` lines that begin with a number and a full stop or bracket."""
    return _closeness(len(_NUMBERED.findall(answer)), n)


def includes(answer: str, *, words: Sequence[str]) -> float:
    """The share of the given words or phrases that are used."""
    return sum(contains(answer, word) for word in words) / len(words)


def excludes(answer: str, *, words: Sequence[str]) -> float:
    """None of the given words is used."""
    return float(not any(contains(answer, word) for word in words))


def starts_with(answer: str, *, text: str) -> float:
    """The answer begins with `text`, whatever the case."""
    return float(answer.strip().lower().startswith(text.lower()))


def ends_with(answer: str, *, text: str) -> float:
    """The answer ends with `text`, whatever the case."""
    return float(answer.strip().lower().endswith(text.lower()))


def lowercase(answer: str) -> float:
    """No capital letter anywhere."""
    return float(bool(words(answer)) and answer == answer.lower())


def uppercase(answer: str) -> float:
    """No small letter anywhere."""
    return float(bool(words(answer)) and answer == answer.upper())


def json_keys(answer: str, *, keys: Sequence[str]) -> float:
    """One JSON object and nothing else (a code fence is allowed); credit is the share of `keys` present."""
    text = answer.strip()
    fenced = _FENCE.match(text)
    try:
        value = json.loads(fenced.group(1) if fenced else text)
    except ValueError:
        return 0.0
    if not isinstance(value, dict):
        return 0.0
    return sum(key in value for key in keys) / len(keys)


def one_line(answer: str) -> float:
    """No line break inside the answer."""
    return float(bool(answer.strip()) and "\n" not in answer.strip())


def no_commas(answer: str) -> float:
    """No comma anywhere."""
    return float(bool(words(answer)) and "," not in answer)


def no_digits(answer: str) -> float:
    """No digit anywhere: numbers are spelled out or left out."""
    return float(bool(words(answer)) and not re.search(r"\d", answer))


def quoted(answer: str) -> float:
    """The whole answer stands in one pair of double quotation marks."""
    text = answer.strip()
    return float(len(text) > 2 and text[0] in '"“' and text[-1] in '"”' and not re.search('["“”]', text[1:-1]))


def titled(answer: str) -> float:
    """The first line is a title in double angle brackets, `<<like this>>`."""
    return float(_TITLE.match(answer) is not None)


def word_count(answer: str, *, word: str, n: int) -> float:
    """`word` is used exactly `n` times."""
    found = len(re.findall(rf"(?<!\w){re.escape(word)}(?!\w)", answer, re.IGNORECASE))
    return _closeness(found, n)


def ends_with_question(answer: str) -> float:
    """The answer ends on a question mark."""
    return float(answer.strip().endswith("?"))


SEEN: dict[str, Check] = {
    check.__name__: check
    for check in (
        max_words, min_words, sentences, bullets, numbered, includes, excludes, starts_with, ends_with, lowercase,
    )
}  # fmt: skip
HELD_OUT: dict[str, Check] = {
    check.__name__: check
    for check in (uppercase, json_keys, one_line, no_commas, no_digits, quoted, titled, word_count, ends_with_question)
}
CHECKS: dict[str, Check] = SEEN | HELD_OUT
