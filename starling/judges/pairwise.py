"""pairwise: two answers a call, each pair in both orders; ranks by Plackett-Luce, for two the same as Bradley-Terry."""

from collections.abc import Sequence

from starling.judges.aggregate import by_strength
from starling.judges.orders import meetings
from starling.judges.parse import Ranked, Tied, Unparsed, parse_winner
from starling.judges.parse_json import object_of, read_winner
from starling.judges.strategy import Said, Strategy, no_fields


def _both_orders(order: Sequence[int], least: int) -> list[list[int]]:
    """Who meets whom follows from the order; first each pair once, then each the other way round."""
    pairs = [[order[one], order[other]] for one, other in meetings(len(order), least)]
    return pairs + [pair[::-1] for pair in pairs]


def _said(verdict: Ranked | Tied | Unparsed) -> Said:
    return Said(verdict, None, [(verdict.order[0], verdict.order[1])] if isinstance(verdict, Ranked) else ())


STRATEGY = Strategy(
    name="pairwise",
    shows=_both_orders,
    fields=no_fields,
    schema=lambda k: object_of({"winner": {"type": "string", "enum": ["A", "B", "tie"]}}),
    read_text=lambda reply, k: _said(parse_winner(reply)),
    read_json=lambda found, k: _said(read_winner(found)),
    aggregate=by_strength,
    ranks_all=False,
)
