"""Several judges as one: whose ranks count, what their mean is, and what is told of each."""

import math
from collections.abc import Sequence

import pytest
from scripted import item
from tolerances import EXACT

from starling.judges import several
from starling.judges.protocol import Judged
from starling.judges.several import Panel


class Says:
    """A judge that says what it was told to, of one prompt after the other."""

    def __init__(self, name: str, *said: Sequence[float] | Judged, template_hash: str = "") -> None:
        self.name, self.template_hash = name, template_hash
        self._said = [one if isinstance(one, Judged) else Judged(ranks=one) for one in said]

    def rank(self, items):
        assert len(items) == len(self._said)
        return self._said


UNREAD = Judged(ranks=None, reason="prose", unread=1, replies=["They are nice."], calls=["k1"])
ABC = item("p", "a", "b", "c")


def together(*said: Sequence[float] | Judged) -> Judged:
    (found,) = Panel([Says(f"judge {number}", one) for number, one in enumerate(said)]).rank([ABC])
    return found


@pytest.mark.parametrize(
    ("said", "ranks"),
    [
        # 1 2 3 and 1 3 2: means 1, 2.5, 2.5
        (([1, 2, 3], [1, 3, 2]), [1, 2, 2]),
        # 1 2 3 and 3 2 1: all 2
        (([1, 2, 3], [3, 2, 1]), [1, 1, 1]),
        # 1 1 3 is 1.5 1.5 3; with 2 1 3: 3.5, 2.5, 6
        (([1, 1, 3], [2, 1, 3]), [2, 1, 3]),
        # 1 1 1 is 2 2 2 and moves nobody
        (([1, 1, 1], [3, 1, 2]), [3, 1, 2]),
        # sums of 1 2 3, 2 1 3 and 3 1 2: 6, 4, 8
        (([1, 2, 3], [2, 1, 3], [3, 1, 2]), [2, 1, 3]),
    ],
)
def test_the_panel_ranks_by_the_mean_of_its_members_ranks(said, ranks) -> None:
    assert together(*said).ranks == together(*said[::-1]).ranks == ranks


def test_who_could_not_be_read_is_left_out_and_told() -> None:
    found = together([2, 1, 3], UNREAD)
    assert (found.ranks, found.reason, found.unread) == ([2, 1, 3], "", 1)
    assert (found.self_agreement, found.calls, found.replies) == (None, ["k1"], ["They are nice."])
    assert [one.ranks for one in found.members] == [[2, 1, 3], None]


def test_a_prompt_that_nobody_ranked_has_the_reason_of_each() -> None:
    found = together(UNREAD, Judged(ranks=None, reason="cut off"))
    assert (found.ranks, found.reason) == (None, "judge 0: prose; judge 1: cut off")


def test_agreement_is_the_mean_tau_of_each_two_members() -> None:
    # 1 2 3 against 2 1 3: two pairs alike, one not, (2 - 1) / 3; against 1 2 3: 1; the third two again 1 / 3
    assert together([1, 2, 3], [2, 1, 3], [1, 2, 3]).self_agreement == pytest.approx((1 / 3 + 1 + 1 / 3) / 3, abs=EXACT)
    assert together([1, 2, 3], [1, 2, 3]).self_agreement == pytest.approx(1, abs=EXACT)
    assert together([1, 2, 3], [3, 2, 1]).self_agreement == pytest.approx(-1, abs=EXACT)
    assert together([1, 2, 3], [1, 1, 1]).self_agreement is None  # who ties all says nothing of order


def test_two_judges_alike_rank_as_one_does() -> None:
    for ranks in ([1, 2, 3], [1, 1, 3], [2, 2, 1]):
        assert together(ranks, ranks).ranks == ranks


def test_good_natured_is_what_half_of_those_who_say_it_say() -> None:
    yes, no, silent = (Judged(ranks=[1, 2, 3], good_natured=told) for told in (True, False, None))
    told = [together(*said).good_natured for said in ((yes, no), (no, no, yes), (yes, silent), (silent, silent))]
    assert told == [True, False, True, None]


def test_pair_verdicts_upheld_are_the_mean_of_those_who_gave_some() -> None:
    said = [Judged(ranks=[1, 2, 3], agreement=share) for share in (1.0, 0.5, None)]
    assert math.isclose(together(*said).agreement or 0, 0.75)
    assert together([1, 2, 3], [1, 2, 3]).agreement is None


def test_a_panel_is_called_by_its_members_and_has_their_templates() -> None:
    panel = Panel([Says("rubric"), Says("kwise:m@h", template_hash="ab"), Says("direct:m@h", template_hash="cd")])
    assert panel.name == "panel of rubric, kwise:m@h, direct:m@h"
    assert several.members_named(panel.name) == ["rubric", "kwise:m@h", "direct:m@h"]
    assert several.members_named("kwise:m@h") == ["kwise:m@h"]
    assert panel.template_hash == "ab, cd"
    assert (several.is_panel(panel.name), several.is_panel("rubric")) == (True, False)
    assert several.members_of(panel) == panel.members
    alone = Says("rubric")
    assert several.members_of(alone) == (alone,)
