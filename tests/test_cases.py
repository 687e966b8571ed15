"""From scores to figures: accuracy, length alone, lengths, ties, weights."""

import numpy as np
import pytest
from tolerances import EXACT

from starling.benches import cases, items
from starling.benches.cases import ALIKE, LONGER, SHORTER, Case
from starling.benches.items import Comparison, Item


def pair(prompt: str, chosen: str, rejected: str, figure: str = "f") -> Item:
    question = items.question(prompt, [chosen, rejected], "x")
    comparison = Comparison(figure, (0,), (1,), items.above)
    return Item(id=prompt, subset=figure, question=question, comparisons=(comparison,), stored=None)


PAIRS = [pair("p", "long long", "short"), pair("q", "no", "a lie"), pair("r", "same", "size"), pair("s", "yes", "ten")]
REWARDS = [(1.0, 0.0), (1.0, 0.0), (0.0, 1.0), (2.0, 2.0)]


def test_accuracy_length_alone_ties_and_lengths_by_hand() -> None:
    row = cases.row("f", cases.judged(PAIRS, REWARDS)["f"])
    assert (row["value"], row["n"]) == (2 / 4, 4)  # the first two; equal scores are wrong
    assert row["length_only"]["value"] == 1 / 4  # "long long" alone is longer
    assert row["tied"] == 1 / 4
    # 9 letters against 5: longer, right. 2 against 5: shorter, right. 4 against 4, 3 against 3: like, both wrong
    assert [(row["by_length"][kind]["value"], row["by_length"][kind]["n"]) for kind in cases.LENGTHS] == [
        (1, 1), (0, 2), (1, 1)
    ]  # fmt: skip


def test_turning_all_scores_round_turns_the_accuracy_round() -> None:
    turned = [tuple(-score for score in scores) for scores in REWARDS]
    row = cases.row("f", cases.judged(PAIRS, turned)["f"])
    assert row["value"] == 1 / 4  # of 3 decided pairs one was wrong; the tie stays wrong
    assert row["length_only"]["value"] == 1 / 4


def test_distinct_prompts_get_wilsons_interval() -> None:
    row = cases.row("f", cases.judged(PAIRS, REWARDS)["f"])
    # p = 1/2, n = 4, z = 1.96: half width = z / (1 + z^2/4) sqrt(1/16 + z^2/64)
    z = 1.959963984540054
    half = z / (1 + z * z / 4) * (1 / 16 + z * z / 64) ** 0.5
    assert (row["low"], row["high"]) == pytest.approx((0.5 - half, 0.5 + half), abs=EXACT)


def test_pairs_of_one_prompt_are_one_case_to_the_interval() -> None:
    four = [pair("p", f"{n}", "no") for n in range(4)] + [pair("q", f"{n}", "no") for n in range(4)]
    rewards = [(1.0, 0.0)] * 4 + [(0.0, 1.0)] * 4
    row = cases.row("f", cases.judged(four, rewards)["f"])
    assert row["value"] == 1 / 2
    assert (row["low"], row["high"]) == (0, 1)  # both prompts drawn from one: all right or all wrong


def test_prompts_that_are_all_right_do_not_prove_it_of_others() -> None:
    row = cases.row("f", cases.judged([pair(p, f"{n}", "no") for p in "pq" for n in range(2)], [(1.0, 0.0)] * 4)["f"])
    assert (row["value"], row["high"], row["n"]) == (1, 1, 4)
    assert 0.3 < row["low"] < 0.4  # two prompts: 1 / (1 + 1.96^2 / 2) = .342


def test_figures_with_equally_many_prompts_are_drawn_apart() -> None:
    both = [pair(f"{figure}{n}", "a" * (1 + n % 2), "b", figure) for figure in "xy" for n in range(40)]
    found = cases.judged(both, [(float(n % 2), 0.5) for _figure in "xy" for n in range(40)])
    x, y = (cases.resampled(figure, found[figure])[0].replicates for figure in "xy")
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.1
    right, longer = (part.replicates for part in cases.resampled("x", found["x"]))
    assert np.array_equal(right, longer)  # here the longer answer is the one that is right: the same prompts are drawn


def test_a_figure_without_cases_knows_nothing() -> None:
    row = cases.empty("f", "no rows")
    assert (row["value"], row["low"], row["tied"], row["n"], row["note"]) == (None, None, None, 0, "no rows")


@pytest.mark.parametrize(
    ("better", "worse", "kind"),
    [
        ([125], [100], ALIKE), ([126], [100], LONGER), ([100], [126], SHORTER), ([100], [125], ALIKE),
        ([0], [0], ALIKE), ([0], [1], SHORTER), ([10, 30], [10, 10, 25], LONGER),
    ],
)  # fmt: skip
def test_lengths_are_alike_within_a_quarter(better: list[float], worse: list[float], kind: str) -> None:
    assert cases.length_of(better, worse) == kind  # the last: means 20 against 15, a third more


def test_a_weighted_mean_by_hand() -> None:
    found = cases.judged(
        [pair("p", "a", "b", "x"), pair("q", "a", "b", "x"), pair("r", "aa", "b", "y")], [(1, 0), (0, 1), (1, 0)]
    )
    row = cases.weighted("both", {"x": 0.75, "y": 0.25}, found, "")
    assert row["value"] == pytest.approx(0.75 * 0.5 + 0.25 * 1, abs=EXACT)
    assert row["length_only"]["value"] == pytest.approx(0.25, abs=EXACT)
    assert row["n"] == 3
    # x is drawn anew from one right and one wrong prompt: 0, 1/2 or 1; y is always right
    assert (row["low"], row["high"]) == pytest.approx((0.25, 1.0), abs=EXACT)


def test_the_interval_of_a_weighted_mean_is_the_normal_one_where_cases_are_many() -> None:
    rng = np.random.default_rng(0)
    found, variance = {}, 0.0
    for name, n, p, weight in (("x", 400, 0.7, 0.3), ("y", 900, 0.4, 0.7)):
        right = rng.random(n) < p
        found[name] = [Case(str(i), f"{name}{i}", float(one), 0.0, False, ALIKE) for i, one in enumerate(right)]
        variance += weight**2 * right.mean() * (1 - right.mean()) / n
    row = cases.weighted("both", {"x": 0.3, "y": 0.7}, found, "")
    assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * variance**0.5, rel=0.06)
    assert row["low"] < row["value"] < row["high"]


def test_a_part_of_a_benchmark_is_told() -> None:
    found = cases.judged(PAIRS, REWARDS)["f"]
    assert cases.row("f", found, official=4)["note"] == ""
    assert cases.row("f", found, official=95)["note"] == "95 in the whole benchmark"
