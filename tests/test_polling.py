"""A panel's verdicts on pairs of answers: its vote, each judge's win rate, their agreement; and where they are told."""

import json
from pathlib import Path

import pytest
import runs
from page_reader import Page, wrong_numbers
from test_several import Says

from starling import digest, polling, stats
from starling.judges.protocol import Judge, Judged
from starling.judges.several import Panel
from starling.records import Score
from starling.stages import report

BETTER, WORSE, EVEN = [1, 2], [2, 1], [1, 1]  # ranks of two answers: the first is better, worse, or as good
UNREAD = Judged(ranks=None, reason="prose")


def asked(*by_judge: list) -> tuple[Judge, list[Judged]]:
    """Judges that say these, pair by pair, and what came of it."""
    panel = Panel([Says(f"judge {number}", *said, template_hash="ab") for number, said in enumerate(by_judge)])
    return panel, panel.rank([None] * len(by_judge[0]))


def win_rate(votes: polling.Votes) -> Score:
    read = [vote for vote in votes if vote is not None]
    return stats.cluster_mean("win_rate", read, [str(at) for at in range(len(read))])


def test_the_vote_is_that_of_more_than_half_and_ties_are_half() -> None:
    judge, judged = asked(
        [BETTER, BETTER, BETTER, WORSE, EVEN],
        [BETTER, BETTER, EVEN, WORSE, EVEN],
        [BETTER, WORSE, WORSE, EVEN, BETTER],
    )
    assert polling.verdicts(judge, judged) == [1, 1, 0.5, 0, 0.5]


def test_two_who_disagree_are_a_tie_and_two_alike_say_what_one_does() -> None:
    judge, judged = asked([BETTER, WORSE, BETTER, EVEN], [WORSE, BETTER, EVEN, WORSE])
    assert polling.verdicts(judge, judged) == [0.5] * 4
    said = [BETTER, WORSE, EVEN]
    judge, judged = asked(said, said)
    alone = Says("judge 0", *said)
    assert polling.verdicts(judge, judged) == polling.verdicts(alone, alone.rank([None] * 3)) == [1, 0, 0.5]


def test_a_pair_that_one_of_them_could_not_judge_counts_for_the_other_alone() -> None:
    judge, judged = asked([BETTER, BETTER, WORSE, UNREAD], [BETTER, UNREAD, WORSE, UNREAD])
    assert polling.verdicts(judge, judged) == [1, None, 0, None]
    found = polling.facts(judge, judged, ["a", "b", "c", "d"], win_rate)
    assert found is not None
    one, other = found["members"]
    # 1, 1, 0 and 1, 0
    assert (one["win_rate"]["value"], one["win_rate"]["n"], one["unparsed"]) == (pytest.approx(2 / 3), 3, 1)
    assert (other["win_rate"]["value"], other["win_rate"]["n"], other["unparsed"]) == (0.5, 2, 2)
    assert (found["partly"], len(found["notes"])) == (1, 1)
    (between,) = found["agreement"]
    assert (between["same"]["value"], between["same"]["n"], between["alpha"]["value"]) == (1, 2, pytest.approx(1))


def test_who_could_be_read_nowhere_has_no_part_in_the_vote_and_is_named() -> None:
    judge, judged = asked([BETTER, WORSE, EVEN], [UNREAD] * 3, [BETTER, WORSE, WORSE])
    assert polling.verdicts(judge, judged) == [1, 0, 0.5]
    found = polling.facts(judge, judged, ["a", "b", "c"], win_rate)
    assert found is not None
    assert (found["silent"], found["partly"], len(found["notes"])) == (["judge 1"], 0, 1)
    judge, judged = asked([UNREAD], [UNREAD])
    assert polling.verdicts(judge, judged) == [None]


def test_why_pairs_have_no_verdict_is_counted_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    long = Judged(ranks=None, reason="too long")
    judge, judged = asked([BETTER, UNREAD, long, long], [BETTER, BETTER, UNREAD, long])
    found = polling.facts(judge, judged, list("abcd"), win_rate)
    assert found is not None
    assert [one["reasons"] for one in found["members"]] == [{"too long": 2, "prose": 1}, {"prose": 1, "too long": 1}]
    alone = [one.members[0] for one in judged]
    assert polling.tell_unread(alone) == {"reasons": {"too long": 2, "prose": 1}}
    said = "evaluate: 3 of 4 pairs could not be judged and do not count; most often (2): too long"
    assert said in " ".join(capsys.readouterr().out.split())
    assert [polling.why_unread(one) for one in alone[:2]] == [{}, {"reason": "prose"}]
    assert polling.tell_unread(alone[:1]) == {}


def test_agreement_by_hand() -> None:
    judge, judged = asked([BETTER, BETTER, WORSE, WORSE], [BETTER, WORSE, WORSE, WORSE])
    found = polling.facts(judge, judged, list("abcd"), win_rate)
    assert found is not None
    (between,) = found["agreement"]
    # 3 of 4 the same; squares of 1 1 1 0 0 0 0 0 about 3/8 sum to 15/8; of the one pair that differs 1 within, so
    # alpha = 1 - (n - 1) / n x within / among = 1 - 7/8 x 1 / (15/8) = 1 - 7/15
    assert (between["same"]["value"], between["alpha"]["value"]) == (0.75, pytest.approx(1 - 7 / 15))


def test_a_single_judge_has_no_panel() -> None:
    alone = Says("rubric", BETTER, UNREAD)
    judged = alone.rank([None, None])
    assert polling.verdicts(alone, judged) == [1, None]
    assert (polling.of_members(alone, judged), polling.facts(alone, judged, ["a", "b"], win_rate)) == ({}, None)


def test_the_panel_is_printed_with_each_judge(capsys: pytest.CaptureFixture[str]) -> None:
    judge, judged = asked([BETTER, BETTER, WORSE], [BETTER, UNREAD, WORSE])
    found = polling.facts(judge, judged, ["a", "b", "c"], win_rate)
    assert found is not None
    polling.show(found, {"value": 0.5, "low": 0.1, "high": 0.9, "n": 2}, judge.name)
    out = " ".join(capsys.readouterr().out.split())
    assert "panel of judge 0, judge 1 50.0 % (10.0 to 90.0), n = 2 1 in part" in out
    assert "judge 0 66.7 %" in out and "judge 0 and judge 1" in out, out
    assert "comparisons that only part of the panel judged: 1" in out


def test_a_panels_judges_stand_in_the_report_and_its_numbers(tmp_path: Path) -> None:
    run = runs.make(tmp_path / "run", judge="panel of rubric, kwise:<b>")
    judge, judged = asked([BETTER, BETTER, WORSE], [BETTER, UNREAD, WORSE])
    panel = polling.facts(judge, judged, ["a", "b", "c"], win_rate)
    stages = run.manifest["stages"]
    stages["evaluate"]["facts"]["panel"] = panel
    score = {"name": "x", "value": 0.5, "low": 0.25, "high": 0.75, "n": 12}
    stages["rank"]["facts"]["panel"] = {
        "members": [
            {"judge": name, "unparsed": score, "longer_ranked_above": {"share": 0.61, "n": 9}, "tied_pairs": 0.17}
            for name in ("rubric", "kwise:<b>")
        ],
        "agreement": [{"between": ["rubric", "kwise:<b>"], "tau": score, "alpha": score},
                      {"between": ["rubric", "kwise:<b>", "c"], "tau": None, "alpha": score}],
    }  # fmt: skip
    run._save()
    report.run(run)
    page = Page(run.report_path.read_text())
    numbers = json.loads(run.report_path.with_suffix(".json").read_text())
    assert wrong_numbers(page, numbers) == []
    places = {at for _, at, _ in page.numbers}
    assert "/result/panel/members/1/win_rate" in places and "/judge/panel/agreement/0/alpha" in places
    assert numbers["result"]["panel"]["members"][0]["win_rate"]["n"] == 3
    assert "kwise:<b>" in page.text and page.unbalanced == []
    plain = digest.digest(runs.make(tmp_path / "plain"))
    assert ("panel" in plain["result"], "panel" in plain["judge"]) == (False, False)
