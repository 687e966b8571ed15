"""Groups of unlike size in microbatches of like size."""

from hypothesis import given
from hypothesis import strategies as st

from starling.balance import microbatches


def test_microbatches_by_hand() -> None:
    # 7 + 5 + 4 + 3 + 1 = 20 tokens ask for two of at most 11: 7 | 5, then 4 to the 5, 3 to the 7, 1 to the 9
    assert microbatches([4, 3, 5, 7, 1], 11) == [[0, 2, 4], [1, 3]]


def test_where_all_fit_into_one_they_stay_in_order() -> None:
    assert microbatches([3, 9, 1], 13) == [[0, 1, 2]]


def test_a_group_larger_than_a_microbatch_stands_alone() -> None:
    assert microbatches([2, 50, 3], 8) == [[0, 2], [1]]


def test_one_more_is_begun_where_a_group_fits_into_none() -> None:
    # 18 tokens ask for two of 10; 6 | 6, and the third 6 fits to neither
    assert microbatches([6, 6, 6], 10) == [[0], [1], [2]]


def test_nothing_makes_no_microbatch() -> None:
    assert microbatches([], 8) == []


@given(st.lists(st.integers(1, 40), max_size=40), st.integers(1, 60))
def test_every_group_is_in_one_microbatch_within_the_limit(sizes: list[int], tokens: int) -> None:
    batches = microbatches(sizes, tokens)
    assert sorted(index for batch in batches for index in batch) == list(range(len(sizes)))
    assert batches == sorted(sorted(batch) for batch in batches)
    for batch in batches:
        assert sum(sizes[index] for index in batch) <= tokens or len(batch) == 1


@given(st.lists(st.integers(1, 20), min_size=2, max_size=40), st.integers(20, 60))
def test_no_two_microbatches_differ_by_more_than_the_largest_group(sizes: list[int], tokens: int) -> None:
    batches = microbatches(sizes, tokens)
    if len(batches) == -(-sum(sizes) // tokens):  # none was begun late
        held = [sum(sizes[index] for index in batch) for batch in batches]
        assert max(held) - min(held) <= max(sizes)
