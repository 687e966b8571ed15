"""What each judge of a panel said, in a table's rows and back."""

from pathlib import Path

from scripted import item
from test_several import Says

from starling import data_files, panel_rows, tables
from starling.judges.protocol import Judged
from starling.judges.several import Panel
from starling.records import Ranking

WHOLE = Judged(
    ranks=[3, 1, 2], orders=[[2, 0, 1]], rankings=[[2, 3, 1]], repeats=[0], calls=["k"], good_natured=False, unread=0
)
UNREAD = Judged(ranks=None, reason="prose", unread=1, orders=[[0, 1, 2]], rankings=[[]], repeats=[0], calls=["u"])


def row_of(*said: Judged) -> dict:
    k = max(len(one.ranks or ()) for one in said)
    prompt, answers = item("p", *("a", "b", "c") if k == 3 else map(str, range(k)))
    panel = Panel([Says(f"judge {number}", one) for number, one in enumerate(said)])
    (verdict,) = panel.rank([(prompt, answers)])
    assert verdict.ranks is not None
    ranking = Ranking(
        prompt_id="p", messages=prompt.messages, answers=answers, ranks=verdict.ranks, judge=panel.name,
        calls=verdict.calls, unread=verdict.unread, panel=panel_rows.entries(panel.members, verdict.members),
    )  # fmt: skip
    return tables.ranking_row(ranking)


def test_a_members_ranks_and_orders_follow_the_answers_as_the_panel_sorts_them(tmp_path: Path) -> None:
    row = row_of(Judged(ranks=[2, 1, 3]), WHOLE)  # sums 5, 2, 5: b first, then a and c
    path = tmp_path / "rank" / "00000.parquet"
    data_files.write_parquet(path, [row], tables.PANEL_RANKINGS)
    (read,) = data_files.read_rows(path)
    assert [(one["answer"], one["rank"]) for one in read["answers"]] == [("b", 1), ("a", 2), ("c", 2)]
    assert panel_rows.judges(read) == ["judge 0", "judge 1"]
    first, second = read["panel"]
    assert (first["ranks"], second["ranks"]) == ([1, 2, 3], [1, 3, 2])  # of b, a, c
    assert second["orders"] == [[2, 1, 0]]  # c, a, b were shown
    assert (read["orders"], read["rankings"], read["calls"]) == ([], [], ["k"])
    ranking = tables.ranking_from_row(read, "here")
    assert [one["judge"] for one in ranking.panel] == ["judge 0", "judge 1"]
    again = tables.ranking_row(ranking)
    assert again["panel"] == read["panel"]


def test_a_members_row_is_the_one_that_it_would_have_made_alone() -> None:
    row = row_of(Judged(ranks=[2, 1, 3]), WHOLE)
    alone = panel_rows.of_member(row, "judge 1")
    assert {one["answer"]: one["rank"] for one in alone["answers"]} == {"a": 3, "b": 1, "c": 2}
    assert (alone["judge"], alone["good_natured"], alone["calls"], alone["repeats"]) == ("judge 1", False, ["k"], [0])
    assert "panel" not in alone
    shown = [alone["answers"][at]["answer"] for at in alone["orders"][0]]
    assert dict(zip(shown, alone["rankings"][0], strict=True)) == {"c": 2, "a": 3, "b": 1}


def test_a_member_that_could_not_be_read_leaves_an_unranked_row() -> None:
    alone = panel_rows.of_member(row_of(Judged(ranks=[1, 2, 3]), UNREAD), "judge 1")
    assert "answers" not in alone
    assert (alone["prompt_id"], alone["reason"], alone["unread"], alone["calls"]) == ("p", "prose", 1, ["u"])


def test_a_single_judges_rows_have_no_panel() -> None:
    prompt, answers = item("p", "a", "b")
    row = tables.ranking_row(
        Ranking(prompt_id="p", messages=prompt.messages, answers=answers, ranks=[1, 2], judge="rubric")
    )
    assert ("panel" in row, panel_rows.judges(row)) == (False, [])
    assert "panel" not in tables.RANKINGS.names
    assert tables.PANEL_RANKINGS.names[:-1] == tables.RANKINGS.names
