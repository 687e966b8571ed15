"""From scores to figures: accuracy with its interval, beside length alone, by length of the right answer, with ties.

A row of a benchmark's table is a dict: `name`, the figure (`value`, `low`, `high`, `n`), `length_only` (the same figure
where characters are the score), `tied` (share of comparisons with exactly equal scores), `by_length`, `level` (0 = a
set or section, 1 = a part of it), `official` (cases of the whole benchmark, None where none is published), `note`.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from starling import stats, turns
from starling.benches.items import Comparison, Item
from starling.records import Score

LIKE = 1.25  # lengths whose ratio is at most this are alike
SHORTER, ALIKE, LONGER = LENGTHS = ("shorter", "like", "longer")


class Case(NamedTuple):
    """One comparison: is it right by reward and by length, are the deciding scores equal, how long is the right one?"""

    item: str
    prompt: str
    right: float
    longer: float
    tied: bool
    length: str


class Part(NamedTuple):
    """A figure of resampled prompts, to be averaged with others."""

    value: float
    replicates: NDArray[np.float64]
    n: int


def judged(items: Sequence[Item], rewards: Sequence[Sequence[float]]) -> dict[str, list[Case]]:
    """Every comparison of every item under the name of its figure, in the order of the items."""
    found: dict[str, list[Case]] = {}
    for number, (item, scores) in enumerate(zip(items, rewards, strict=True)):
        prompt = turns.text_of(item.question.messages)
        for comparison in item.comparisons:
            better, worse = _sides(comparison, scores)
            longer = _sides(comparison, item.lengths)
            case = Case(
                item=str(number),
                prompt=prompt,
                right=comparison.rule(better, worse),
                longer=comparison.rule(*longer),
                tied=min(better) == max(worse),
                length=length_of(*longer),
            )
            found.setdefault(comparison.figure, []).append(case)
    return found


def length_of(better: Sequence[float], worse: Sequence[float]) -> str:
    """Whether the right answers are shorter than the wrong ones, about as long, or longer; means, in characters."""
    right, wrong = fmean(better), fmean(worse)
    if max(right, wrong) <= LIKE * min(right, wrong):
        return ALIKE
    return SHORTER if right < wrong else LONGER


def row(
    name: str, found: Sequence[Case], *, level: int = 0, official: int | None = None, note: str = "",
    per_item: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """The row of a plain accuracy; with `per_item` n is the number of items, each with several comparisons."""
    scores = [_accuracy(name, [getattr(case, kind) for case in found], found) for kind in ("right", "longer")]
    if per_item:
        items = len({case.item for case in found})
        scores = [Score(name=s.name, value=s.value, low=s.low, high=s.high, n=items) for s in scores]
    return _row(scores[0], scores[1], found, level=level, official=official, note=note)


def weighted(name: str, weights: Mapping[str, float], found: Mapping[str, Sequence[Case]], note: str) -> dict[str, Any]:
    """The row of a mean of several figures' accuracies; `weights` sum to 1."""
    parts = [resampled(figure, found[figure]) for figure in weights]
    all_of = [case for figure in weights for case in found[figure]]
    right, longer = (_mean(name, [pair[side] for pair in parts], list(weights.values())) for side in (0, 1))
    return _row(right, longer, all_of, note=note)


def combined(
    name: str, parts: Sequence[Part], lengths: Sequence[Part], found: Sequence[Case], *, official: int | None = None,
    note: str = "",
) -> dict[str, Any]:  # fmt: skip
    """The row of a plain mean of parts."""
    even = [1 / len(parts)] * len(parts)
    return _row(_mean(name, parts, even), _mean(name, lengths, even), found, official=official, note=note)


def empty(name: str, note: str) -> dict[str, Any]:
    """The row of a figure without cases."""
    return row(name, [], note=note)


def resampled(name: str, found: Sequence[Case]) -> tuple[Part, Part]:
    """Accuracy by reward and by length, each with its values in resampled prompts, the same prompts for both; figures
    of other names have draws of their own."""
    prompts = {prompt: at for at, prompt in enumerate(dict.fromkeys(case.prompt for case in found))}
    total_CM, count_CM = np.zeros((len(prompts), 2)), np.zeros((len(prompts), 2))
    for case in found:
        total_CM[prompts[case.prompt]] += case.right, case.longer
        count_CM[prompts[case.prompt]] += 1
    by_reward, by_length = (resampled_sum(name, total_CM, count_CM, np.eye(2)[kind]) for kind in (0, 1))
    return Part(*by_reward, len(found)), Part(*by_length, len(found))


def resampled_sum(
    name: str, total_CM: NDArray[np.float64], count_CM: NDArray[np.float64], coefficient_M: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """A weighted sum of M means over C clusters, and its values in draws of whole clusters, which follow from the
    name: equally many clusters of another figure are not drawn alike."""
    mean_M = stats.ratio(total_CM.sum(0), count_CM.sum(0))
    mean_RM = stats.resampled_means(total_CM, count_CM, resamples=stats.RESAMPLES, seed=zlib.crc32(name.encode()))
    return float(mean_M @ coefficient_M), mean_RM @ coefficient_M


def _mean(name: str, parts: Sequence[Part], weights: Sequence[float]) -> Score:
    value = sum(weight * part.value for weight, part in zip(weights, parts, strict=True))
    replicates = np.sum([weight * part.replicates for weight, part in zip(weights, parts, strict=True)], axis=0)
    low, high = np.quantile(replicates, [0.025, 0.975])
    return Score(name=name, value=value, low=float(low), high=float(high), n=sum(part.n for part in parts))


def _accuracy(name: str, values: Sequence[float], found: Sequence[Case]) -> Score:
    prompts = [case.prompt for case in found]
    return stats.clustered_share(name, values, prompts, resamples=stats.RESAMPLES)


def _row(
    score: Score, length: Score, found: Sequence[Case], *, level: int = 0, official: int | None = None, note: str = ""
) -> dict[str, Any]:
    by_length = {}
    for kind in LENGTHS:
        of_kind = [case for case in found if case.length == kind]
        by_length[kind] = _plain(_accuracy(kind, [case.right for case in of_kind], of_kind))
    tied = sum(case.tied for case in found) / len(found) if found else None
    partly = official is not None and score.n != official
    notes = [f"{official:,} in the whole benchmark"] if partly else []
    return {
        "name": score.name, **_plain(score), "length_only": _plain(length), "tied": tied, "by_length": by_length,
        "level": level, "official": official, "note": "; ".join([*notes, note] if note else notes),
    }  # fmt: skip


def _plain(score: Score) -> dict[str, Any]:
    """The figure without its name; JSON has no NaN, so that what a figure without cases does not know is None."""
    told = {key: value for key, value in asdict(score).items() if key != "name"}
    return {key: None if math.isnan(value) else value for key, value in told.items()}


def _sides(comparison: Comparison, scores: Sequence[float]) -> tuple[list[float], list[float]]:
    return [scores[at] for at in comparison.better], [scores[at] for at in comparison.worse]
