"""What a judge's reply says, read strictly: a verdict that is not there is never made up."""

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from starling.judges.ranks import ranks_from_levels

MOST_ANSWERS = len(string.ascii_uppercase)  # they are lettered A to Z
QUOTES = " \t\r\n'\"`*\u2018\u2019\u201c\u201d"  # what may stand around a label
_BRACKET = re.compile(r"[\s\-*>#\d.)]{0,12}[(\[][^)\]]{1,40},")  # (A, B); not (A) vs (B)
_DOUBLE = re.compile(r"\[\s*\[")
_TOKEN = re.compile(r"[\[\],]|[^\[\],]+")
_LEAD = re.compile(r"\b(?:rank\w*|order|best to worst)\b", re.IGNORECASE)
_REVERSED = re.compile(
    r"\bworst[ -]first\b|\b(?:worst|least(?: \w+)?)(?: (?:one|answer|response))?[ -]to[ -](?:the )?(?:best|most)\b",
    re.IGNORECASE,
)
# Counted repetitions: a reply that loops on one character must not make the search explode.
_NAME = r"[\"'`*(]{{0,4}}(?:(?:Model|Answer|Response|Assistant)\s)?[\"'`*]{{0,4}}((?-i:{label}))[\"'`*)]{{0,4}}"
_SAYS = re.compile(
    r"good[-_ ]natured[^\w\n]{0,8}[:=][^\w\n]{0,8}(?P<word>yes|no|true|false)\b(?![\s\"'`*]{0,4}(?:or\b|/|\|))"
    r"|\b(?:this|it|conversation)[^\S\n]*(?:is|was|['\u2019]s)(?P<no>[^\S\n]*n['\u2019]t)?[^\S\n]+"
    r"(?:(?P<not>not)[^\S\n]+|(?:an?|really|clearly)[^\S\n]+){0,3}good[- ]natured\b",
    re.IGNORECASE,
)

# What is said of the better of two after its label; "is worse" is said of the other.
_BETTER = (
    r"is\s(?:the\s)?(?:(?:much|far|clearly|slightly|clear)\s)?"
    r"(?:better|best|winner|preferred|stronger|superior|more\s(?:helpful|accurate|detailed|complete|relevant|useful))"
)
_MARK = re.compile(r"(?:[1-9](?:\.[0-9]{1,2})?|10(?:\.0{1,2})?)")  # 1 to 10; ASCII digits alone

Tree = list["Tree | str"]


@dataclass(frozen=True)
class Ranked:
    """A strict ranking: 0-based indices into the answers as they were shown, best first."""

    order: list[int]


@dataclass(frozen=True)
class Tied:
    """A ranking with ties: lists of 0-based indices, best level first."""

    levels: list[list[int]]


WINNERS: Mapping[str, Ranked | Tied] = {"A": Ranked([0, 1]), "B": Ranked([1, 0]), "tie": Tied([[0, 1]])}


@dataclass(frozen=True)
class Scored:
    """A mark from 1 to 10 for one answer."""

    mark: float


@dataclass(frozen=True)
class Unparsed:
    """A reply without a readable ranking, and why."""

    reason: str


Verdict = Ranked | Tied | Scored | Unparsed


class Pair(NamedTuple):
    """A verdict on two answers: who was named first and second, and who won; None where no winner is named.

    `bracketed` says that the pair stood in brackets, `(A, B): A`, not as `A vs B: A`.
    """

    first: int
    second: int
    winner: int | None
    bracketed: bool = False


def letters(k: int) -> list[str]:
    """The labels A, B, C... of `k` answers."""
    if not 1 <= k <= MOST_ANSWERS:
        raise ValueError(f"{k} answers cannot be lettered A to Z")
    return list(string.ascii_uppercase[:k])


def parse_ranking(reply: str, k: int, labels: Sequence[str] | None = None) -> Ranked | Tied | Unparsed:
    """The ranking that a reply ends in, of `k` answers that were shown under A, B, C... or under `labels`.

    The last `[[...]]` counts, else the last `[...]`, else a final line that holds exactly the `k` labels, separated by
    commas. The form that is there decides: where it does not name each label once, no other form is tried.
    `[[A, B], C]` and `[[A = B, C]]` are ties.
    """
    names = letters(k) if labels is None else list(labels)
    if len(names) != k or len(set(names)) != k:
        raise ValueError(f"{len(set(names))} distinct labels for {k} answers")
    found = _last_list(reply)
    if isinstance(found, Unparsed):
        return found
    if found is None:
        line = next((line.strip() for line in reversed(reply.splitlines()) if line.strip()), "")
        before, _, listed = line.rpartition(":")
        around = line
        levels = [_names(entry) for entry in listed.rstrip(QUOTES + ".").split(",")]
        if (before and not _LEAD.search(before)) or not {name for level in levels for name in level} <= set(names):
            return Unparsed("no list in brackets, and the last line is not the labels separated by commas")
    else:
        start, end = found
        nested = _levels(_tree(reply[start:end]))
        if nested is None:
            return Unparsed("the list in brackets is empty or nested too deep")
        levels = nested
        around = _line_above(reply, start) + reply[start:].partition("\n")[0]
    if _REVERSED.search(around):
        return Unparsed("the ranking runs from worst to best")
    return permutation(levels, names)


def _line_above(reply: str, position: int) -> str:
    """What stands before a position on its own line, and the line above that holds something."""
    *above, own = reply[:position].split("\n")
    return next((line for line in reversed(above) if line.strip()), "") + "\n" + own


def ranks_of(verdict: Ranked | Tied) -> list[float]:
    """The ranks of the answers, in the order they were shown."""
    levels = [[place] for place in verdict.order] if isinstance(verdict, Ranked) else verdict.levels
    return ranks_from_levels(levels, sum(map(len, levels)))


def parse_winner(reply: str) -> Ranked | Tied | Unparsed:
    """Which of two answers a reply prefers: the last `[[A]]`, `[[B]]` or `[[tie]]`."""
    said = _last_double(reply)
    if isinstance(said, Unparsed):
        return said
    found = WINNERS.get("tie" if said.lower() == "tie" else said)
    return found or Unparsed(f"the verdict is {said[:40]!r}, not A, B or tie")


def parse_mark(reply: str) -> Scored | Unparsed:
    """The mark that a reply ends in: the last `[[n]]`, with n from 1 to 10."""
    said = _last_double(reply)
    if isinstance(said, Unparsed):
        return said
    return Scored(float(said)) if _MARK.fullmatch(said) else Unparsed(f"the mark is {said[:40]!r}, not 1 to 10")


def _last_double(reply: str) -> str | Unparsed:
    """What the last `[[...]]` holds, where the other ones on its line hold the same."""
    start = reply.rfind("[[")
    if start < 0:
        return Unparsed("no verdict in double brackets")
    line = reply[reply.rfind("\n", 0, start) + 1 :].partition("\n")[0]
    pieces = line.split("[[")[1:]
    said = {piece.partition("]]")[0].strip(QUOTES) for piece in pieces}
    if "]]" not in pieces[-1]:
        return Unparsed("the last verdict in double brackets is cut off")
    if len(said) > 1:
        return Unparsed(f"the last line names {len(said)} verdicts")
    if "[" in line.replace("[[", "") or "]" in line.replace("]]", ""):
        return Unparsed("the last verdict stands in more than double brackets")
    return said.pop()


def _last_list(reply: str) -> tuple[int, int] | Unparsed | None:
    """Where the last `[[...]]`, or else the last `[...]`, begins and ends; Unparsed where a later one is cut off."""
    opened: list[int] = []
    closed: list[tuple[int, int]] = []
    for match in re.finditer(r"[\[\]]", reply):
        if match.group() == "[":
            opened.append(match.start())
        elif opened:
            closed.append((opened.pop(), match.end()))
    doubles = [span for span in closed if _DOUBLE.match(reply, span[0])]
    if not closed:
        return None
    start, end = (doubles or closed)[-1]
    if any(position >= end and (not doubles or _DOUBLE.match(reply, position)) for position in opened):
        return Unparsed("the last list in brackets is cut off")
    return start, end


def _tree(text: str) -> Tree:
    """The nested lists of texts that a balanced `[...]` spells."""
    root: Tree = []
    stack = [root]
    for token in _TOKEN.findall(text):
        if token == "[":
            inner: Tree = []
            stack[-1].append(inner)
            stack.append(inner)
        elif token == "]":
            stack.pop()
        elif token != "," and token.strip():
            stack[-1].append(token)
    first = root[0]
    assert isinstance(first, list)
    return first


def _levels(tree: Tree) -> list[list[str]] | None:
    """The labels of each level, best first; None where the nesting says nothing clear."""
    if len(tree) == 1 and isinstance(tree[0], list):  # the double brackets of the Nectar form
        tree = tree[0]
        if len(tree) == 1 and isinstance(tree[0], list):
            return None
    levels: list[list[str]] = []
    for entry in tree:
        if isinstance(entry, str):
            levels.append(_names(entry))
        elif entry and all(isinstance(inner, str) for inner in entry):
            levels.append([name for inner in entry for name in _names(str(inner))])
        else:
            return None
    return levels or None


def _names(entry: str) -> list[str]:
    return [name.strip(QUOTES) for name in entry.strip(QUOTES).split("=")]


def permutation(levels: list[list[str]], names: Sequence[str]) -> Ranked | Tied | Unparsed:
    """The ranking that levels of labels say, best first; Unparsed where they do not hold each label once."""
    said = [name for level in levels for name in level]
    if unknown := [name for name in said if name not in names]:
        return Unparsed(f"the ranking names {unknown[0][:40]!r}, which is no label")
    if len(set(said)) < len(said):
        return Unparsed("the ranking names a label twice")
    if len(said) < len(names):
        return Unparsed(f"the ranking names {len(said)} of {len(names)} labels")
    indices = [[names.index(name) for name in level] for level in levels]
    return Ranked([level[0] for level in indices]) if len(indices) == len(names) else Tied(indices)


def parse_pairs(reply: str, k: int) -> list[Pair]:
    """Every pair that the reply gives a verdict on, in the order of these; of two about one pair the last counts.

    A verdict is a line such as `A vs B: A`, or one that ends on `A wins`. One that names no winner, or another answer,
    is a pair without a winner.
    """
    names = letters(k)
    name = _NAME.format(label="|".join(sorted(map(re.escape, names), key=len, reverse=True)))
    gap, dash = r"\s{0,3}", r"\u2013\u2014-"
    listed = re.compile(
        rf"^[\s\-*>#\d.)]{{0,12}}[(\[]?{name}{gap}(?:,|vs\.?|versus|or|and){gap}{name}[)\]]?{gap}[:=>{dash}]{{1,3}}{gap}"
        rf"(?=\S)(?:(?:(?:winner|better)\W{{1,3}})?{name}"
        rf"(?=\s*$|{gap}[.,;:(>]|\s{{1,3}}[{dash}]|\s(?:wins?|won|because|due|by|provides?|{_BETTER})\b))?",
        re.IGNORECASE,
    )
    ends = re.compile(rf"(?<![\w'\u2019])((?-i:{'|'.join(names)}))\s(?:wins|won)[.!]?\s*$", re.IGNORECASE)
    above = re.compile(rf"^[\s\-*#\d.)]{{0,12}}{name}{gap}>{gap}{name}\s*$", re.IGNORECASE)
    pairs: dict[frozenset[int], Pair] = {}
    for text in reply.splitlines():
        match = listed.match(text) or above.match(text)
        if match is None:
            continue
        first, second, *said = (names.index(group) if group else None for group in match.groups())
        assert first is not None and second is not None
        winner = said[0] if said else first
        if final := ends.search(text):
            winner = names.index(final[1])
        if first != second:
            pair = frozenset((first, second))
            pairs.pop(pair, None)
            pairs[pair] = Pair(first, second, winner if winner in pair else None, _BRACKET.match(text) is not None)
    return list(pairs.values())


def parse_pair_verdicts(reply: str, k: int) -> list[tuple[int, int]]:
    """(winner, loser) of each pair that the reply names a winner of, as 0-based indices; see `parse_pairs`."""
    return [
        (pair.winner, pair.second if pair.winner == pair.first else pair.first)
        for pair in parse_pairs(reply, k)
        if pair.winner is not None
    ]


def parse_good_natured(reply: str) -> bool | None:
    """Whether the judge calls the conversation good-natured; its last word on it, None where it says nothing."""
    said = None
    for match in _SAYS.finditer(reply):
        word = match["word"]
        said = word.lower() in ("yes", "true") if word else match["no"] is None and match["not"] is None
    return said
