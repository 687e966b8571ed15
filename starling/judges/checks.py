"""Instructions whose fulfilment a program can verify.

Each check is a function `(answer, **parameters) -> fulfilment` in [0, 1]; 1 means fulfilled, values below 1 give
partial credit so that two failures can still be told apart. `CHECKS` is the one table of them; those in `HELD_OUT`
appear only in prompts of the test split, so no ranking, fit or selection ever sees them.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Check = Callable[..., float]

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_SENTENCE_END = re.compile(r"(?<![.!?])[.!?]++[\"'”’)\]]*+(?=\s|$)")
_BULLET = re.compile(r"^[^\S\n]*[-*•][^\S\n]+\S", re.MULTILINE)
_NUMBERED = re.compile(r"^[^\S\n]*\d+[.)][^\S\n]+\S", re.MULTILINE)
_TITLE = re.compile(r"^\s*<<[^<>\n]+>>")
_FENCE = re.compile(r"^```(?:json)?(?>\s*\n)(.*?)\n?```$", re.DOTALL)


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


def exact_words(answer: str, *, n: int) -> float:
    """Exactly `n` words."""
    return _closeness(len(words(answer)), n)


def one_of(answer: str, *, options: Sequence[str]) -> float:
    """One of the options and nothing else, whatever the case and the mark at the end."""
    said = answer.strip().rstrip(".!").lower()
    return float(any(said == option.lower() for option in options))


def avoids_letter(answer: str, *, letter: str) -> float:
    """The letter stands nowhere, neither small nor capital."""
    return float(bool(words(answer)) and letter.lower() not in answer.lower())


def tagged(answer: str, *, tag: str) -> float:
    """The whole answer stands between `<tag>` and `</tag>`."""
    text = answer.strip()
    inner = text.removeprefix(f"<{tag}>").removesuffix(f"</{tag}>")
    return float(text.startswith(f"<{tag}>") and text.endswith(f"</{tag}>") and bool(words(inner)))


def labelled(answer: str, *, labels: Sequence[str]) -> float:
    """The share of the labels that begin a line of their own, followed by a colon."""
    lines = [line.strip().lower() for line in answer.splitlines()]
    return sum(any(line.startswith(f"{label.lower()}:") for line in lines) for label in labels) / len(labels)


def parts(answer: str, *, mark: str, n: int) -> float:
    """Exactly `n` parts with words in them, kept apart by `mark`."""
    return _closeness(sum(bool(words(part)) for part in answer.split(mark)), n)


def initial(answer: str, *, letter: str) -> float:
    """The share of words that begin with the letter."""
    found = words(answer)
    return sum(word.lower().startswith(letter.lower()) for word in found) / len(found) if found else 0.0


def signed(answer: str, *, name: str) -> float:
    """The last line is a dash and the name, `- name`."""
    lines = answer.strip().splitlines()
    return float(bool(lines) and re.fullmatch(rf"[-–—]\s*{re.escape(name)}\.?", lines[-1].strip(), re.I) is not None)


def uppercase(answer: str) -> float:
    """No small letter anywhere."""
    return float(bool(words(answer)) and answer == answer.upper())


def json_keys(answer: str, *, keys: Sequence[str]) -> float:
    """One JSON object and nothing else (a code fence is allowed); credit is the share of `keys` present."""
    text = answer.strip()
    fenced = _FENCE.match(text)
    try:
        value = json.loads(fenced.group(1) if fenced else text)
    except (ValueError, RecursionError):
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


def title_case(answer: str) -> float:
    """The share of words that begin with a capital letter, where they begin with a letter at all."""
    found = [word for word in words(answer) if word[0].isalpha()]
    return sum(word[0].isupper() for word in found) / len(found) if found else 0.0


def in_brackets(answer: str) -> float:
    """The whole answer stands in one pair of round brackets; a full stop may follow."""
    text = answer.strip().removesuffix(".")
    inside = text[1:-1]
    return float(text[:1] == "(" and text[-1:] == ")" and bool(words(inside)) and not re.search(r"[()]", inside))


def no_apostrophes(answer: str) -> float:
    """No apostrophe anywhere: no short forms, no possessives."""
    return float(bool(words(answer)) and not re.search("['’]", answer))


SEEN: dict[str, Check] = {
    check.__name__: check
    for check in (
        max_words, min_words, sentences, bullets, numbered, includes, excludes, starts_with, ends_with, lowercase,
        exact_words, one_of, avoids_letter, tagged, labelled, parts, initial, signed,
    )
}  # fmt: skip
HELD_OUT: dict[str, Check] = {
    check.__name__: check
    for check in (
        uppercase, json_keys, one_line, no_commas, no_digits, quoted, titled, word_count, ends_with_question,
        title_case, in_brackets, no_apostrophes,
    )
}  # fmt: skip
CHECKS: dict[str, Check] = SEEN | HELD_OUT


def fulfilled(answer: str, check: Mapping[str, Any]) -> float:
    """How far an answer fulfils a prompt's check, `{"check": name, **parameters}`: 0 to 1."""
    return CHECKS[check["check"]](answer, **parameters(check))


def parameters(check: Mapping[str, Any]) -> dict[str, Any]:
    """What a prompt's check says beside its name."""
    return {key: value for key, value in check.items() if key != "check"}
