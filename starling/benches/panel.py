"""A panel: several judges of the same cases, each for itself; what they say together, and how far they agree.

As Verga et al. (2024, arXiv:2404.18796) pool their juries: numbers are averaged, verdicts are voted on. What a member
could not judge is no vote: a case that only part of the panel judged counts for those members, not for the panel, whose
figure would else depend on who is missing.
"""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from starling import endpoints, figures, progress, stats, texts
from starling.account import Account
from starling.benches import filing
from starling.config import PANEL as NAME
from starling.errors import UsageError
from starling.speakers import endpoint_of, ledger_name
from starling.store import is_run

TIE = 0.5


class Member(NamedTuple):
    """A judge: what it says of each case in a number, and why it says nothing of others."""

    name: str
    said: Mapping[str, float]
    unread: Mapping[str, str]


class Opinion(NamedTuple):
    """What a panel says of a case; None where part of it, or nobody (`partly` is False), could be read, and why."""

    value: float | None
    reason: str = ""
    partly: bool = False


class Rule(NamedTuple):
    """How a panel makes one number of several, in words; what must be equal for two judges to say the same."""

    words: str
    pool: Callable[[Sequence[float]], float]
    same: str
    outcome: Callable[[float], Hashable]


def majority(votes: Sequence[float]) -> float:
    """The vote that more than half of the members cast, else a tie."""
    vote, count = Counter(votes).most_common(1)[0]
    return vote if 2 * count > len(votes) else TIE


def _side(preference: float) -> int:
    """Who is preferred: 1 the model, -1 the rival, 0 neither."""
    return (preference > TIE) - (preference < TIE)


MARKS = Rule("the mean of the members' marks", fmean, "the same mark", float)
VERDICTS = Rule("the verdict of more than half of the members, else a tie", majority, "the same verdict", float)
PREFERENCES = Rule("the mean of the members' preferences", fmean, "the same side", _side)


def names(judges: Sequence[str], account: Account | None = None) -> list[str]:
    """What each judge is called: by its model, and by its host too where several models have one name."""
    calls = [ledger_name(judge, account) for judge in judges]
    endpoints = [endpoint_of(judge, account) for judge in judges]
    short = [endpoint.model if endpoint else judge for endpoint, judge in zip(endpoints, judges, strict=True)]
    _refuse_two_spellings(judges)
    found = [one if short.count(one) == 1 else call for one, call in zip(short, calls, strict=True)]
    taken = [NAME] if len(judges) > 1 else []  # the panel writes files as its members do
    for one in map(filing.file_name, found):
        if one in taken:
            raise UsageError(
                f"bench: two judges of the panel are called {one}; give each --judge once, by its own name"
            )
        taken.append(one)
    return found


def _refuse_two_spellings(judges: Sequence[str]) -> None:
    """Stop where a folder, or the policy of a run, is given by two paths."""
    seen: dict[str, str] = {}
    for judge in judges:
        folder = endpoints.folder_of(str(Path(judge) / "tune" / "policy") if is_run(judge) else judge)
        before = seen.setdefault(folder, judge)
        if before != judge:
            raise UsageError(f"bench: the judges {before} and {judge} are one model; give each --judge once")


def together(members: Sequence[Member], rule: Rule) -> dict[str, Opinion]:
    """What the panel says of each case that any of its members was shown, in their order."""
    found = {}
    for case in dict.fromkeys(case for member in members for case in (*member.said, *member.unread)):
        votes = [member.said[case] for member in members if case in member.said]
        if len(votes) == len(members):
            found[case] = Opinion(rule.pool(votes))
            continue
        missing = "; ".join(
            f"{one.name}: {one.unread.get(case, 'not asked')}" for one in members if case not in one.said
        )
        by = "part of the panel" if votes else "nobody of the panel"
        found[case] = Opinion(None, f"judged by {by}; {missing}", bool(votes))
    return found


def agreement(members: Sequence[Member], clusters: Mapping[str, str], rule: Rule) -> list[dict[str, Any]]:
    """How often each two members, and of three or more all of them, say the same; and their alpha.

    The share is of the cases that all of them judged, alpha takes those that two or more did; cases of one of
    `clusters`, which names that of each case, go together in the intervals.
    """
    groups = list(combinations(members, 2))
    return [_agreement(group, clusters, rule) for group in (groups if len(members) == 2 else [*groups, tuple(members)])]


def _agreement(members: Sequence[Member], clusters: Mapping[str, str], rule: Rule) -> dict[str, Any]:
    value_UJ = np.array([[member.said.get(case, math.nan) for member in members] for case in clusters])
    hits, of = [], []
    for value_J, cluster in zip(value_UJ.tolist(), clusters.values(), strict=True):
        if not any(map(math.isnan, value_J)):
            hits.append(len({rule.outcome(value) for value in value_J}) == 1)
            of.append(cluster)
    same = stats.clustered_share(rule.same, hits, of)
    alpha = stats.krippendorff_alpha("Krippendorff's alpha", value_UJ, list(clusters.values()))
    return {"between": [member.name for member in members], "same": asdict(same), "alpha": asdict(alpha)}


def about(
    members: Sequence[tuple[str, Sequence[Mapping[str, Any]]]], between: Sequence[Mapping[str, Any]], rule: Rule
) -> dict[str, Any]:
    """What stands in a result: the rule, each member's own rows of the table, and the agreement."""
    return {
        "rule": rule.words,
        "members": [{"name": name, "rows": list(rows)} for name, rows in members],
        "same": rule.same,
        "agreement": list(between),
    }


def show(found: Mapping[str, Any]) -> None:
    """Print how far the members of a panel agree."""
    table = texts.table("agreement", str(found["same"]), "Krippendorff's alpha")
    for one in found["agreement"]:
        between = one["between"]
        named = " and ".join(between) if len(between) == 2 else f"all {len(between)}"
        same, alpha = one["same"], one["alpha"]
        told = figures.number_interval(alpha | {"n": alpha["n"] if alpha["n"] != same["n"] else 0})
        table.add_row(texts.terminal(named), figures.share_interval(same), told)
    progress.show(table)


def notes(opinions: Mapping[str, Opinion], unit: str) -> list[str]:
    """How many cases part of the panel judged, if any."""
    partly = sum(opinion.partly for opinion in opinions.values())
    said = f"{unit} that only part of the panel judged: {partly:,}; they count in its members' figures, not in its own"
    return [said] if partly else []
