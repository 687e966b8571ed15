"""What `rank` says of its rankings, from running sums, so that a shard can be forgotten once it is written."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from starling.judges.aggregate import Contest, Disagreements, PositionEffects


class Tally:
    """Sums over rows as `rank/` and `unranked/` hold them; the first `first_repeats` rankings of a prompt are always
    asked for."""

    def __init__(self, first_repeats: int = 1) -> None:
        self.ranked = 0
        self._asking = Asking()
        self._disagreements = Disagreements(first_repeats)
        self.reasons: Counter[str] = Counter()
        self._rank_sums: Counter[str] = Counter()
        self._rank_counts: Counter[str] = Counter()
        self._pairs = self._tied = self._compared = self._longer_above = 0

    @property
    def unranked(self) -> int:
        return self.reasons.total()

    def add(self, ranked: Sequence[Mapping[str, Any]], unranked: Sequence[Mapping[str, Any]]) -> None:
        """Count a shard's rows."""
        self.ranked += len(ranked)
        self.reasons.update(row["reason"] for row in unranked)
        self._asking.add(ranked, unranked)
        self._disagreements.add(_contests([*ranked, *unranked]))
        for row in ranked:
            for answer in row["answers"]:
                self._rank_sums[answer["model"]] += answer["rank"]
                self._rank_counts[answer["model"]] += 1
            lengths = [(len(answer["answer"]), answer["rank"]) for answer in row["answers"]]
            for (chars_a, rank_a), (chars_b, rank_b) in combinations(lengths, 2):
                self._pairs += 1
                self._tied += rank_a == rank_b
                if chars_a != chars_b and rank_a != rank_b:
                    self._compared += 1
                    self._longer_above += (chars_a > chars_b) == (rank_a < rank_b)

    def facts(self) -> dict[str, Any]:
        """Rows, the mean rank of each generator, the length effect and the share of tied pairs."""
        means = {model: total / self._rank_counts[model] for model, total in self._rank_sums.items()}
        share = self._longer_above / self._compared if self._compared else None
        return {
            "ranked": self.ranked,
            "unranked": self.unranked,
            "mean_rank": dict(sorted(means.items(), key=lambda entry: entry[1])),
            "longer_ranked_above": {"share": share, "n": self._compared},
            "tied_pairs": self._tied / self._pairs if self._pairs else 0.0,
        }

    def asking(self) -> dict[str, Any]:
        """How much of what a judge said could be read, and how far it agrees with itself."""
        return self._asking.facts()

    def position_effects(self) -> list[PositionEffects]:
        """What places added to the log-odds of an answer, as far as calls about the same answers can tell."""
        return self._disagreements.effects()


class Asking:
    """Sums over the calls behind the rows."""

    def __init__(self) -> None:
        self._replies = self._unread = self._in_part = 0
        self._repeats: Counter[int] = Counter()
        self._sums: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()

    def add(self, ranked: Sequence[Mapping[str, Any]], unranked: Sequence[Mapping[str, Any]]) -> None:
        """Count a shard's calls."""
        for row in (*ranked, *unranked):
            self._replies += len(row.get("orders") or ())
            self._unread += row.get("unread") or 0
            if row.get("repeats"):
                self._repeats[len(set(row["repeats"]))] += 1
        for row in ranked:
            self._in_part += bool(row.get("unread"))
            for key in ("self_agreement", "agreement"):
                if row.get(key) is not None:
                    self._sums[key] += row[key]
                    self._counts[key] += 1

    def facts(self) -> dict[str, Any]:
        """The sums, and the means over prompts where there are any."""
        means = {key: self._sums[key] / count for key, count in self._counts.items()}
        return {
            "replies": self._replies,
            "unread_calls": self._unread,
            "ranked_in_part": self._in_part,
            "prompts_by_repeats": {str(times): count for times, count in sorted(self._repeats.items())},
            "self_agreement": means.get("self_agreement"),
            "pair_verdicts_upheld": means.get("agreement"),
        }


def _contests(rows: Sequence[Mapping[str, Any]]) -> list[Contest]:
    """The readable calls that rows tell of one by one."""
    return [
        Contest(item, shown, ranks, repeat)
        for item, row in enumerate(rows)
        for shown, ranks, repeat in zip(
            row.get("orders") or (), row.get("rankings") or (), row.get("repeats") or (), strict=False
        )
        if ranks
    ]
