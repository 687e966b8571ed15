"""What is kept of a source: language, length, duplicates with their answers merged, enough answers, a fair draw."""

import heapq
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import NamedTuple

from starling import sources
from starling.config import PromptsTable, Source
from starling.errors import DataError, UsageError
from starling.forms import Answer, Found
from starling.records import SPLITS, Message, Prompt
from starling.sources import Removal
from starling.turns import text_of, without_marks

Remove = Callable[[Removal], None]
_NO_LETTER = re.compile(r"\s+|[^\w]|_")
FAIREST = {"test": 0, "validation": 1, "train": 2}  # of two prompts that are alike, the lower one is kept


class Kept(NamedTuple):
    """What a source gave: its prompts, and how many finds, empty answers and prompts past its limit it had."""

    form: str
    found: list[Found]
    read: int
    empty_answers: int
    over_limit: int


@dataclass(slots=True)
class _Seen:
    """The little that is held of a prompt until it is known which are kept."""

    id: str
    split: str
    answers: tuple[int, ...] = ()


def duplicate_key(messages: Sequence[Message]) -> bytes:
    """Equal for prompts that differ in case, spaces, punctuation and role markers only.

    Signs that make another word or sum stay: C#, x < y, 1.5, -5, 2 * 2.
    """
    text = text_of(messages)
    said = _NO_LETTER.sub(_sign, without_marks(text).lower())
    return _hash(said if any(map(str.isalnum, said)) else text)


def _sign(found: re.Match[str]) -> str:
    """What stays of a character that is no letter and no digit; "" where it is a space or punctuation."""
    sign, text, (start, end) = found[0], found.string, found.span()
    before, after = text[start - 1 : start], text[end : end + 2]
    if sign.isspace() or sign == "`":
        return ""
    if sign in ".,:":
        stays = before.isdecimal() and after[:1].isdecimal()
    elif sign in "-*":
        stays = after.lstrip()[:1].isdecimal()
    elif sign == "#":
        stays = before.isalnum()
    else:
        stays = sign in "%&@/\\" or unicodedata.category(sign)[0] in "MS"
    return sign if stays else ""


def distinct(answers: Iterable[Answer]) -> list[Answer]:
    """The answers without those whose exact text came before."""
    first: dict[str, Answer] = {}
    for answer in answers:
        first.setdefault(answer.text, answer)
    return list(first.values())


def merged(one: Found, other: Found) -> Found:
    """Two finds of the same prompt: that of the split that is kept, else the first, with the answers of both.

    A row's ranks say nothing of another's answers, so they go where both have some and the second adds one.
    """
    kept = one if FAIREST[one.prompt.split] <= FAIREST[other.prompt.split] else other
    named = ", ".join(dict.fromkeys([*one.prompt.source.split(", "), *other.prompt.source.split(", ")]))
    answers = distinct([*one.answers, *other.answers])
    if one.answers and len(answers) > len(one.answers):
        answers = [answer._replace(rank=None) for answer in answers]
    return replace(kept, prompt=replace(kept.prompt, source=named), answers=answers)


class Cleaner:
    """The rules of `[prompts]` that look at one source; each removal is told."""

    def __init__(self, cfg: PromptsTable, seed: int, remove: Remove) -> None:
        self.cfg = cfg
        self.seed = seed
        self.remove = remove
        self._shares = [getattr(cfg, split) for split in SPLITS]
        self._rank = _ranker(cfg.language) if cfg.language else None

    def clean(self, source: Source) -> Kept:
        """What is kept of a source. It is read twice, so that texts are held of what is kept only."""
        source = sources.resolved(source)
        seen, read, empty = self._survey(source)
        enough = {key for key, one in seen.items() if len(one.answers) >= source.min_answers}
        for key, one in seen.items():
            if key not in enough:
                reason = f"fewer_than_{source.min_answers}_answers"
                self.remove(Removal(one.id, sources.name_of(source), reason, detail="within its source"))
        chosen = enough
        if source.limit and len(enough) > source.limit:
            chosen = set(heapq.nsmallest(source.limit, enough, key=lambda key: _hash(f"{self.seed}:{key.hex()}")))
        kept: dict[bytes, Found] = {}
        key_of = self._keys()
        for found in sources.found(source):
            if isinstance(found, Removal):
                continue
            alike = duplicate_key(found.prompt.messages)
            if (key := key_of(alike)) in chosen:
                found = self._ready(found, source, alike)
                kept[key] = merged(kept[key], found) if key in kept else found
        form = "plain" if source.path == sources.BUILTIN else source.form
        return Kept(form, list(kept.values()), read, empty, len(enough) - len(chosen))

    def _survey(self, source: Source) -> tuple[dict[bytes, _Seen], int, int]:
        """Each prompt's key with what decides on it, and how many finds and empty answers the source has."""
        seen: dict[bytes, _Seen] = {}
        read = empty = 0
        refused: Removal | None = None
        key_of = self._keys()
        for found in sources.found(source):
            read += 1
            if isinstance(found, Removal):
                self.remove(found)
                refused = refused or found
                continue
            empty += sum(not answer.text.strip() for answer in found.answers)
            alike = duplicate_key(found.prompt.messages)
            key = key_of(alike)
            found = self._ready(found, source, alike)
            if refusal := self._refusal(found.prompt):
                reason, detail = refusal
                self.remove(Removal(found.prompt.id, found.prompt.source, reason, detail=detail))
                continue
            self._add(seen, key, found, source.min_answers)
        if refused and not seen and read:
            raise DataError(f"prompts: no row of {source.path} can be used, first {refused.detail}")
        return seen, read, empty

    def _add(self, seen: dict[bytes, _Seen], key: bytes, found: Found, min_answers: int) -> None:
        prompt = found.prompt
        one = seen.get(key)
        if one is None:
            one = seen[key] = _Seen(prompt.id, prompt.split)
        elif FAIREST[prompt.split] < FAIREST[one.split]:
            self.remove(Removal(one.id, prompt.source, "duplicate", prompt.id))
            one.id, one.split = prompt.id, prompt.split
        else:
            self.remove(Removal(prompt.id, prompt.source, "duplicate", one.id))
        if len(one.answers) < min_answers:
            texts = (int.from_bytes(_hash(answer.text)) for answer in found.answers)
            one.answers = tuple(dict.fromkeys((*one.answers, *texts)))[:min_answers]

    def _ready(self, found: Found, source: Source, alike: bytes) -> Found:
        """With the split that it belongs to, and without answers that are empty or twins."""
        split = found.prompt.split
        if found.dealt:
            split = (
                self._dealt(_hash(found.prompt.family) if found.prompt.family else alike)
                if source.split == "auto"
                else source.split
            )
        answers = distinct(answer for answer in found.answers if answer.text.strip())
        return replace(found, prompt=replace(found.prompt, split=split), answers=answers)

    def _dealt(self, mark: bytes) -> str:
        """A split by the mark of a prompt's family or text, whatever else the source holds and whatever the seed."""
        place = int.from_bytes(mark) / 2 ** (8 * len(mark)) * sum(self._shares)
        for split, share in zip(SPLITS, self._shares, strict=True):
            if place < share:
                return split
            place -= share
        return SPLITS[-1]

    def _keys(self) -> Callable[[bytes], bytes]:
        """What is one prompt of a source: a text where duplicates are merged, else a text and its number among equals;
        to be asked once for each find, in order."""
        met: Counter[bytes] = Counter()

        def key_of(alike: bytes) -> bytes:
            if self.cfg.merge_duplicates:
                return alike
            met[alike] += 1
            return alike + met[alike].to_bytes(4)

        return key_of

    def _refusal(self, prompt: Prompt) -> tuple[str, str] | None:
        text = text_of(prompt.messages)
        if self.cfg.longer_than and len(text) <= self.cfg.longer_than:
            return "too_short", f"{len(text)} characters"
        if self._rank:
            guesses = self._rank(text)[: self.cfg.language_guesses]
            if self.cfg.language not in guesses:
                return "language", ", ".join(guesses)
        return None


def union(found: Iterable[Found], cfg: PromptsTable, remove: Remove) -> list[Found]:
    """The finds of all sources as one list: duplicates merged where that is wanted, the rest with enough answers."""
    united: dict[bytes, Found] = {}
    for number, one in enumerate(found):
        key = duplicate_key(one.prompt.messages) if cfg.merge_duplicates else number.to_bytes(8)
        if key in united:
            both = merged(united[key], one)
            lost = one if both.prompt.id == united[key].prompt.id else united[key]
            remove(Removal(lost.prompt.id, lost.prompt.source, "duplicate", both.prompt.id))
            united[key] = both
        else:
            united[key] = one
    for one in united.values():
        if len(one.answers) < cfg.min_answers:
            reason = f"fewer_than_{cfg.min_answers}_answers"
            remove(Removal(one.prompt.id, one.prompt.source, reason, detail="over all sources"))
    return [one for one in united.values() if len(one.answers) >= cfg.min_answers]


def _ranker(language: str) -> Callable[[str], list[str]]:
    """A text -> its languages, likeliest first."""
    from py3langid import langid  # its model takes a second to load

    known = {code for code, _ in langid.rank("known languages")}
    if language not in known:
        raise UsageError(f"prompts: prompts.language = {language!r} is not one of {', '.join(sorted(known))}")
    return lambda text: [code for code, _ in langid.rank(text)]


def _hash(text: str) -> bytes:
    return blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
