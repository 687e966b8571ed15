"""What each judge of a panel said, in the rows of `rank/` and `unranked/`."""

from collections.abc import Mapping, Sequence
from typing import Any

from starling.errors import DataError
from starling.judges.protocol import Judge, Judged

Row = Mapping[str, Any]


def entries(members: Sequence[Judge], said: Sequence[Judged]) -> list[dict[str, Any]]:
    """What the members say of one prompt, an entry each; one that could not be read has no ranks but a reason."""
    return [
        {
            "judge": judge.name,
            "template_hash": judge.template_hash,
            "ranks": list(one.ranks or ()),
            "reason": one.reason,
            "good_natured": one.good_natured,
            "orders": [list(order) for order in one.orders],
            "agreement": one.agreement,
            "rankings": [list(ranks) for ranks in one.rankings],
            "marks": list(one.marks) if any(mark is not None for mark in one.marks) else [],
            "self_agreement": one.self_agreement,
            "calls": list(one.calls),
            "repeats": list(one.repeats),
            "unread": one.unread,
        }
        for judge, one in zip(members, said, strict=True)
    ]


def judges(row: Row) -> list[str]:
    """The judges of a row's panel; none where a single judge ranked."""
    return [one["judge"] for one in row.get("panel") or ()]


def of_member(row: Row, judge: str, where: str = "") -> dict[str, Any]:
    """The row that this member would have made alone: a ranking, or an unranked row with the reason."""
    own = next((one for one in row.get("panel") or () if one["judge"] == judge), None)
    if own is None:
        raise DataError(f"{where}: {judge} did not rank here as on the panel of the first row; audit such rows apart")
    if not own["ranks"]:
        return {key: own[key] for key in ("reason", "orders", "rankings", "repeats", "unread", "calls")} | {
            "prompt_id": row["prompt_id"]
        }
    answers = [answer | {"rank": rank} for answer, rank in zip(row["answers"], own["ranks"], strict=True)]
    told = {key: value for key, value in own.items() if key not in ("ranks", "reason")}
    return {key: value for key, value in row.items() if key != "panel"} | told | {"answers": answers}
