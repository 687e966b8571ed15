"""Two models on the same cases, and what may be said of it."""

from itertools import product

import numpy as np
import pytest
from scipy import stats
from tolerances import EXACT

from starling.paired import compare, sentence, verdict


def each(n: int) -> list[str]:
    return [str(at) for at in range(n)]


def test_with_one_case_in_a_cluster_the_test_is_mcnemars() -> None:
    before, after = [0] * 8 + [1] * 2 + [1] * 20, [1] * 8 + [0] * 2 + [1] * 20
    found = compare("right", before, after, each(30))
    # 8 gained and 2 lost of 30: 6/30; 10 coins with at most 2 or at least 8 heads: 2 * (1 + 10 + 45) / 1024
    assert (found.gained, found.lost, found.n) == (8, 2, 30)
    assert found.value == pytest.approx(0.2, abs=EXACT)
    assert found.p == pytest.approx(112 / 1024, abs=EXACT)
    assert found.p == pytest.approx(stats.binomtest(2, 10).pvalue, abs=EXACT)
    assert not found.is_shown


def test_clusters_are_swapped_as_wholes() -> None:
    rng = np.random.default_rng(1)
    before, after = rng.random(24), rng.random(24)
    clusters = [str(at // 4) for at in range(24)]
    sums = [sum(after[at : at + 4] - before[at : at + 4]) for at in range(0, 24, 4)]
    # all 2^6 ways of swapping, by hand
    reached = [
        abs(sum(sign * one for sign, one in zip(signs, sums, strict=True))) for signs in product((1, -1), repeat=6)
    ]
    expected = np.mean([one >= abs(sum(sums)) - 1e-12 for one in reached])
    assert compare("x", before, after, clusters).p == pytest.approx(expected, abs=EXACT)


def test_alike_cases_of_one_cluster_do_not_feign_certainty() -> None:
    before, after = [0.0] * 20, [1.0] * 20
    assert compare("x", before, after, each(20)).p < 1e-3
    # 2 clusters can be swapped in 4 ways, 2 of which are as far from 0
    assert compare("x", before, after, ["a"] * 10 + ["b"] * 10).p == pytest.approx(0.5, abs=EXACT)
    assert compare("x", before, after, ["a"] * 20).p == 1.0


def test_swapping_the_models_turns_the_sign_and_nothing_else() -> None:
    before, after = [0, 0, 1, 1, 0, 1], [1, 1, 1, 0, 1, 1]
    one, other = compare("x", before, after, each(6)), compare("x", after, before, each(6))
    assert (other.value, other.gained, other.lost) == (-one.value, one.lost, one.gained)
    assert other.p == pytest.approx(one.p, abs=EXACT)
    assert other.smallest == pytest.approx(one.smallest, abs=EXACT)


def test_the_smallest_difference_by_hand() -> None:
    # differences 1, -1, 0, 0: mean 0, squares sum to 2, error sqrt(2)/4 = 0.35355; times 1.95996 + 0.84162
    found = compare("x", [0, 1, 0, 1], [1, 0, 0, 1], each(4))
    assert found.smallest == pytest.approx(2.80158 * 2**0.5 / 4, abs=1e-5)
    # nothing changed in 40 prompts: (1 - d)^40 = 0.05
    assert (1 - compare("x", [1] * 40, [1] * 40, each(40)).smallest) ** 40 == pytest.approx(0.05, abs=EXACT)


@pytest.mark.parametrize(("good", "word"), [(1, "better"), (-1, "worse"), (0, "different")])
def test_a_shown_difference_is_named_by_what_is_good(good: int, word: str) -> None:
    found = compare("refused", [0] * 40, [1] * 20 + [0] * 20, each(40))
    assert found.is_shown
    assert sentence(found, good=good).startswith(f"refused: {word}, +50.0 pt (")
    assert "(20 up, 0 down of 40 prompts; p = below 0.001)" in sentence(found, good=good)


def test_what_is_not_shown_is_said_with_what_could_have_been_seen() -> None:
    said = sentence(compare("right", [0, 1, 0, 1] * 5, [1, 0, 0, 1] * 5, [str(at // 2) for at in range(20)]))
    assert said.startswith("right: no difference is shown, +0.0 pt")
    assert "of 20 prompts; p = 1.000); a difference below" in said
    assert said.endswith("would probably not be seen with n = 20 in 10 groups.")


def test_without_cases_nothing_is_said() -> None:
    assert sentence(compare("right", [], [], []), unit="answers") == "right: no answers to compare."


def test_a_verdict_is_a_word_and_marks_are_no_percentages() -> None:
    up = compare("mark", [6.0] * 9, [7.0] * 9, each(9))
    assert [verdict(up, 1), verdict(up, -1), verdict(compare("mark", [6.0], [6.0], ["a"]), 1)] == [
        "better", "worse", "unclear",
    ]  # fmt: skip
    assert verdict(compare("nothing", [], [], []), 1) == "unclear"
    assert sentence(up, unit="turns", is_share=False).startswith("mark: better, +1.0")
    spread = compare("mark", [6.0, 7.0] * 4, [7.0, 6.0] * 4, each(8))
    assert " pt" not in sentence(spread, unit="turns", is_share=False)
    same = sentence(compare("mark", [6.0] * 4, [6.0] * 4, each(4)), unit="turns", is_share=False)
    assert same == "mark: no difference is shown, +0.00 (no interval) (0 up, 0 down of 4 turns; p = 1.000)."
