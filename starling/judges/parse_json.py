"""What a judge's reply in JSON says, read as strictly as its text: one object, or no verdict."""

import json
import re
from collections.abc import Sequence
from typing import Any

from starling.judges.parse import WINNERS, Ranked, Scored, Tied, Unparsed, letters, parse_pair_verdicts, permutation

_FENCE = re.compile(r"\A```(?:json)?(?>\s*\n)(.*)\n```\Z", re.DOTALL)


def read_object(reply: str) -> dict[str, Any] | Unparsed:
    """The one JSON object that a reply is; a code fence around it is allowed, text beside it is not."""
    text = reply.strip()
    fenced = _FENCE.match(text)
    try:
        found = json.loads(fenced[1] if fenced else text, object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        return Unparsed(f"the reply is not one JSON object: {' '.join(str(error).split())[:80]}")
    return found if isinstance(found, dict) else Unparsed("the reply is JSON, but no object")


def read_ranking(found: dict[str, Any], k: int) -> Ranked | Tied | Unparsed:
    """The list `ranking`: labels from best to worst; a list of labels inside it is a tie."""
    listed = found.get("ranking")
    if not isinstance(listed, list) or not listed:
        return Unparsed("the reply has no list `ranking`")
    levels = [entry if isinstance(entry, list) else [entry] for entry in listed]
    if not all(level and all(isinstance(name, str) for name in level) for level in levels):
        return Unparsed("`ranking` holds something else than labels")
    return permutation(levels, letters(k))


def read_pairs(found: dict[str, Any], k: int) -> list[tuple[int, int]]:
    """(winner, loser) of each entry of `pairs` that names a pair and one of the two as winner; the last one counts."""
    listed = found.get("pairs")
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    said = "\n".join(f"{entry.get('pair')}: {entry.get('winner')}".replace("\n", " ") for entry in entries)
    return parse_pair_verdicts(said, k)


def read_winner(found: dict[str, Any]) -> Ranked | Tied | Unparsed:
    """`winner`: A, B or tie."""
    said = found.get("winner")
    return WINNERS.get(said if isinstance(said, str) else "") or Unparsed(f"`winner` is {said!r:.40}, not A, B or tie")


def read_mark(found: dict[str, Any]) -> Scored | Unparsed:
    """`rating`: a number from 1 to 10."""
    said = found.get("rating")
    if isinstance(said, bool) or not isinstance(said, int | float) or not 1 <= said <= 10:
        return Unparsed(f"`rating` is {said!r:.40}, not a number from 1 to 10")
    return Scored(float(said))


def object_of(properties: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of an object with exactly these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError("a key stands twice in it")
    return dict(pairs)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")
