"""Figures with intervals."""

import math
from itertools import product

import numpy as np
import pytest
from tolerances import EXACT

from starling import stats


def test_the_mean_of_two_clusters_by_hand() -> None:
    # a: 0 0 0, b: 1. Mean 1/4; the four resamples aa ab ba bb have means 0, 1/4, 1/4, 1, each as likely
    found = stats.cluster_mean("x", [0, 0, 0, 1], ["a", "a", "a", "b"], resamples=2000)
    assert (found.name, found.value, found.low, found.high, found.n) == ("x", 0.25, 0.0, 1.0, 4)


def test_the_interval_is_that_of_all_resamples_of_whole_clusters() -> None:
    totals, counts = [0, 3, 1, 7, 2], [1, 4, 2, 7, 5]
    values = [1.0 if at < total else 0.0 for total, count in zip(totals, counts, strict=True) for at in range(count)]
    clusters = [name for name, count in zip("abcde", counts, strict=True) for _ in range(count)]
    means = [sum(totals[at] for at in drawn) / sum(counts[at] for at in drawn) for drawn in product(range(5), repeat=5)]
    found = stats.cluster_mean("x", values, clusters, resamples=20_000)
    assert found.value == pytest.approx(13 / 19, abs=EXACT)
    assert (found.low, found.high) == pytest.approx(np.percentile(means, [2.5, 97.5]), abs=0.02)


def test_cases_of_one_cluster_do_not_feign_certainty() -> None:
    values = [0.0, 1.0] * 3
    few = stats.cluster_mean("x", values * 20, ["abcdef"[at % 6] for at in range(120)], resamples=1000)
    many = stats.cluster_mean("x", values * 20, [str(at) for at in range(120)], resamples=1000)
    assert few.high - few.low > 2 * (many.high - many.low)


def test_a_value_of_weight_two_is_that_value_twice() -> None:
    clusters = list("aabcd")
    weighed = stats.cluster_mean("x", [0.0, 1.0, 0.5, 1.0, 0.0], clusters, weights=[2, 1, 1, 3, 1], resamples=500)
    twice = stats.cluster_mean("x", [0, 0, 1, 0.5, 1, 1, 1, 0], list("aaabcccd"), resamples=500)
    assert (weighed.value, weighed.low, weighed.high) == pytest.approx((twice.value, twice.low, twice.high), abs=EXACT)
    assert weighed.value == 4.5 / 8
    assert (weighed.n, twice.n) == (5, 8)


def test_without_cases_everything_is_nan() -> None:
    found = stats.cluster_mean("x", [], [])
    assert (math.isnan(found.value), math.isnan(found.low), math.isnan(found.high), found.n) == (True, True, True, 0)


@pytest.mark.parametrize(
    ("values", "clusters", "mean"),
    [([1, 0, 0, 0], "aaaa", 0.25), ([0.5, 0.5, 0.5], "abc", 0.5), ([1, 0, 0, 1], "aabb", 0.5)],
    ids=["one cluster", "all equal", "equal clusters"],
)
def test_where_resampling_changes_nothing_the_interval_is_a_point(values, clusters, mean) -> None:
    found = stats.cluster_mean("x", values, clusters)
    assert (found.value, found.low, found.high) == (mean, mean, mean)


def test_the_interval_depends_on_cases_and_seed_alone() -> None:
    values, clusters = [0.1, 0.9, 0.4, 0.7, 0.2, 0.6], list("abcdef")
    one = stats.cluster_mean("x", values, clusters, resamples=200, seed=3)
    assert one == stats.cluster_mean("x", values, clusters, resamples=200, seed=3)
    backwards = stats.cluster_mean("x", values[::-1], clusters[::-1], resamples=200, seed=3)
    assert (backwards.low, backwards.high) == (one.low, one.high)
    assert (one.low, one.high) != tuple(
        getattr(stats.cluster_mean("x", values, clusters, resamples=200, seed=4), side) for side in ("low", "high")
    )


def test_many_clusters_have_the_interval_that_resampling_goes_to() -> None:
    clusters = [str(at) for at in range(stats.MANY)]
    # half 0 and half 1: standard error 1/2 / sqrt(10,000) = 0.005
    found = stats.cluster_mean("x", [at % 2 for at in range(stats.MANY)], clusters)
    assert (found.value, found.n) == (0.5, stats.MANY)
    assert (found.low, found.high) == pytest.approx((0.5 - 0.005 * 1.959964, 0.5 + 0.005 * 1.959964), abs=1e-8)
    # the same cases twice in their clusters are no more certain
    twice = stats.cluster_mean("x", [at % 2 for at in range(stats.MANY)] * 2, clusters * 2)
    assert (twice.low, twice.high) == pytest.approx((found.low, found.high), abs=EXACT)


def test_a_share_has_wilsons_interval_by_hand() -> None:
    # 2 of 4: centre 1/2, half width z / (1 + z^2 / n) * sqrt(1/16 + z^2 / 64) with n = 4
    z = 1.959963984540054
    half = z / (1 + z * z / 4) * math.sqrt(1 / 16 + z * z / 64)
    found = stats.share("x", 2, 4)
    assert (found.value, found.n) == (0.5, 4)
    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half), abs=EXACT)
    assert math.isnan(stats.share("x", 0, 0).value)


def test_calibration_error_by_hand() -> None:
    # from 0.1 to 0.2: stated 0.12 and 0.16, mean 0.14, observed 1/2; from 0.9: stated 0.9 and 1, mean 0.95, observed 1
    # (2 * 0.36 + 2 * 0.05) / 4
    found = stats.calibration_error([0.12, 0.9, 0.16, 1.0], [0, 1, 1, 1])
    assert found == pytest.approx(0.205, abs=EXACT)


def test_reliability_by_hand() -> None:
    found = stats.reliability([0.12, 0.9, 0.16, 1.0], [0, 1, 1, 1])
    assert [count for *_, count in found] == [2, 2]
    assert found[0][:2] == pytest.approx((0.14, 0.5), abs=EXACT)
    assert found[1][:2] == pytest.approx((0.95, 1.0), abs=EXACT)


@pytest.mark.parametrize(
    ("probability", "outcome", "expected"),
    [([1.0, 0.0], [1, 0], 0.0), ([1.0, 0.0], [0, 1], 1.0), ([0.5, 0.5], [1, 0], 0.0)],
    ids=["sure and right", "sure and wrong", "a coin"],
)
def test_calibration_error_of_known_forecasters(probability, outcome, expected: float) -> None:
    assert stats.calibration_error(probability, outcome) == expected


def test_resampled_means_are_means_of_drawn_clusters() -> None:
    total = np.array([[1.0, 0.0], [3.0, 5.0]])
    count = np.array([[1.0, 0.0], [1.0, 1.0]])
    mean_RM = stats.resampled_means(total, count, resamples=500)
    # both clusters twice, each once, or one of them twice: means 1, 2, 3; the second column has cases in one cluster
    assert set(mean_RM[:, 0]) == {1.0, 2.0, 3.0}
    assert set(mean_RM[:, 1]) == {0.0, 5.0}
    assert all(second == 0.0 for first, second in mean_RM if first == 1.0)
    assert np.mean(mean_RM[:, 0] == 2.0) == pytest.approx(0.5, abs=0.07)


def test_a_clustered_share_is_wilsons_where_every_cluster_holds_one_case() -> None:
    assert stats.clustered_share("x", [True, False, True], ["a", "b", "c"]) == stats.share("x", 2, 3)


def test_a_clustered_share_without_spread_counts_each_cluster_once() -> None:
    found = stats.clustered_share("x", [False] * 10, ["a"] * 5 + ["b"] * 5)
    assert (found.value, found.low, found.n) == (0.0, 0.0, 10)
    assert found.high == pytest.approx(stats.share("x", 0, 2).high)  # two clusters, not ten prompts


def test_a_share_with_ties_is_resampled_whole_cluster_by_whole_cluster() -> None:
    assert stats.clustered_share("x", [1.0, 0.5], ["a", "b"]) == stats.cluster_mean("x", [1.0, 0.5], ["a", "b"])
    alike = stats.clustered_share("x", [1.0, 0.5] * 2, ["a", "a", "b", "b"])
    assert alike.value == 0.75
    assert alike.low == pytest.approx(stats.share("x", 2, 2).low)
    assert alike.high == 1.0


def test_a_clustered_share_goes_by_clusters_where_they_differ() -> None:
    found = stats.clustered_share("x", [True] * 5 + [False] * 15, [str(at // 5) for at in range(20)])
    assert found == stats.cluster_mean("x", [1.0] * 5 + [0.0] * 15, [str(at // 5) for at in range(20)])


def alpha_by_pairs(values: np.ndarray) -> float:
    """The definition, pair by pair."""
    cases = [found for row in values if len(found := row[~np.isnan(row)]) > 1]
    every = np.concatenate(cases)
    within = sum(sum((a - b) ** 2 for a, b in product(case, case)) / (len(case) - 1) for case in cases) / len(every)
    among = sum((a - b) ** 2 for a, b in product(every, every)) / (len(every) * (len(every) - 1))
    return float(1 - within / among)


def test_alpha_of_two_judges_by_hand() -> None:
    # marks 1 1, 2 3: one squared difference of 1, so the mean over both orders and four values is 2 / 4; the values
    # 1 1 2 3 differ by 1 1 2 2 1 0, squared 1 + 1 + 4 + 4 + 1 + 0 over 6 pairs = 11 / 6; alpha = 1 - 1/2 x 6/11 = 8/11
    found = stats.krippendorff_alpha("x", np.array([[1.0, 1], [2, 3]]), ["a", "b"])
    assert (found.value, found.n) == (pytest.approx(8 / 11, abs=EXACT), 2)


def test_alpha_is_that_of_krippendorffs_own_example_where_values_are_missing() -> None:
    # four observers, twelve units (Computing Krippendorff's Alpha-Reliability, 2011, section D); published: 0.849
    told = ["123321412...", "12332241" + "25.3", ".33323422" + "51.", "123324412" + "51."]
    values = np.array([[math.nan if one == "." else float(one) for one in row] for row in told]).T
    found = stats.krippendorff_alpha("x", values, [str(at) for at in range(12)])
    assert round(found.value, 3) == 0.849
    assert found.value == pytest.approx(alpha_by_pairs(values), abs=EXACT)
    assert found.n == 11  # the last unit has one value
    assert found.low < found.value < found.high <= 1


def test_alpha_is_one_in_agreement_about_nothing_by_chance_and_does_not_see_scale_or_order() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.integers(1, 11, (2, 1000)).astype(float)
    names = [str(at) for at in range(1000)]
    assert stats.krippendorff_alpha("x", np.stack([one, one], 1), names).value == 1
    chance = stats.krippendorff_alpha("x", np.stack([one, other], 1), names)
    assert abs(chance.value) < 0.1 and chance.low < chance.value < chance.high
    few = np.stack([one, other, one + 1], 1)[:50]
    scaled = stats.krippendorff_alpha("x", 3 * few[:, ::-1] - 7, names[:50])
    assert scaled.value == pytest.approx(stats.krippendorff_alpha("x", few, names[:50]).value, abs=EXACT)
    assert scaled.value == pytest.approx(alpha_by_pairs(few), abs=EXACT)


def test_without_two_values_or_without_difference_there_is_no_alpha() -> None:
    nothing = stats.krippendorff_alpha("x", np.array([[1.0, math.nan], [math.nan, 2]]), ["a", "b"])
    alike = stats.krippendorff_alpha("x", np.full((3, 2), 0.1), list("abc"))
    assert (math.isnan(nothing.value), nothing.n, math.isnan(alike.value), math.isnan(alike.low), alike.n) == (
        True, 0, True, True, 3,
    )  # fmt: skip


def test_the_interval_of_alpha_draws_whole_clusters() -> None:
    rng = np.random.default_rng(1)
    values = rng.integers(1, 4, (60, 2)).astype(float)
    twice = np.repeat(values, 2, axis=0)
    names = [str(at) for at in range(60)]
    whole = stats.krippendorff_alpha("x", twice, [name for name in names for _ in range(2)])
    apart = stats.krippendorff_alpha("x", twice, [str(at) for at in range(120)])
    assert whole.high - whole.low > 1.2 * (apart.high - apart.low)
    once = stats.krippendorff_alpha("x", values, names)
    assert (whole.high - whole.low) == pytest.approx(once.high - once.low, rel=0.1)
