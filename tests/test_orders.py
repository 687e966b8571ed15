"""Who is shown where, and who meets whom."""

import random
from collections import Counter
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from starling.judges.orders import balanced_orders, latin_square, meetings


def test_a_square_holds_each_thing_once_in_every_row_and_column():
    square = latin_square(7, random.Random(0))
    for line in [*square, *zip(*square, strict=True)]:
        assert sorted(line) == list(range(7))


def test_each_block_of_k_prompts_shows_every_answer_once_in_every_place():
    orders = balanced_orders([(f"p{n}", 5) for n in range(40)], seed=3)
    for start in range(0, 40, 5):
        for place in zip(*orders[start : start + 5], strict=True):
            assert sorted(place) == [0, 1, 2, 3, 4]
    # 8 blocks: answer 0 leads 8 of 40 times, and not always in the same row of its block.
    assert Counter(order[0] for order in orders) == dict.fromkeys(range(5), 8)
    assert len({[order[0] for order in orders[start : start + 5]].index(0) for start in range(0, 40, 5)}) > 1


def test_prompts_with_other_numbers_of_answers_do_not_disturb_the_balance():
    orders = balanced_orders([(f"p{n}", 2 + n % 2) for n in range(12)], seed=0)
    pairs = [order for order in orders if len(order) == 2]
    assert Counter(order[0] for order in pairs) == {0: 3, 1: 3}
    triples = [order for order in orders if len(order) == 3]
    assert Counter(order[0] for order in triples) == {0: 2, 1: 2, 2: 2}


def test_orders_follow_from_the_seed():
    items = [(f"p{n}", 4) for n in range(8)]
    assert balanced_orders(items, seed=5) == balanced_orders(items, seed=5)
    assert balanced_orders(items, seed=5) != balanced_orders(items, seed=6)


@given(k=st.integers(2, 9), start=st.integers(0, 30), seed=st.integers(0, 5))
def test_over_k_repeats_every_answer_of_a_prompt_stands_once_in_every_place(k, start, seed):
    items = [(f"p{n}", k) for n in range(start + 1)]
    orders = [balanced_orders(items, seed, repeat)[start] for repeat in range(k)]
    for place in zip(*orders, strict=True):
        assert sorted(place) == list(range(k))


def test_each_repeat_is_balanced_over_the_prompts_too():
    for repeat in range(3):
        orders = balanced_orders([(f"p{n}", 4) for n in range(16)], 1, repeat)
        assert Counter(order[0] for order in orders) == dict.fromkeys(range(4), 4)


def test_repeats_past_k_take_another_square():
    items = [(f"p{n}", 5) for n in range(5)]
    assert balanced_orders(items, 1, 0) != balanced_orders(items, 1, 5)


def connected(k, pairs):
    reached, before = {0}, set()
    while reached != before:
        before = set(reached)
        reached |= {end for pair in pairs for end in pair if reached & set(pair)}
    return len(reached) == k


@given(k=st.integers(2, 26), least=st.integers(2, 26))
def test_a_sparse_design_connects_all_and_gives_each_its_meetings(k, least):
    pairs = [frozenset(pair) for pair in meetings(k, least)]
    assert len(set(pairs)) == len(pairs) and all(len(pair) == 2 for pair in pairs)
    degrees = Counter(place for pair in pairs for place in pair)
    wanted = min(least, k - 1)
    assert connected(k, pairs)
    assert all(wanted <= degrees[place] <= wanted + 1 for place in range(k))
    assert len(pairs) == -(-k * wanted // 2)  # no pair more than it takes


def test_without_a_limit_all_pairs_meet():
    assert meetings(4, 0) == list(combinations(range(4), 2))


def test_seven_answers_that_meet_two_others_stand_in_a_ring():
    assert meetings(7, 2) == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 0)]
