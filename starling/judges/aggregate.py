"""From many calls to one ranking of each prompt: mean rank, Plackett-Luce strengths, marks; and what places did.

A call that shows answer a at place p ranks by the Plackett-Luce model with scores strength_a + effect_p. Two answers of
a call are then ordered as in Bradley-Terry, whatever the others (Luce 1959).
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import optimize
from scipy.special import expit

from starling import stats
from starling.judges.parse import Unparsed
from starling.judges.ranks import mean_ranks, ranks_with_ties

FEWEST = 20  # prompts, below which effects are too unsure to use: at 10 their intervals hold the truth in 87 %, not 95
RIDGE = 0.01  # each strength costs RIDGE / 2 * strength^2: one that only ever won stays finite, each prompt sums to 0
ACCURACY = 1e-3  # strengths nearer than this are equal: the solver is better than that, no judge is
_CHUNK = 2_000  # items whose strengths are fitted at once: bounds the memory
_STEPS, _HALVINGS = 200, 40  # of Newton's method: far more than are needed
_SETTLED = 1e-12  # what a step could still gain in log-likelihood


class Contest(NamedTuple):
    """One readable call: whose answers (by item), which were shown in order, their ranks, or the one answer's mark."""

    item: int
    shown: Sequence[int]
    ranks: Sequence[float]
    repeat: int = 0
    mark: float | None = None


Aggregate = Callable[[Sequence[Contest], Sequence[int], float], list["list[float] | Unparsed"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionEffects:
    """What each of `k` places adds to the log-odds of an answer; the sum is 0. `n` pairs changed with their places.

    `low` and `high` are the ends of 95 % intervals from a variance that is robust to prompts as clusters; none where
    there are fewer than `FEWEST` prompts, or where the places explain every pair, so that no effect is too large.
    """

    k: int
    effect: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    n: int
    prompts: int

    @property
    def is_known(self) -> bool:
        """Whether there is an interval."""
        return len(self.low) > 0


def by_mean_rank(contests: Sequence[Contest], sizes: Sequence[int], margin: float) -> list[list[float] | Unparsed]:
    """Ranks by the mean over the calls, each of which ranks all answers of its item."""
    rankings: dict[int, list[list[float]]] = defaultdict(list)
    for contest in contests:
        placed = dict(zip(contest.shown, contest.ranks, strict=True))
        rankings[contest.item].append([placed[index] for index in range(sizes[contest.item])])
    return [
        mean_ranks(rankings[item]) if item in rankings else Unparsed("no call could be read")
        for item in range(len(sizes))
    ]


def by_mark(contests: Sequence[Contest], sizes: Sequence[int], margin: float) -> list[list[float] | Unparsed]:
    """Ranks by the mean mark of each answer; equal means tie, and an answer without a mark leaves its item unranked."""
    marks: dict[tuple[int, int], list[float]] = defaultdict(list)
    for contest in contests:
        if contest.mark is not None:
            marks[contest.item, contest.shown[0]].append(contest.mark)
    found: list[list[float] | Unparsed] = []
    for item, k in enumerate(sizes):
        given = [marks.get((item, index)) for index in range(k)]
        means = [round(sum(values) / len(values), 9) for values in given if values]
        missing = k - len(means)
        found.append(Unparsed(f"{missing} of {k} answers have no mark") if missing else ranks_with_ties(means, 0.0))
    return found


def by_strength(contests: Sequence[Contest], sizes: Sequence[int], margin: float) -> list[list[float] | Unparsed]:
    """Ranks by Plackett-Luce strengths of each item's calls; strengths within the margin of a level's best are tied."""
    return by_corrected_strength(contests, sizes, margin, {})


def by_corrected_strength(
    contests: Sequence[Contest], sizes: Sequence[int], margin: float, effects: Mapping[int, Sequence[float]]
) -> list[list[float] | Unparsed]:
    """The same with given effects of the places, by number of answers shown.

    The calls that could be read must connect all answers of an item, or nothing says how the parts compare.
    """
    values = strengths(contests, sizes, effects)
    links: dict[int, list[Sequence[int]]] = defaultdict(list)
    for contest in contests:
        links[contest.item].append(contest.shown)
    return [
        ranks_with_ties(values[item], max(margin, ACCURACY))
        if _are_connected(links[item], k)
        else Unparsed(f"the {len(links[item])} calls that could be read do not connect the {k} answers")
        for item, k in enumerate(sizes)
    ]


def strengths(
    contests: Sequence[Contest], sizes: Sequence[int], effects: Mapping[int, Sequence[float]], ridge: float = RIDGE
) -> list[list[float]]:
    """The strengths of each item's answers that make its calls likeliest, less the ridge; Newton's method in float64.

    minimise sum over calls of nll(ranks | strength + effect of place) + ridge / 2 * sum of strength^2

    Given the effects, an item's strengths depend on its own calls alone.
    """
    of_item: list[list[Contest]] = [[] for _ in sizes]
    for contest in contests:
        of_item[contest.item].append(contest)
    found: list[list[float]] = []
    for start in range(0, len(sizes), _CHUNK):
        ks = sizes[start : start + _CHUNK]
        chunk = [one._replace(item=one.item - start) for calls in of_item[start : start + _CHUNK] for one in calls]
        if not chunk:
            found += [[0.0] * k for k in ks]
            continue
        rows = _newton(*_padded(chunk, effects), shape=(len(ks), max(ks)), ridge=ridge)
        found += [[float(value) for value in row[:k]] for row, k in zip(rows, ks, strict=True)]
    return found


def _newton(
    item_C: NDArray[Any], shown_CK: NDArray[Any], place_CK: NDArray[Any], rank_CK: NDArray[Any],
    mask_CK: NDArray[Any], *, shape: tuple[int, int], ridge: float,
) -> NDArray[Any]:  # fmt: skip
    """The strengths of `shape` items and answers; each item takes a step of its own, halved until it helps enough."""
    import torch  # takes seconds to load, which whoever only plans need not wait for

    from starling.losses.ranking import plackett_luce_nll

    item, shown, place, rank, mask = map(torch.from_numpy, (item_C, shown_CK, place_CK, rank_CK, mask_CK))

    def values(strength_IK: torch.Tensor) -> torch.Tensor:
        nll_C = plackett_luce_nll(strength_IK[item].gather(1, shown) + place, rank, mask)
        return (ridge / 2 * strength_IK.square().sum(1)).index_add(0, item, nll_C)

    strength_IK = torch.zeros(shape, dtype=torch.float64)
    for _ in range(_STEPS):
        strength_IK.requires_grad_()
        value_I = values(strength_IK)
        (gradient_IK,) = torch.autograd.grad(value_I.sum(), strength_IK, create_graph=True)
        rows = [torch.autograd.grad(column.sum(), strength_IK, retain_graph=True)[0] for column in gradient_IK.T]
        gradient_IK, value_I = gradient_IK.detach(), value_I.detach()
        step_IK = torch.linalg.solve(torch.stack(rows, 1), gradient_IK)
        gain_I = (gradient_IK * step_IK).sum(1)
        strength_IK = strength_IK.detach()
        if gain_I.max() < _SETTLED:
            return strength_IK.numpy()
        share_I = torch.ones_like(gain_I)
        for _ in range(_HALVINGS):
            tried_I = values(strength_IK - share_I[:, None] * step_IK)
            worse_I = tried_I > value_I - 1e-4 * share_I * gain_I + _SETTLED
            if not worse_I.any():
                break
            share_I = torch.where(worse_I, share_I / 2, share_I)
        strength_IK = strength_IK - share_I[:, None] * step_IK
    raise AssertionError("a convex function with a ridge has a minimum that Newton's method finds")


class Disagreements:
    """What the places add, for each number of answers shown, from pairs of answers on which two calls disagree.

    That a beats b in one call and b beats a in the other has log-odds, against the reverse, in which the strengths
    cancel: (e_a - e_b) in the one call less (e_a - e_b) in the other. So the estimate needs no strengths, and few calls
    a prompt do not bias it (conditional likelihood, Chamberlain 1980). Calls that were added because the first
    `first_repeats` disagreed are compared among themselves only. Effects sum to 0, since only differences show. Of the
    calls only these pairs are kept, a byte for each place.
    """

    def __init__(self, first_repeats: int) -> None:
        self._first_repeats = first_repeats
        self._rows: dict[int, list[NDArray[np.int8]]] = defaultdict(list)
        self._items: dict[int, list[NDArray[np.int32]]] = defaultdict(list)
        self._seen = 0

    def add(self, contests: Sequence[Contest]) -> None:
        """Gather the calls about some items, numbered from 0; all calls about an item must come at once."""
        groups: dict[tuple[int, bool, frozenset[int]], list[Contest]] = defaultdict(list)
        for contest in contests:
            if len(contest.shown) > 1:
                added = contest.repeat >= self._first_repeats
                groups[contest.item, added, frozenset(contest.shown)].append(contest)
        rows: dict[int, list[NDArray[np.int8]]] = defaultdict(list)
        items: dict[int, list[int]] = defaultdict(list)
        for (item, _, answers), group in groups.items():
            k = len(answers)
            for one, other in combinations(group, 2):
                found = _disagreements(one, other, k).astype(np.int8)
                rows[k].append(found)
                items[k] += [self._seen + item] * len(found)
        for k in rows:
            self._rows[k].append(np.concatenate(rows[k]))
            self._items[k].append(np.array(items[k], dtype=np.int32))
        self._seen += 1 + max((contest.item for contest in contests), default=-1)

    def effects(self) -> list[PositionEffects]:
        """What all that was gathered says."""
        return [
            _fit_effects(k, np.concatenate(self._rows[k]).astype(float), np.concatenate(self._items[k]))
            for k in sorted(self._rows)
        ]


def position_effects(contests: Sequence[Contest], first_repeats: int) -> list[PositionEffects]:
    """The same from calls that are all at hand."""
    found = Disagreements(first_repeats)
    found.add(contests)
    return found.effects()


def _disagreements(one: Contest, other: Contest, k: int) -> NDArray[np.float64]:
    """For each pair of answers that two calls order differently: times the effects, the log-odds of just this."""
    answers = sorted(one.shown)
    place, rank = np.empty((2, k), dtype=int), np.empty((2, k))
    for row, call in enumerate((one, other)):
        at = [list(call.shown).index(answer) for answer in answers]
        place[row], rank[row] = at, [call.ranks[index] for index in at]
    a, b = np.triu_indices(k, 1)
    won = np.sign(rank[:, b] - rank[:, a])  # 1 where a beats b
    differ = won[0] * won[1] < 0
    a, b, sign = a[differ], b[differ], won[0][differ]
    unit = np.eye(k)
    gap = unit[place[0, a]] - unit[place[0, b]] - unit[place[1, a]] + unit[place[1, b]]
    return sign[:, None] * gap


def _fit_effects(k: int, row_Nk: NDArray[np.float64], item_N: NDArray[np.int32]) -> PositionEffects:
    if not len(row_Nk):
        return PositionEffects(k=k, effect=[0.0] * k, low=(), high=(), n=0, prompts=0)

    def objective(effect: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logit_N = row_Nk @ effect
        value = np.logaddexp(0.0, -logit_N).sum() + RIDGE / 2 * effect @ effect
        return float(value), -row_Nk.T @ expit(-logit_N) + RIDGE * effect

    options = {"ftol": 0.0, "gtol": 1e-8, "maxiter": 10_000}
    effect = optimize.minimize(objective, np.zeros(k), jac=True, method="L-BFGS-B", options=options).x
    wrong_N = expit(-row_Nk @ effect)
    hessian = (row_Nk * (wrong_N * (1 - wrong_N))[:, None]).T @ row_Nk + RIDGE * np.eye(k)
    items, index_N = np.unique(item_N, return_inverse=True)
    score = np.zeros((len(items), k))
    np.add.at(score, index_N, row_Nk * wrong_N[:, None])
    bread = np.linalg.inv(hessian)
    error = np.sqrt(np.maximum(np.diag(bread @ (score.T @ score) @ bread), 0.0))
    unsure = len(items) < FEWEST or stats.are_separated(np.unique(row_Nk, axis=0))  # by the places alone
    ends = () if unsure else (effect - stats.NORMAL * error, effect + stats.NORMAL * error)
    low, high = ([float(value) for value in end] for end in ends or ((), ()))
    return PositionEffects(
        k=k, effect=[float(value) for value in effect], low=low, high=high, n=len(row_Nk), prompts=len(items)
    )


def _padded(
    contests: Sequence[Contest], effects: Mapping[int, Sequence[float]]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Of each call its item; and per place: which answer, the effect of the place, the rank, whether one is there."""
    widest = max(len(contest.shown) for contest in contests)
    shape = (len(contests), widest)
    shown_CK, place_CK = np.zeros(shape, dtype=np.int64), np.zeros(shape)
    rank_CK, mask_CK = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=bool)
    for row, (_, shown, ranks, *_) in enumerate(contests):
        k = len(shown)
        shown_CK[row, :k] = shown
        place_CK[row, :k] = effects.get(k, 0.0)
        rank_CK[row, :k] = ranks
        mask_CK[row, :k] = True
    return np.array([contest.item for contest in contests]), shown_CK, place_CK, rank_CK, mask_CK


def _are_connected(links: Sequence[Sequence[int]], k: int) -> bool:
    """Whether each of `k` answers was compared with each other one, directly or through others."""
    reached, waiting = {0}, [0]
    near: dict[int, set[int]] = defaultdict(set)
    for shown in links:
        for answer in shown:
            near[answer].update(shown)
    while waiting:
        for answer in near[waiting.pop()] - reached:
            reached.add(answer)
            waiting.append(answer)
    return len(reached) == k
