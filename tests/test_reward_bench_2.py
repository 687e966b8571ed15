"""RewardBench 2: best of four, and the Ties subset."""

import math
import random
from statistics import fmean
from typing import Any

import pytest
from tolerances import EXACT

from starling.benches import reward_bench_2
from starling.errors import DataError


def row(subset: str, name: str, right: list[float], wrong: list[float]) -> dict[str, Any]:
    return {
        "id": name, "prompt": f"{subset} {name}", "subset": subset, "chosen": [f"r{n}" for n in range(len(right))],
        "rejected": [f"w{n}" for n in range(len(wrong))], "num_correct": len(right), "scores": [*right, *wrong],
    }  # fmt: skip


def figures_of(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found = [reward_bench_2.read(one, f"x:{number}") for number, one in enumerate(rows, 1)]
    return {one["name"]: one for one in reward_bench_2.rows(found, [item.stored or () for item in found])}


def ties(*rows: tuple[str, list[float], list[float]]) -> float:
    return figures_of([row("Ties", name, right, wrong) for name, right, wrong in rows])["Ties"]["value"]


def test_the_published_counts() -> None:
    assert sum(reward_bench_2.SUBSETS.values()) == 1865


def test_best_of_four_by_hand() -> None:
    found = figures_of([
        row("Math", "1", [2.0], [1.0, 0.0, 0.0]),  # best: 1
        row("Math", "2", [2.0], [2.0, 0.0, 0.0]),  # shares the best with one: 1/2
        row("Math", "3", [1.0], [2.0, 0.0, 0.0]),  # 0
        row("Math", "4", [1.0], [1.0, 1.0, 1.0]),  # 1/4
    ])  # fmt: skip
    assert found["Math"]["value"] == pytest.approx((1 + 1 / 2 + 0 + 1 / 4) / 4, abs=EXACT)
    assert found["Math"]["tied"] == 2 / 4
    assert found["Math"]["note"] == "183 in the whole benchmark"
    assert found["overall"]["note"] == "mean of 1 of 6 subsets"


def test_the_ties_score_by_hand() -> None:
    # one right: margin 5 - 1 = 4. Many right: 4 and 3, wrong 1: margin 3 - 1 = 2, spread 1.
    # all above: 1 and 1; 2 > 1; min(4, 2) > 1; tanh(2 / 1 - 1)
    value = ties(("ref:1", [5.0], [1.0]), ("tied:1", [4.0, 3.0], [1.0]))
    assert value == pytest.approx(0.3 + 0.3 + 0.2 + 0.2 + 0.01 * math.tanh(1), abs=EXACT)


def test_the_smaller_margin_decides_the_harder_part() -> None:
    # one right: margin 1.5 - 1 = 0.5 below the spread of 1: the fourth part is lost; tanh(0.5 - 1)
    value = ties(("ref:1", [1.5], [1.0]), ("tied:1", [4.0, 3.0], [1.0]))
    assert value == pytest.approx(0.3 + 0.3 + 0.2 + 0.01 * math.tanh(-0.5), abs=EXACT)


def test_where_right_answers_score_alike_the_size_of_the_margin_is_its_sign() -> None:
    alike = ("tied:1", [3.0, 3.0], [1.0])
    assert ties(("ref:1", [5.0], [1.0]), alike) == pytest.approx(1.01, abs=EXACT)
    assert ties(("ref:1", [1.0], [1.0]), alike) == pytest.approx(0.3 + 0.2, abs=EXACT)  # 0 above 0: nothing
    assert ties(("ref:1", [0.0], [1.0]), alike) == pytest.approx(0.3 + 0.2 - 0.01, abs=EXACT)
    # a mean over both numbers: (1 + tanh(2 / 1 - 1)) / 2
    both = ties(("ref:1", [5.0], [1.0]), alike, ("ref:2", [5.0], [1.0]), ("tied:2", [4.0, 3.0], [1.0]))
    assert both == pytest.approx(1 + 0.01 * (1 + math.tanh(1)) / 2, abs=EXACT)


def test_a_wrong_answer_among_the_right_ones_loses_all_but_the_other_prompt() -> None:
    # many right: margin 2 - 3 = -1, spread 2: tanh(-1/2 - 1)
    value = ties(("ref:1", [5.0], [1.0]), ("tied:1", [4.0, 2.0], [3.0]))
    assert value == pytest.approx(0.3 + 0.01 * math.tanh(-1.5), abs=EXACT)


def test_a_prompt_without_its_counterpart_counts_in_its_own_accuracy_only() -> None:
    assert ties(("ref:1", [5.0], [1.0])) == pytest.approx(0.3, abs=EXACT)
    assert ties(("tied:1", [5.0, 4.9], [1.0])) == pytest.approx(0.3, abs=EXACT)
    assert ties(("ref:1", [5.0], [1.0]), ("tied:2", [5.0, 4.9], [1.0])) == pytest.approx(0.6, abs=EXACT)


def test_the_ties_score_agrees_with_its_definition_in_plain_words() -> None:
    rng = random.Random(3)
    rows = []
    for number in range(40):
        rows.append((f"ref:{number}", [rng.gauss(1, 1)], [rng.gauss(0, 1) for _ in range(3)]))
        rows.append((f"tied:{number}", [rng.gauss(2, 0.5) for _ in range(3)], [rng.gauss(0, 1) for _ in range(4)]))
    margin = {name: min(right) - max(wrong) for name, right, wrong in rows}
    spread = {name: max(right) - min(right) for name, right, _ in rows}
    both = [(margin[f"ref:{n}"], margin[f"tied:{n}"], spread[f"tied:{n}"]) for n in range(40)]
    expected = (
        0.3 * fmean(many > 0 for _, many, _ in both)
        + 0.3 * fmean(one > 0 for one, _, _ in both)
        + 0.2 * fmean(many > apart for _, many, apart in both)
        + 0.2 * fmean(min(one, many) > apart for one, many, apart in both)
        + 0.01 * fmean(math.tanh(min(one, many) / apart - 1) for one, many, apart in both)
    )
    assert ties(*rows) == pytest.approx(expected, abs=EXACT)
    assert ties(*rows[::-1]) == pytest.approx(expected, abs=EXACT)


def test_the_mean_is_over_subsets_and_not_over_rows() -> None:
    found = figures_of([
        *[row("Math", str(n), [2.0], [1.0, 0.0, 0.0]) for n in range(3)],
        row("Focus", "1", [0.0], [1.0, 0.0, 0.0]),
        row("Ties", "ref:1", [5.0], [1.0]),
        row("other", "1", [2.0], [1.0, 0.0, 0.0]),
    ])  # fmt: skip
    assert found["overall"]["value"] == pytest.approx((1 + 0 + 0.3) / 3, abs=EXACT)
    assert found["overall"]["n"] == 5
    assert (found["other"]["value"], found["other"]["note"]) == (1, "not in the mean")
    assert (found["Ties"]["n"], found["Safety"]["note"]) == (1, "none scored")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rejected": []}, "x:1: needs at least one chosen and one rejected"),
        ({"id": "7"}, "a row of Ties has an id like ref:7 or tied:7, not '7'"),
        ({"num_correct": 3}, "`num_correct` is 3 of 3 answers"),
        ({"num_correct": "x"}, "x:1: `num_correct` is 'x', not a number of answers"),
        ({"scores": 5}, "x:1: `scores` must be a list of numbers; found: 5"),
        ({"scores": [1.0]}, "x:1: 3 answers need 3 stored scores"),
        ({"subset": None}, "missing: subset"),
    ],
)
def test_a_row_that_cannot_be_counted_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        reward_bench_2.read(row("Ties", "tied:1", [1.0, 2.0], [0.0]) | change, "x:1")
