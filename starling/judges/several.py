"""Several judges of the same answers as one judge: a panel.

Each member ranks by itself. The panel's ranking is by the mean of the members' ranks, ties at the middle of the places
that they take (Borda's count); equal means tie. A member that could not be read is left out for that prompt.
"""

from collections.abc import Sequence
from itertools import combinations
from statistics import fmean

from starling.config import PANEL
from starling.judges.protocol import Judge, Judged
from starling.judges.ranks import kendall, mean_ranks
from starling.records import Candidate, Prompt


def title(members: Sequence[str]) -> str:
    """What a panel of these judges is called."""
    return f"{PANEL} of {', '.join(members)}"


def members_named(judge: str) -> list[str]:
    """The judges that a judge's name holds: those of a panel, or itself."""
    return judge.removeprefix(f"{PANEL} of ").split(", ") if is_panel(judge) else [judge]


def is_panel(judge: str) -> bool:
    """Whether this is the name of a panel."""
    return judge.startswith(f"{PANEL} of ")


class Panel:
    """Ranks by what its members say together; implements `judges.protocol.Judge`."""

    def __init__(self, members: Sequence[Judge]) -> None:
        self.members = tuple(members)
        self.name = title([one.name for one in members])
        self.template_hash = ", ".join(dict.fromkeys(one.template_hash for one in members if one.template_hash))

    def rank(self, items: Sequence[tuple[Prompt, Sequence[Candidate]]]) -> list[Judged]:
        """One verdict for each item, in order, with that of each member in `members`."""
        said = zip(*(one.rank(items) for one in self.members), strict=True)
        return [self._together(of_item) for of_item in said]

    def _together(self, said: Sequence[Judged]) -> Judged:
        read = [one.ranks for one in said if one.ranks is not None]
        missing = [f"{one.name}: {told.reason}" for one, told in zip(self.members, said, strict=True) if told.reason]
        taus = [tau for one, other in combinations(read, 2) if (tau := kendall(one, other)) is not None]
        good = [one.good_natured for one in said if one.good_natured is not None]
        upheld = [one.agreement for one in said if one.agreement is not None]
        return Judged(
            ranks=mean_ranks(read) if read else None,
            reason="" if read else "; ".join(missing),
            replies=[reply for one in said for reply in one.replies],
            good_natured=2 * sum(good) >= len(good) if good else None,
            agreement=fmean(upheld) if upheld else None,
            self_agreement=fmean(taus) if taus else None,
            unread=sum(one.unread for one in said),
            calls=[call for one in said for call in one.calls],
            members=said,
        )


def members_of(judge: Judge) -> Sequence[Judge]:
    """The members of a panel, or the one judge itself."""
    return judge.members if isinstance(judge, Panel) else (judge,)
