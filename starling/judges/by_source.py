"""The ranks that came with the answers as a judge: it passes them on and asks nobody."""

from collections import Counter
from collections.abc import Iterable, Sequence

from starling.errors import DataError
from starling.judge_settings import SOURCE
from starling.judges.protocol import Judged
from starling.judges.ranks import ranks_with_ties
from starling.records import Candidate, Prompt

NAME = SOURCE
Items = Sequence[tuple[Prompt, Sequence[Candidate]]]


class SourceJudge:
    """Ranks answers as their source does, ties included; implements `judges.protocol.Judge`.

    Of a source's answers those that were kept close up: 1, 3, 3 are ranked 1, 2, 2. A prompt with an answer that has no
    rank is left unranked with the reason.
    """

    name = NAME
    template_hash = ""

    def rank(self, items: Items) -> list[Judged]:
        """One verdict for each item, in order."""
        return [_judged(answers) for _, answers in items]


def refuse_unranked(shards: Iterable[Items], where: str) -> None:
    """Stop where no prompt has answers with ranks; `where` is the folder that they stand in."""
    reasons: Counter[str] = Counter()
    for items in shards:
        judged = SourceJudge().rank(items)
        if any(verdict.ranks is not None for verdict in judged):
            return
        reasons.update(verdict.reason for verdict in judged)
    why = ", ".join(f"{reason}: {count:,}" for reason, count in reasons.most_common())
    raise DataError(
        f"rank: judge = {NAME!r}, but none of {reasons.total():,} prompts in {where} has answers that its source ranks "
        f"({why}); name a judge that ranks them, or, in another run (--run), sources that have ranks: Nectar's `rank`, "
        "`chosen` and `rejected`, or `overall_score`"
    )


def _judged(answers: Sequence[Candidate]) -> Judged:
    ranks = [answer.rank for answer in answers if answer.rank is not None]
    if not ranks:
        return Judged(ranks=None, reason="no answer came with a rank")
    if len(ranks) < len(answers):
        return Judged(ranks=None, reason="not every answer came with a rank")
    if len(ranks) < 2:
        return Judged(ranks=None, reason="one answer alone")
    return Judged(ranks=ranks_with_ties([-rank for rank in ranks], 0.0))
