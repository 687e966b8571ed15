"""Prompts that are too near another prompt, or that hold a benchmark's question."""

import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from starling import data_files, turns
from starling.cleaning import FAIREST, Remove
from starling.errors import DataError
from starling.forms import Found
from starling.records import Message, Prompt
from starling.sources import Removal
from starling.turns import text_of

_WORD = re.compile(r"\w+")
_PIECE = 5
_PERMUTATIONS = 64
_RECALL = 0.99
_SHORTEST_GRAM = 8
_QUESTION_COLUMNS = ("turns", "messages", "prompt", "question", "instruction")


class Benchmarks:
    """The questions of benchmark FILEs, by what a prompt that holds one of them has in common with it.

    A question of `ngram` words or more is held where any `ngram` of its words follow each other in a user turn; one of
    8 words or more where all of them do; a shorter one only where it is a whole turn, since few words meet by chance.
    """

    def __init__(self, paths: Sequence[str], ngram: int) -> None:
        self._ngram = ngram
        self._whole: dict[tuple[str, ...], str] = {}
        self._grams: dict[tuple[str, ...], str] = {}
        self._sizes: dict[str, set[int]] = {}  # of the grams that begin with a word
        self.questions = 0
        for path in paths:
            for at, row in data_files.located_rows(Path(path)):
                where = f"{Path(path).name}:{row.get('question_id') or row.get('id') or at.rpartition(':')[2]}"
                for text in _questions(row, at):
                    self.add(text, where)

    def held_by(self, prompt: Prompt) -> tuple[str, str] | None:
        """The question that the prompt holds, as `file:id`, and the words they share; None where it holds none."""
        for message in prompt.messages:
            if message["role"] != "user":
                continue
            words = tuple(words_of(message["content"]))
            if words in self._whole:
                return self._whole[words], " ".join(words)
            for start, word in enumerate(words):
                for size in self._sizes.get(word, ()):
                    if (gram := words[start : start + size]) in self._grams:
                        return self._grams[gram], " ".join(gram)
        return None

    def add(self, text: str, where: str) -> None:
        """One question more, and what it is called."""
        words = tuple(words_of(text))
        if not words:
            return
        self.questions += 1
        self._whole.setdefault(words, where)
        size = min(self._ngram, len(words))
        if size < min(self._ngram, _SHORTEST_GRAM):
            return
        for start in range(len(words) - size + 1):
            self._grams.setdefault(words[start : start + size], where)
            self._sizes.setdefault(words[start], set()).add(size)


def clear_of_benchmarks(found: Iterable[Found], benchmarks: Benchmarks, remove: Remove) -> list[Found]:
    """The prompts that hold no benchmark question."""
    kept = []
    for one in found:
        if held := benchmarks.held_by(one.prompt):
            remove(Removal(one.prompt.id, one.prompt.source, "benchmark", *held))
        else:
            kept.append(one)
    return kept


def without_near_duplicates(found: Sequence[Found], threshold: float, remove: Remove) -> list[Found]:
    """The prompts of which no two are alike from `threshold` on; test is kept before validation before train.

    MinHash finds whom to compare; how alike two are is then counted exactly, so that nothing is removed on an
    estimate. Of pairs just at the threshold about one in a hundred is not found, of nearer ones fewer.
    """
    from datasketch import MinHash, MinHashLSH  # loads scipy, which most runs need not wait for

    rows = rows_in_a_band(threshold)
    index = MinHashLSH(num_perm=_PERMUTATIONS, params=(_PERMUTATIONS // rows, rows))
    blank = MinHash(num_perm=_PERMUTATIONS, hashfunc=zlib.crc32, scheme="affine32")
    lost: set[int] = set()
    for place in sorted(range(len(found)), key=lambda place: FAIREST[found[place].prompt.split]):
        prompt = found[place].prompt
        own = _pieces(prompt.messages)
        sketch = blank.copy()
        sketch.update_batch([piece.encode(errors="surrogatepass") for piece in own])
        near = [(likeness(own, _pieces(found[other].prompt.messages)), -other) for other in index.query(sketch)]
        alike, nearest = max(near, default=(0.0, 0))
        if near and alike >= threshold:
            of = found[-nearest].prompt.id
            remove(Removal(prompt.id, prompt.source, "near_duplicate", of, f"likeness {alike:.3f}"))
            lost.add(place)
        else:
            index.insert(place, sketch, check_duplication=False)
    return [one for place, one in enumerate(found) if place not in lost]


def likeness(one: set[str], other: set[str]) -> float:
    """The share of their pieces that two texts have in common (Jaccard)."""
    return len(one & other) / len(one | other)


def rows_in_a_band(threshold: float) -> int:
    """The most hashes that must agree at once for which a pair at the threshold is still found in 99 of 100 cases.

    A pair of likeness t agrees in all r hashes of a band with probability t^r, and in none of b bands with
    (1 - t^r)^b.
    """
    for rows in range(_PERMUTATIONS, 1, -1):
        if 1 - (1 - threshold**rows) ** (_PERMUTATIONS // rows) >= _RECALL:
            return rows
    return 1


def words_of(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return _WORD.findall(text.lower())


def _pieces(messages: Sequence[Message]) -> set[str]:
    """Every five characters in a row of the words, so that one other word in a short prompt does not part two."""
    text = " ".join(words_of(text_of(messages))) or text_of(messages)
    return {text[start : start + _PIECE] for start in range(max(1, len(text) - _PIECE + 1))}


def _questions(row: Mapping[str, Any], where: str) -> list[str]:
    """What the user says in a row of a benchmark, turn by turn."""
    for column in _QUESTION_COLUMNS:
        value = row.get(column)
        if isinstance(value, str):
            return [turn["content"] for turn in turns.messages_from_text(value) if turn["role"] == "user"]
        if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
            return value
        if isinstance(value, list) and all(isinstance(entry, Mapping) for entry in value):
            return [str(entry.get("content")) for entry in value if entry.get("role") == "user"]
    raise DataError(
        f"{where}: a benchmark's row needs one of {', '.join(_QUESTION_COLUMNS)}; found: {', '.join(sorted(row))}"
    )
