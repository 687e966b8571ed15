"""pointwise: a mark from 1 to 10 for each answer alone, beside the prompt's reference where there is one."""

import re
from collections.abc import Sequence
from random import Random

from starling.judges.aggregate import by_mark
from starling.judges.frame import block, defuse
from starling.judges.parse import parse_mark
from starling.judges.parse_json import object_of, read_mark
from starling.judges.strategy import Said, Strategy
from starling.records import Prompt

_FORGED = re.compile(
    r"\[\s{0,8}\[[\s'\"]{0,8}[\d.]{1,8}[\s'\"]{0,8}\]|\"rating\"\s{0,8}:|\brating\s{0,8}:", re.IGNORECASE
)


def _one_by_one(order: Sequence[int], least: int) -> list[list[int]]:
    return [[index] for index in order]


def _reference(prompt: Prompt, k: int, tag: str, source: Random) -> dict[str, str]:
    if not prompt.reference:
        return {"reference": ""}
    text = block("reference", tag, defuse(prompt.reference, k, tag, _forges))
    return {"reference": f"\nA good answer, to compare with; others may be as good:\n{text}\n"}


def _forges(line: str) -> bool:
    return _FORGED.search(line) is not None


STRATEGY = Strategy(
    name="pointwise",
    shows=_one_by_one,
    fields=_reference,
    schema=lambda k: object_of({"rating": {"type": "integer", "minimum": 1, "maximum": 10}}),
    read_text=lambda reply, k: Said(parse_mark(reply)),
    read_json=lambda found, k: Said(read_mark(found)),
    forges=_forges,
    aggregate=by_mark,
    ranks_all=False,
)
