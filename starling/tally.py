"""What `rank` says of its rankings, from running sums, so that a shard can be forgotten once it is written."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any


class Tally:
    """Sums over rows as `rank/` and `unranked/` hold them."""

    def __init__(self) -> None:
        self.ranked = 0
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
