"""kwise: is the request good-natured, who wins each pair, then the ranking, all in one call; the Nectar method."""

from itertools import combinations
from random import Random
from typing import Any

from starling.judges.aggregate import by_mean_rank
from starling.judges.parse import letters, parse_good_natured, parse_pair_verdicts, parse_ranking
from starling.judges.parse_json import object_of, read_pairs, read_ranking
from starling.judges.strategy import Said, Strategy, shows_all
from starling.records import Prompt


def _pairs(prompt: Prompt, k: int, tag: str, source: Random) -> dict[str, str]:
    """Every pair once, its order random inside and out."""
    pairs = [source.sample(pair, 2) for pair in combinations(letters(k), 2)]
    source.shuffle(pairs)
    return {"pairs": "\n".join(f"{first} vs {second}:" for first, second in pairs)}


def _schema(k: int) -> dict[str, Any]:
    label = {"type": "string", "enum": letters(k)}
    count = k * (k - 1) // 2
    pair = object_of({"pair": {"type": "string"}, "winner": label})
    return object_of({
        "good_natured": {"type": "boolean"},
        "pairs": {"type": "array", "items": pair, "minItems": count, "maxItems": count},
        "ranking": {"type": "array", "items": label, "minItems": k, "maxItems": k},
    })  # fmt: skip


def _read_text(reply: str, k: int) -> Said:
    return Said(parse_ranking(reply, k), parse_good_natured(reply), parse_pair_verdicts(reply, k))


def _read_json(found: dict[str, Any], k: int) -> Said:
    said = found.get("good_natured")
    return Said(read_ranking(found, k), said if isinstance(said, bool) else None, read_pairs(found, k))


STRATEGY = Strategy(
    name="kwise",
    shows=shows_all,
    fields=_pairs,
    schema=_schema,
    read_text=_read_text,
    read_json=_read_json,
    aggregate=by_mean_rank,
    ranks_all=True,
)
