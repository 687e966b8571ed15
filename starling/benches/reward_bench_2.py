"""RewardBench 2: the best of four answers, and prompts with many equally right answers (arXiv:2506.01937)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from starling.benches import cases, items
from starling.benches.items import Bench, Comparison, Item
from starling.errors import DataError

SUBSETS: Mapping[str, int] = {
    "Factuality": 475, "Precise IF": 160, "Math": 183, "Safety": 450, "Focus": 495, "Ties": 102,
}  # fmt: skip
TIES, OVERALL = "Ties", "overall"
REFERENCE, TIED = "ref", "tied"
PARTS = {REFERENCE: "Ties: one right answer, all right above all wrong", TIED: "Ties: many right answers, the same"}
# Weights of the five parts of the Ties score: accuracy on the many, on the one; margin over the spread of the right
# answers, the same for the smaller of both margins, and its size, which only parts equal scores.
_COEFFICIENTS = np.array([0.3, 0.3, 0.2, 0.2, 0.01])


def read(row: Mapping[str, Any], where: str) -> Item:
    """An item from a row with RewardBench 2's columns: `chosen` and `rejected` are lists."""
    items.need(row, ("prompt", "chosen", "rejected", "subset", "id"), where)
    chosen, rejected = (row[side] if isinstance(row[side], list) else [row[side]] for side in ("chosen", "rejected"))
    if not chosen or not rejected:
        raise DataError(f"{where}: needs at least one chosen and one rejected answer")
    subset, count = str(row["subset"]), len(chosen) + len(rejected)
    if subset.lower() == TIES.lower():
        subset = TIES
        right = row.get("num_correct") or len(chosen)
        if not isinstance(right, int | float) or right != int(right):
            raise DataError(f"{where}: `num_correct` is {right!r:.40}, not a number of answers")
        right = int(right)
        comparison = Comparison(
            PARTS[_kind(row["id"], where)[0]], tuple(range(right)), tuple(range(right, count)), items.above
        )
        if not 0 < right < count:
            raise DataError(f"{where}: `num_correct` is {right} of {count} answers; some must be right and some wrong")
    else:
        comparison = Comparison(subset, (0,), tuple(range(1, count)), items.share_of_best)
    scores = row.get("scores")
    if scores is not None and not isinstance(scores, list):
        raise DataError(f"{where}: `scores` must be a list of numbers; found: {scores!r:.40}")
    flat = [score[0] if isinstance(score, list) and len(score) == 1 else score for score in scores or ()]
    return Item(
        id=f"{subset}:{row['id']}",
        subset=subset,
        question=items.question(row["prompt"], [*chosen, *rejected], where),
        comparisons=(comparison,),
        stored=None if scores is None else items.checked_scores(flat, count, where),
    )


def rows(found: Sequence[Item], rewards: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """The mean over the subsets, and each of them."""
    judged = cases.judged(found, rewards)
    ties = [(item, scores) for item, scores in zip(found, rewards, strict=True) if item.subset == TIES]
    parts, lengths = {}, {}
    listed: list[dict[str, Any]] = []
    for subset, official in SUBSETS.items():
        if subset == TIES and ties:
            parts[subset] = ties_score([(item.id, item.comparisons[0], scores) for item, scores in ties])
            lengths[subset] = ties_score([(item.id, item.comparisons[0], item.lengths) for item, _ in ties])
            both = [case for name in PARTS.values() for case in judged.get(name, ())]
            listed.append(cases.combined(subset, [parts[subset]], [lengths[subset]], both, official=official))
            listed += [cases.row(name, judged[name], level=1) for name in PARTS.values() if name in judged]
        elif subset in judged:
            parts[subset], lengths[subset] = cases.resampled(subset, judged[subset])
            listed.append(cases.row(subset, judged[subset], official=official))
        else:
            listed.append(cases.empty(subset, "none scored"))
    others = set(judged) - SUBSETS.keys() - set(PARTS.values())
    listed += [cases.row(name, judged[name], note="not in the mean") for name in sorted(others)]
    counted = [case for name in judged if name not in others for case in judged[name]]
    if not parts:
        return [cases.empty(OVERALL, "no subset"), *listed]
    note = f"mean of {len(parts)} of {len(SUBSETS)} subsets" if len(parts) < len(SUBSETS) else ""
    return [cases.combined(OVERALL, list(parts.values()), list(lengths.values()), counted, note=note), *listed]


class _Margins(NamedTuple):
    """Of one prompt: whether all right answers score above all wrong ones, by how much, and how far the right ones
    lie apart (None for a single one)."""

    accurate: bool
    margin: float
    spread: float | None


def ties_score(scored: Sequence[tuple[str, Comparison, Sequence[float]]]) -> cases.Part:
    """The weighted score of the Ties subset, with its values in resampled prompts.

    A prompt number has a question with one right answer and one with many. With the margin m = lowest right - highest
    wrong and the spread s = highest right - lowest right:

        0.3 P(m_many > 0) + 0.3 P(m_one > 0) + 0.2 P(m_many > s) + 0.2 P(min(m_one, m_many) > s)
        + 0.01 mean tanh(min(m_one, m_many) / s - 1)

    The last three are over the numbers that have both questions and more than one right answer; where s = 0 the last is
    1, -1 or 0 by the sign of the smaller margin. A part without cases counts 0. So the best score is a little above 1.
    """
    by_number: dict[str, dict[str, _Margins]] = {}
    for name, comparison, scores in scored:
        kind, number = _kind(name.removeprefix(f"{TIES}:"), name)
        by_number.setdefault(number, {})[kind] = _margins(comparison, scores)
    total_CM, count_CM = np.zeros((len(by_number), 5)), np.zeros((len(by_number), 5))
    for at, kinds in enumerate(by_number.values()):
        for part, value in enumerate(_parts(kinds.get(REFERENCE), kinds.get(TIED))):
            if value is not None:
                total_CM[at, part], count_CM[at, part] = value, 1
    value, replicates = cases.resampled_sum(TIES, total_CM, count_CM, _COEFFICIENTS)
    return cases.Part(value, replicates, len(scored))


def _parts(one: _Margins | None, many: _Margins | None) -> tuple[float | None, ...]:
    accurate = (None if many is None else float(many.accurate), None if one is None else float(one.accurate))
    if one is None or many is None or many.spread is None:
        return (*accurate, None, None, None)
    smaller = min(one.margin, many.margin)
    size = math.tanh(smaller / many.spread - 1) if many.spread > 0 else float(np.sign(smaller))
    return (*accurate, float(many.margin > many.spread), float(smaller > many.spread), size)


def _margins(comparison: Comparison, scores: Sequence[float]) -> _Margins:
    right, wrong = ([scores[at] for at in side] for side in (comparison.better, comparison.worse))
    margin = min(right) - max(wrong)
    return _Margins(margin > 0, margin, max(right) - min(right) if len(right) > 1 else None)


def _kind(name: Any, where: str) -> tuple[str, str]:
    kind, _, number = str(name).partition(":")
    if kind not in PARTS or not number:
        raise DataError(f"{where}: a row of {TIES} has an id like ref:7 or tied:7, not {name!r}")
    return kind, number


BENCH = Bench(about="best of four, and ties", data="allenai/reward-bench-2", part="test", read=read, rows=rows)
