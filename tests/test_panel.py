"""Several judges of the same cases: what they say together, how far they agree, what they are called."""

import pytest

from starling.benches import panel
from starling.benches.panel import MARKS, PREFERENCES, VERDICTS, Member
from starling.errors import UsageError

ONE = Member("one", {"a": 8.0, "b": 6.0, "c": 7.0}, {"d": "prose"})
TWO = Member("two", {"a": 8.0, "b": 2.0}, {"c": "cut off", "d": "11 out of 10"})


@pytest.mark.parametrize(
    ("votes", "vote"),
    [
        ([1, 1, 0], 1), ([1, 0, 0], 0), ([1, 0.5, 0.5], 0.5), ([1, 0, 0.5], 0.5), ([1, 0], 0.5), ([1, 0.5], 0.5),
        ([1, 1], 1), ([1, 1, 0.5, 0], 0.5), ([1, 1, 0, 0], 0.5), ([1, 1, 1, 0, 0], 1), ([0.5, 0.5, 0, 0, 1], 0.5),
    ],
)  # fmt: skip
def test_a_verdict_is_that_of_more_than_half_and_else_a_tie(votes: list[float], vote: float) -> None:
    assert panel.majority(votes) == panel.majority(votes[::-1]) == vote
    assert panel.majority([1 - one for one in votes]) == 1 - vote  # seen from the other side


def test_a_case_that_part_of_the_panel_judged_has_no_value_but_a_reason() -> None:
    found = panel.together([ONE, TWO], MARKS)
    assert {case: opinion.value for case, opinion in found.items()} == {"a": 8, "b": 4, "c": None, "d": None}
    assert (found["c"].partly, found["c"].reason) == (True, "judged by part of the panel; two: cut off")
    assert (found["d"].partly, found["d"].reason) == (
        False,
        "judged by nobody of the panel; one: prose; two: 11 out of 10",
    )
    assert panel.notes(found, "turns") == [
        "turns that only part of the panel judged: 1; they count in its members' figures, not in its own"
    ]
    assert panel.notes(panel.together([ONE], MARKS), "turns") == []


def test_two_members_agree_on_the_cases_that_both_judged() -> None:
    (found,) = panel.agreement([ONE, TWO], {case: case for case in "abcd"}, MARKS)
    assert (found["between"], found["same"]["value"], found["same"]["n"]) == (["one", "two"], 0.5, 2)
    # 8 8 and 6 2: differences 0 and 4; values 8 8 6 2 around 6: 4 + 4 + 0 + 16 = 24; alpha = 1 - (3 / 4) x 16 / 24
    assert (found["alpha"]["value"], found["alpha"]["n"]) == (pytest.approx(0.5), 2)


def test_of_three_members_there_is_each_pair_and_all_of_them() -> None:
    three = Member("three", {"a": 1.0, "c": 7.0}, {})
    found = panel.agreement([ONE, TWO, three], {case: case for case in "abcd"}, MARKS)
    assert [len(one["between"]) for one in found] == [2, 2, 2, 3]
    assert [(one["same"]["value"], one["same"]["n"]) for one in found] == [(0.5, 2), (0.5, 2), (0, 1), (0, 1)]
    assert found[-1]["alpha"]["n"] == 3  # a, b and c have two marks or more


def test_probabilities_agree_where_they_prefer_the_same_side() -> None:
    said = [Member("x", {"a": 0.9, "b": 0.5, "c": 0.4}, {}), Member("y", {"a": 0.6, "b": 0.5, "c": 0.6}, {})]
    (found,) = panel.agreement(said, {case: case for case in "abc"}, PREFERENCES)
    assert found["same"]["value"] == pytest.approx(2 / 3)
    assert panel.agreement(said, {"a": "a"}, VERDICTS)[0]["same"]["value"] == 0


def test_members_that_share_no_case_have_no_agreement_and_that_prints(capsys: pytest.CaptureFixture[str]) -> None:
    found = panel.agreement([ONE, Member("z", {"d": 1.0}, {})], {case: case for case in "abcd"}, MARKS)
    assert found[0]["same"]["n"] == found[0]["alpha"]["n"] == 0
    panel.show(panel.about([], found, MARKS))
    told = capsys.readouterr().out
    assert "one and z" in told and "the same mark" in told and told.count("no cases") == 2


def test_judges_are_called_by_model_and_by_host_where_two_models_have_one_name() -> None:
    here, there = "openai:m@http://127.0.0.1:1/v1", "openai:m@https://there.example/v1"
    assert panel.names([here]) == ["m"]
    assert panel.names([here, "runs/x"]) == ["m", "runs/x"]
    one, other = panel.names([here, there])
    assert one.startswith("m@127.0.0.1") and other.startswith("m@there.example")
    assert panel.names(["panel"]) == ["panel"]
    for twice in ([here, here], ["a/b", "a-b"], ["panel", here]):
        with pytest.raises(UsageError, match="two judges of the panel are called"):
            panel.names(twice)


def test_two_paths_to_one_run_are_one_judge(tmp_path, monkeypatch) -> None:
    run = tmp_path / "runs" / "a"
    (run / "tune" / "policy").mkdir(parents=True)
    (run / "manifest.json").write_text("{}")
    (tmp_path / "other").symlink_to(run)
    monkeypatch.chdir(tmp_path)
    for spelling in ("runs/a/", "./runs/a", "runs/../runs/a", str(run), "other", "runs/a/tune/policy"):
        with pytest.raises(UsageError, match=f"^bench: the judges runs/a and {spelling} are one model; give each"):
            panel.names(["runs/a", spelling])
    assert panel.names(["runs/a", "runs/b"]) == ["runs/a", "runs/b"]
