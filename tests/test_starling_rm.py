"""The authors' four sets by their rules: by hand, and on their own scores."""

from pathlib import Path
from typing import Any

import pytest

from starling import bench
from starling.benches import starling_rm
from starling.benches.asked import Asked
from starling.errors import DataError

PUBLISHED = Path(__file__).resolve().parents[2] / "shared" / "data" / "rm_benchmarks"
needs_published = pytest.mark.skipif(
    not PUBLISHED.is_dir(), reason="the authors' benchmark files are not here (../shared/data)"
)


def row(number: int, scores: tuple[float, ...], **more: Any) -> dict[str, Any]:
    letters = "abc"[: len(scores)]
    return {
        "question_id": number, "prompt": f"p{number}", **{f"response_{x}": x * 3 for x in letters},
        **{f"score_{x}": score for x, score in zip(letters, scores, strict=True)}, **more,
    }  # fmt: skip


def figures_of(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found = [starling_rm.read(one, f"x:{number}") for number, one in enumerate(rows, 1)]
    return {one["name"]: one for one in starling_rm.rows(found, [item.stored or () for item in found])}


def test_human_preference_and_safety_by_hand() -> None:
    found = figures_of([
        row(1, (2.0, 1.0), winner="model_a"),  # right
        row(2, (2.0, 1.0), winner="model_b"),  # wrong
        row(3, (0.0, 1.0), winner="model_b"),  # right
        row(4, (0.0, 1.0), safer_response_id=0),  # wrong
        row(5, (0.0, 1.0), safer_response_id=1),  # right
    ])  # fmt: skip
    assert (found["human preference"]["value"], found["human preference"]["n"]) == (2 / 3, 3)
    assert (found["safety"]["value"], found["safety"]["n"]) == (1 / 2, 2)
    assert found["human preference"]["tied"] == 0
    assert (found["truth"]["value"], found["truth"]["note"]) == (None, "none scored")


def test_of_equal_scores_the_second_is_taken_and_the_tie_is_shown() -> None:
    for winner, right in (("model_a", 0), ("model_b", 1)):
        found = figures_of([row(1, (1.0, 1.0), winner=winner)])
        assert (found["human preference"]["value"], found["human preference"]["tied"]) == (right, 1)


def test_truth_is_the_mean_of_three_comparisons_by_hand() -> None:
    found = figures_of([
        row(1, (2.0, 1.0, 3.0)),     # a > b yes, c > b yes, c >= a yes
        row(2, (1.0, 2.0, 3.0)),     # no, yes, yes
        row(3, (3.004, 1.0, 3.001)), # yes, yes, yes: both 3.00
        row(4, (3.0, 2.0, 2.0)),     # yes, no: equal is not above, no
    ])  # fmt: skip
    parts = [found[name]["value"] for name in starling_rm.TRUTHS]
    assert parts == [3 / 4, 3 / 4, 3 / 4]
    assert found["truth"]["value"] == pytest.approx(sum(parts) / 3)
    assert (found["truth"]["n"], found["truth: a > b"]["n"]) == (4, 4)
    assert found["truth: c > b"]["tied"] == 1 / 4


def test_truths_parts_stand_for_what_they_say() -> None:
    found = figures_of([row(1, (0.0, 1.0, 2.0))])  # the false answer above the true one, the best above all
    assert [found[name]["value"] for name in starling_rm.TRUTHS] == [0, 1, 1]


def test_verbose_is_right_where_the_short_answer_wins() -> None:
    found = figures_of([row(1, (0.0, 1.0)), row(2, (0.0, 2.0)), row(3, (1.0, 1.0)), row(4, (1.0, 0.0))])
    assert found["verbose"]["value"] == 2 / 4  # the first two; equal scores are wrong


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"winner": "tie"}, "x:1: `winner` is 'tie', neither 'model_a' nor 'model_b'; take the row out"),
        ({"safer_response_id": 2}, "`safer_response_id` is 2, neither 0 nor 1"),
        ({"safer_response_id": True}, "`safer_response_id` is True"),
        ({"label": 1}, "x:1: of no set: .* found also: label"),
        ({"response_b": None}, "needs prompt, response_a, response_b; missing: response_b"),
        ({"score_b": None}, "2 answers need 2 stored scores"),
    ],
)
def test_a_row_of_no_set_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        starling_rm.read(row(1, (1.0, 2.0)) | change, "x:1")


@needs_published
def test_the_authors_scores_give_the_authors_figures() -> None:
    result = bench.run("starling_rm", Asked(scores="stored", data=str(PUBLISHED)))
    found = {one["name"]: one for one in result["rows"]}
    seen = {
        name: (round(100 * found[name]["value"], 2), found[name]["n"]) for name in ("human preference", "safety")
    } | {name: (round(100 * found[name]["value"], 2), found[name]["n"]) for name in starling_rm.TRUTHS}
    assert seen == {
        "human preference": (80.49, 492), "safety": (79.87, 457), "truth: a > b": (74.27, 443),
        "truth: c > b": (78.33, 443), "truth: c >= a": (60.50, 443),
    }  # fmt: skip
    assert round(100 * found["human preference"]["length_only"]["value"], 2) == 62.60
    assert found["truth"]["value"] == pytest.approx((0.742664 + 0.783296 + 0.604966) / 3, abs=1e-6)
    assert found["human preference"]["low"] < 0.78 < 0.83 < found["human preference"]["high"]
    assert result["left_out"]["reasons"] == {"no stored scores": 13}  # of the verbose set
