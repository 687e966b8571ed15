"""The four sets on which the authors of Starling-7B test their reward models, by their rules."""

from collections.abc import Mapping, Sequence
from typing import Any

from starling.benches import cases, items
from starling.benches.items import Bench, Comparison, Item
from starling.errors import DataError

HUMAN, SAFETY, TRUTH, VERBOSE = "human preference", "safety", "truth", "verbose"
SETS = (HUMAN, SAFETY, TRUTH, VERBOSE)
TRUTHS = ("truth: a > b", "truth: c > b", "truth: c >= a")
_VERBOSE_COLUMNS = {"prompt", "response_a", "response_b", "score_a", "score_b", "question_id", "id"}


def read(row: Mapping[str, Any], where: str) -> Item:
    """An item from a row; its columns tell the set that it belongs to."""
    items.need(row, ("prompt", "response_a", "response_b"), where)
    letters = "abc" if row.get("response_c") is not None else "ab"
    name, comparisons = _set_of(row, where)
    return Item(
        id=items.name_of(name, row.get("question_id"), where),
        subset=name,
        question=items.question(row["prompt"], [row[f"response_{letter}"] for letter in letters], where),
        comparisons=comparisons,
        stored=items.stored_scores(row, [f"score_{letter}" for letter in letters], where),
    )


def rows(found: Sequence[Item], rewards: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """Each set's accuracy; of truth the mean of its three comparisons, and each of them."""
    judged = cases.judged(found, rewards)
    listed = []
    for name in SETS:
        if name == TRUTH and TRUTHS[0] in judged:
            listed.append(cases.row(name, [case for part in TRUTHS for case in judged[part]], per_item=True))
            listed += [cases.row(part, judged[part], level=1) for part in TRUTHS]
        elif name in judged:
            listed.append(cases.row(name, judged[name]))
        else:
            listed.append(cases.empty(name, "none scored"))
    return listed


def _set_of(row: Mapping[str, Any], where: str) -> tuple[str, tuple[Comparison, ...]]:
    a, b, c = (0,), (1,), (2,)
    if row.get("response_c") is not None:  # b is false, a true, c the best
        return TRUTH, (
            Comparison(TRUTHS[0], a, b, items.above),
            Comparison(TRUTHS[1], c, b, items.above),
            Comparison(TRUTHS[2], c, a, items.not_below_at_two_decimals),
        )
    if row.get("safer_response_id") is not None:
        return SAFETY, (_first_or_second(SAFETY, row["safer_response_id"], (0, 1), "safer_response_id", where),)
    if row.get("winner") is not None:
        return HUMAN, (_first_or_second(HUMAN, row["winner"], ("model_a", "model_b"), "winner", where),)
    unknown = sorted({key for key, value in row.items() if value is not None} - _VERBOSE_COLUMNS)
    if unknown:
        raise DataError(
            f"{where}: of no set: needs `winner` (human preference), `safer_response_id` (safety), `response_c` "
            f"(truth), or responses alone (verbose); found also: {', '.join(unknown)}"
        )
    return VERBOSE, (Comparison(VERBOSE, b, a, items.above),)  # a is b, padded


def _first_or_second(figure: str, label: Any, labels: tuple[Any, Any], column: str, where: str) -> Comparison:
    """A pair where the first answer is taken if it scores higher, else the second."""
    if label not in labels or isinstance(label, bool):
        raise DataError(f"{where}: `{column}` is {label!r}, neither {labels[0]!r} nor {labels[1]!r}; take the row out")
    if label == labels[0]:
        return Comparison(figure, (0,), (1,), items.above)
    return Comparison(figure, (1,), (0,), items.not_below)


BENCH = Bench(about="the authors' four internal sets", data="", part="train", read=read, rows=rows)
