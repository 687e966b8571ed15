"""Where two texts differ, word by word."""

import difflib
import re
from collections.abc import Sequence

Piece = tuple[str, bool]
_SHORT = 2  # so few equal words between two differences are marked with them: single matches are chance
_ALIKE = 0.2  # share of a text that must be common before marks help to read it


def differences(base: str, tuned: str) -> dict[str, list[Piece]]:
    """Both texts in pieces, each with whether the other text lacks it there; joined they are the texts again."""
    words = {side: re.findall(r"\S+\s*|\s+", text) for side, text in (("base", base), ("tuned", tuned))}
    matcher = difflib.SequenceMatcher(None, words["base"], words["tuned"], autojunk=False)
    pieces: dict[str, list[Piece]] = {"base": [], "tuned": []}
    operations = matcher.get_opcodes()
    for number, (tag, *spans) in enumerate(operations):
        inside = 0 < number < len(operations) - 1
        differs = tag != "equal" or (inside and spans[1] - spans[0] <= _SHORT)
        for side, start, end in (("base", spans[0], spans[1]), ("tuned", spans[2], spans[3])):
            if start < end:
                _add(pieces[side], "".join(words[side][start:end]), differs)
    return pieces


def marked(base: str, tuned: str) -> tuple[dict[str, list[Piece]], bool]:
    """The same, and whether the texts have enough in common for marks; without it nothing is marked."""
    pieces = differences(base, tuned)
    if any(_common(own) >= _ALIKE for own in pieces.values()):
        return pieces, True
    return {"base": [(base, False)], "tuned": [(tuned, False)]}, False


def _common(pieces: Sequence[Piece]) -> float:
    """The share of a text that the other has too."""
    total = sum(len(text) for text, _ in pieces)
    return sum(len(text) for text, differs in pieces if not differs) / total if total else 0.0


def _add(pieces: list[Piece], text: str, differs: bool) -> None:
    if pieces and pieces[-1][1] == differs:
        pieces[-1] = (pieces[-1][0] + text, differs)
    else:
        pieces.append((text, differs))
