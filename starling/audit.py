"""Bias and consistency of a judge, from its rankings: every figure with its n, every estimate with its interval.

Intervals are of 95 %: Wilson's for shares of calls about prompts of their own, else by bootstrap over prompts. A call
without a readable ranking counts as that and in nothing else; what else a figure leaves out, it counts.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats as scipy_stats

from starling import stats
from starling.judgement_rows import Judgement
from starling.judgements import Log
from starling.judges import naming
from starling.judges.ranks import kendall, middle_ranks
from starling.records import Score

FEW = 10  # ranks of a model: too few to place it among the others
Cases = Iterable[tuple[str, float]]  # prompt and value


def audit(log: Log) -> dict[str, Any]:
    """All figures of one log; `missing` says which cannot be had from it and why."""
    calls = log.calls
    read = [call for call in calls if call.ranks is not None]
    sizes = Counter(len(call.answers) for call in read)
    found = {
        "name": log.name,
        "form": log.form,
        "calls": len(calls),
        "prompts": len({call.prompt for call in calls}),
        "judges": dict(Counter(call.judge for call in read if call.judge).most_common()),
        "answers_per_call": dict(sorted(sizes.items())),
        "unparsed": unparsed(calls) if log.keeps_unread else None,
        "as_stored": _as_stored(calls),
        "positions": [found for k in sorted(sizes, key=lambda k: (-sizes[k], k)) if (found := position(read, k))],
        "length": length(read),
        "tied_pairs": tied_share(read),
        "pair_verdicts": pair_verdicts(read),
        "repeats": self_agreement(read),
        "models": models(read),
        "good_natured": _score((call.prompt, float(bool(call.good_natured))) for call in calls if _is_told(call)),
        "reply_characters": _score((call.prompt, len(call.reply)) for call in calls if call.reply is not None),
    }
    return found | {"missing": _missing(found, read)}


def unparsed(calls: Sequence[Judgement]) -> dict[str, Any]:
    """The share of calls without a readable ranking, and the reasons, most frequent first."""
    reasons = Counter(call.reason for call in calls if call.ranks is None)
    return _share((call.prompt, float(call.ranks is None)) for call in calls) | {"reasons": dict(reasons.most_common())}


def first_place_by_position(calls: Sequence[Judgement], k: int) -> dict[str, Any]:
    """How often the answer shown at each position came first, with a chi-square test against an even spread.

    Only calls with `k` answers, one presentation order and a single winner count. Calls about one prompt are not
    independent: Pearson's statistic is divided by their mean design effect (Rao and Scott 1981, first order), which is
    1 where each prompt has one call.
    """
    return _first_places(_won(calls, k), k)


def _first_places(won: Sequence[tuple[str, int]], k: int) -> dict[str, Any]:
    first = [sum(place == at for _, place in won) for at in range(k)]
    chi_square = _chi_square(won, k) if won else None
    return {
        "n": len(won),
        "first": first,
        "chi_square": chi_square,
        "p_value": None if chi_square is None else float(scipy_stats.chi2.sf(chi_square, k - 1)),
    }


def _won(calls: Sequence[Judgement], k: int) -> list[tuple[str, int]]:
    """Of each call that counts, its prompt and the place at which the winner was shown."""
    found = []
    for call in calls:
        winners = [index for index, rank in enumerate(call.ranks or ()) if rank == 1]
        if call.order is not None and len(call.order) == k and len(winners) == 1:
            found.append((call.prompt, list(call.order).index(winners[0])))
    return found


def _chi_square(won: Sequence[tuple[str, int]], k: int) -> float:
    prompts = {prompt: at for at, (prompt, _) in enumerate(won)}
    beyond_PK = np.zeros((len(won), k), int)  # first places of a prompt's calls beyond an even spread, k times
    for prompt, place in won:
        beyond_PK[prompts[prompt]] -= 1
        beyond_PK[prompts[prompt], place] += k
    plain = int((beyond_PK.sum(0) ** 2).sum()) / (k * len(won))
    effect = int((beyond_PK**2).sum()) / (k * len(won) * (k - 1))  # mean of the variances over the binomial ones
    return plain / effect if plain else 0.0


def position(read: Sequence[Judgement], k: int) -> dict[str, Any] | None:
    """First places and mean rank by position among the readable calls with `k` answers; None where no order is known.

    Tied answers share the mean of the places that they take, so that without any effect each position's mean rank
    is (k + 1) / 2. Total variation is the distance of the first places from an even spread: 0 none, 1 - 1/k all at one.
    """
    of_size = [call for call in read if len(call.answers) == k]
    shown = [call for call in of_size if call.order is not None]
    if k < 2 or not shown:
        return None
    won = _won(shown, k)
    found, n = _first_places(won, k), len(won)
    ranks = [(call, middle_ranks(call.ranks or ())) for call in shown]
    places = [
        {
            "place": place + 1,
            "count": count,
            "first": _share((prompt, float(at == place)) for prompt, at in won),
            "mean_rank": _score((call.prompt, middle[(call.order or ())[place]]) for call, middle in ranks),
        }
        for place, count in enumerate(found["first"])
    ]
    return found | {
        "k": k,
        "places": places,
        "degrees_of_freedom": k - 1,
        "total_variation": sum(abs(count / n - 1 / k) for count in found["first"]) / 2 if n else None,
        "no_single_winner": len(shown) - n,
        "order_not_known": len(of_size) - len(shown),
    }


def length(read: Sequence[Judgement]) -> dict[str, Any]:
    """How often the longer answer (in characters) stands above the shorter one; pairs tied in either say nothing."""
    cases = _longer_above(read)
    pairs = sum(1 for _ in _ranked_pairs(read))
    return _score(cases) | {"pairs_tied_or_as_long": pairs - len(cases)}


def pair_verdicts(read: Sequence[Judgement]) -> dict[str, Any]:
    """How far a ranking upholds the verdicts on pairs that were given before it; a tie in the ranking upholds half.

    From the replies: a share of verdicts, and how often the answer that is named first wins; the same of pairs in
    brackets alone, since judges who write pairs in one form are often counted by it. Where a log keeps only each
    call's share, the mean of these.
    """
    told = [call for call in read if call.pairs]
    won = [(call, pair, pair.winner) for call in told for pair in call.pairs if pair.winner is not None]
    upheld = []
    for call, pair, winner in won:
        ranks = call.ranks or ()
        loser = pair.second if winner == pair.first else pair.first
        gap = ranks[loser] - ranks[winner]  # above 0: the winner stands above the loser
        upheld.append((call.prompt, 0.5 * (1 + np.sign(gap))))
    kept = [(call.prompt, call.agreement) for call in read if call.agreement is not None]
    return {
        "upheld": _score(upheld),
        "first_named_wins": _score((call.prompt, float(winner == pair.first)) for call, pair, winner in won),
        "first_named_wins_in_brackets": _score(
            (call.prompt, float(winner == pair.first)) for call, pair, winner in won if pair.bracketed
        ),
        "no_winner_named": sum(pair.winner is None for call in told for pair in call.pairs),
        "pairs": sum(len(call.answers) * (len(call.answers) - 1) // 2 for call in read if call.reply is not None),
        "mean_of_calls": _score(kept),
    }


def self_agreement(read: Sequence[Judgement]) -> dict[str, Any]:
    """Kendall's tau-b between rankings of the same answers to the same prompt: every pair of repeats, mean."""
    groups: dict[tuple[str, frozenset[str]], list[Judgement]] = defaultdict(list)
    for call in read:
        groups[_item(call)].append(call)
    return _kendall(pair for group in groups.values() for pair in combinations(group, 2))


def agreement_between(one: Sequence[Judgement], other: Sequence[Judgement]) -> dict[str, Any]:
    """Kendall's tau-b between two logs, over the same answers to the same prompts."""
    others: dict[tuple[str, frozenset[str]], list[Judgement]] = defaultdict(list)
    for call in other:
        if call.ranks is not None:
            others[_item(call)].append(call)
    return _kendall((call, match) for call in one if call.ranks is not None for match in others.get(_item(call), ()))


def between(logs: Sequence[Log]) -> list[dict[str, Any]]:
    """The agreement of each two logs."""
    return [
        {"one": one.name, "other": other.name} | agreement_between(one.calls, other.calls)
        for one, other in combinations(logs, 2)
    ]


def models(read: Sequence[Judgement]) -> list[dict[str, Any]]:
    """The mean rank of each model as the rankings have it, best first: in all, good-natured and other conversations.

    Models with fewer than `FEW` ranks stand behind the others.
    """
    cases: dict[str, list[tuple[str, float, bool | None]]] = defaultdict(list)
    for call in read:
        for model, rank in zip(call.models, _places(call), strict=True):
            if model:
                cases[model].append((call.prompt, float(rank), call.good_natured))
    found = [
        {
            "model": model,
            "all": _score((prompt, rank) for prompt, rank, _ in ranked),
            "good_natured": _score((prompt, rank) for prompt, rank, good in ranked if good is True),
            "not_good_natured": _score((prompt, rank) for prompt, rank, good in ranked if good is False),
        }
        for model, ranked in cases.items()
    ]
    return sorted(found, key=lambda row: (row["all"]["n"] < FEW, row["all"]["value"]))


def tied_share(calls: Sequence[Judgement]) -> float:
    """The share of answer pairs that the judge calls equal."""
    pairs = [a == b for a, b in _ranked_pairs(calls)]
    return sum(pairs) / len(pairs) if pairs else 0.0


def _ranked_pairs(calls: Sequence[Judgement]) -> Iterator[tuple[float, float]]:
    """The ranks of each two answers; of two without a place the judge says nothing."""
    for call in calls:
        yield from (pair for pair in combinations(call.ranks or (), 2) if math.isfinite(min(pair)))


def _longer_above(calls: Sequence[Judgement]) -> list[tuple[str, float]]:
    cases = []
    for call in calls:
        answers = [(len(text), rank) for text, rank in zip(call.answers, call.ranks or (), strict=False)]
        for (chars_a, rank_a), (chars_b, rank_b) in combinations(answers, 2):
            if chars_a != chars_b and rank_a != rank_b:
                cases.append((call.prompt, float((chars_a > chars_b) == (rank_a < rank_b))))
    return cases


def _kendall(pairs: Iterable[tuple[Judgement, Judgement]]) -> dict[str, Any]:
    """The mean tau-b, its interval over prompts, and the pairs without one since a side calls all answers equal."""
    taus = []
    for one, other in pairs:
        places = _place_by_text(one), _place_by_text(other)
        texts = sorted(places[0])
        taus.append((one.prompt, kendall(*([side[text] for text in texts] for side in places))))
    known = [(prompt, tau) for prompt, tau in taus if tau is not None]
    return _score(known) | {"prompts": len({prompt for prompt, _ in known}), "all_tied": len(taus) - len(known)}


def _item(call: Judgement) -> tuple[str, frozenset[str]]:
    return call.prompt, frozenset(call.answers)


def _place_by_text(call: Judgement) -> dict[str, float]:
    """The rank of each distinct answer; answers with the same text cannot be told apart and share their mean."""
    ranks: dict[str, list[float]] = defaultdict(list)
    for text, rank in zip(call.answers, call.ranks or (), strict=True):
        ranks[text].append(rank)
    return {text: sum(values) / len(values) for text, values in ranks.items()}


def _places(call: Judgement) -> list[float]:
    """The ranks; answers without a place share the mean of the places that are left."""
    told = zip(call.ranks or (), middle_ranks(call.ranks or ()), strict=True)
    return [float(rank) if math.isfinite(rank) else middle for rank, middle in told]


def _is_told(call: Judgement) -> bool:
    return call.good_natured is not None


def _as_stored(calls: Sequence[Judgement]) -> dict[str, int] | None:
    told = [call.as_stored for call in calls if call.as_stored is not None]
    return {"n": len(told), "same": sum(told)} if told else None


def _score(cases: Cases) -> dict[str, Any]:
    listed = list(cases)
    return _plain(
        stats.cluster_mean(
            "", [value for _, value in listed], [prompt for prompt, _ in listed], resamples=stats.RESAMPLES
        )
    )


def _share(cases: Cases) -> dict[str, Any]:
    listed = list(cases)
    return _plain(
        stats.clustered_share(
            "", [value for _, value in listed], [prompt for prompt, _ in listed], resamples=stats.RESAMPLES
        )
    )


def _plain(score: Score) -> dict[str, Any]:
    return {key: value for key, value in asdict(score).items() if key != "name"}


def _missing(found: Mapping[str, Any], read: Sequence[Judgement]) -> dict[str, str]:
    """Which figures this log cannot give, and why."""
    replies = any(call.reply is not None for call in read)
    pairs, judges = found["pair_verdicts"], found["judges"]
    alone = bool(judges) and all(map(naming.reads_alone, judges))
    checks = {
        "position": (not found["positions"],
                     "the judge reads each answer alone, so no order can sway it" if alone
                     else "no ranking says in which one order its answers were shown"),
        "length effect": (not found["length"]["n"], "no two answers differ in both rank and length"),
        "pair verdicts": (not pairs["upheld"]["n"] and not pairs["mean_of_calls"]["n"],
                          "no reply names a winner" if replies else "neither replies nor `agreement` are kept"),
        "self-agreement": (not found["repeats"]["n"], "no prompt was ranked twice with the same answers"),
        "rank by model": (not found["models"], "the log does not say which model gave which answer"),
        "good-natured or not": (not found["good_natured"]["n"], "neither a column nor a reply says it"),
        "unparsed": (found["unparsed"] is None,
                     "a table holds only rankings that were read; audit its run, or --pool it with unranked rows"),
    }  # fmt: skip
    return {name: why for name, (is_missing, why) in checks.items() if is_missing}
