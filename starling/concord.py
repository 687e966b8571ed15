"""How far the judges of a panel agree on rankings, and what each of them said, from running sums."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from starling import figures, panel_rows, progress, stats, texts
from starling.judges.protocol import Judge
from starling.judges.ranks import kendall, middle_ranks
from starling.panel_rows import Row
from starling.tally import Tally

GROUPS = 1000  # of prompts that alpha's interval resamples: bounds the memory, and no interval needs more


class Concord:
    """Sums over rows as `rank/` and `unranked/` hold them; `first_repeats` are those of each member."""

    def __init__(self, members: Sequence[Judge], first_repeats: Sequence[int]) -> None:
        self._members = members
        self._tallies = [Tally(times) for times in first_repeats]
        self._pairs = list(combinations(range(len(members)), 2))
        self._taus: list[list[float]] = [[] for _ in self._pairs]
        self._all_tied = [0] * len(self._pairs)
        self._halves: list[NDArray[np.int8]] = []  # of each prompt: twice the middle rank by answer and judge, 0 = none

    def add(self, ranked: Sequence[Row], unranked: Sequence[Row]) -> None:
        """Count a shard's rows."""
        for member, tally in zip(self._members, self._tallies, strict=True):
            rows = [panel_rows.of_member(row, member.name) for row in (*ranked, *unranked)]
            tally.add([row for row in rows if "answers" in row], [row for row in rows if "answers" not in row])
        for row in ranked:
            said = [one["ranks"] for one in row["panel"]]
            for number, (one, other) in enumerate(self._pairs):
                if not (said[one] and said[other]):
                    continue
                tau = kendall(said[one], said[other])
                self._all_tied[number] += tau is None
                self._taus[number] += [] if tau is None else [tau]
            whole = [middle_ranks(ranks) if ranks else [0.0] * len(row["answers"]) for ranks in said]
            self._halves.append((2 * np.array(whole).T).astype(np.int16))

    def facts(self, asking: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
        """Each member's rankings, calls and places, and how far each two agree, and all; `asking` is how each asks."""
        return {
            "members": [
                self._member(member, tally, how)
                for member, tally, how in zip(self._members, self._tallies, asking, strict=True)
            ],
            "agreement": self._agreement(),
        }

    def _member(self, member: Judge, tally: Tally, asking: Mapping[str, Any] | None) -> dict[str, Any]:
        prompts = tally.ranked + tally.unranked
        return {
            "judge": member.name,
            "template_hash": member.template_hash,
            **tally.facts(),
            "unparsed": asdict(stats.share("unparsed", tally.unranked, prompts)),
            "reasons": dict(tally.reasons.most_common(5)),
            "asking": None if asking is None else {**asking, **tally.asking()},
            "position_effects": [asdict(found) for found in tally.position_effects()],
        }

    def _agreement(self) -> list[dict[str, Any]]:
        value_UJ = np.concatenate([np.zeros((0, len(self._members)), np.int16), *self._halves]).astype(float)
        value_UJ[value_UJ == 0] = np.nan
        groups = [str(number % GROUPS) for number, block in enumerate(self._halves) for _ in block]
        found = []
        for (one, other), taus, tied in zip(self._pairs, self._taus, self._all_tied, strict=True):
            tau = stats.cluster_mean("Kendall's tau-b", taus, [str(number) for number in range(len(taus))])
            alpha = stats.ordinal_alpha("Krippendorff's alpha", value_UJ[:, [one, other]], groups)
            between = [self._members[at].name for at in (one, other)]
            found.append({"between": between, "tau": asdict(tau), "all_tied": tied, "alpha": asdict(alpha)})
        if len(self._members) > 2:
            alpha = stats.ordinal_alpha("Krippendorff's alpha", value_UJ, groups)
            names = [member.name for member in self._members]
            found.append({"between": names, "tau": None, "all_tied": None, "alpha": asdict(alpha)})
        return found


def named(between: Sequence[str]) -> str:
    """Between whom: both, or all of so many."""
    return " and ".join(between) if len(between) == 2 else f"all {len(between)}"


def show(found: Mapping[str, Any], limit: float) -> None:
    """Print what each judge of the panel said, and how far they agree; name who is unread on more than `limit`."""
    table = texts.table("judge", "prompts ranked", "could not be read")
    for one in found["members"]:
        table.add_row(
            texts.terminal(one["judge"]), figures.number(one["ranked"]), figures.share_interval(one["unparsed"])
        )
    progress.show(table)
    table = texts.table("agreement", "Kendall's tau-b, prompts", "Krippendorff's alpha, answers")
    for one in found["agreement"]:
        tau = "" if one["tau"] is None else figures.number_interval(one["tau"])
        table.add_row(texts.terminal(named(one["between"])), tau, figures.number_interval(one["alpha"]))
    progress.show(table)
    for one in found["members"]:
        if one["unparsed"]["value"] > limit:
            reason, times = next(iter(one["reasons"].items()))
            said = (
                f"rank: {one['judge']} could not be read on {one['unranked']:,} of {one['unparsed']['n']:,} prompts, "
                f"which the others rank without it; most often ({times:,}): {reason}"
            )
            progress.say(said)
