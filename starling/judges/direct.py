"""direct: the ranking of all answers at once, without a word on pairs; the shortest call, the most swayed by place."""

from typing import Any

from starling.judges.aggregate import by_mean_rank
from starling.judges.parse import letters, parse_ranking
from starling.judges.parse_json import object_of, read_ranking
from starling.judges.strategy import Said, Strategy, no_fields, shows_all


def _schema(k: int) -> dict[str, Any]:
    label = {"type": "string", "enum": letters(k)}
    return object_of({"ranking": {"type": "array", "items": label, "minItems": k, "maxItems": k}})


STRATEGY = Strategy(
    name="direct",
    shows=shows_all,
    fields=no_fields,
    schema=_schema,
    read_text=lambda reply, k: Said(parse_ranking(reply, k)),
    read_json=lambda found, k: Said(read_ranking(found, k)),
    aggregate=by_mean_rank,
    ranks_all=True,
)
