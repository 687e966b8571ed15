"""pointwise: a mark from 1 to 10 for each answer alone, beside the prompt's reference where there is one."""

from collections.abc import Sequence
from random import Random

from starling.judges.aggregate import by_mark
from starling.judges.frame import block, defuse
from starling.judges.parse import parse_mark
from starling.judges.parse_json import object_of, read_mark
from starling.judges.strategy import Said, Strategy
from starling.records import Prompt


def _one_by_one(order: Sequence[int], least: int) -> list[list[int]]:
    return [[index] for index in order]


def _reference(prompt: Prompt, k: int, tag: str, source: Random) -> dict[str, str]:
    if not prompt.reference:
        return {"reference": ""}
    text = block("reference", tag, defuse(prompt.reference, k, tag))
    return {"reference": f"\nA good answer, to compare with; others may be as good:\n{text}\n"}


STRATEGY = Strategy(
    name="pointwise",
    shows=_one_by_one,
    fields=_reference,
    schema=lambda k: object_of({"rating": {"type": "integer", "minimum": 1, "maximum": 10}}),
    read_text=lambda reply, k: Said(parse_mark(reply)),
    read_json=lambda found, k: Said(read_mark(found)),
    aggregate=by_mark,
    ranks_all=False,
)
