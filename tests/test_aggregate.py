"""From many calls to one ranking, and what places did to it."""

import math
from itertools import combinations, permutations

import choix
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import CLOSE, EXACT

from starling.judges import aggregate
from starling.judges.aggregate import Contest
from starling.judges.orders import balanced_orders
from starling.judges.parse import Unparsed
from starling.judges.ranks import kendall


def won(winner: int, loser: int, item: int = 0, repeat: int = 0) -> Contest:
    """A call about two answers; the winner was shown first."""
    return Contest(item, [winner, loser], [1.0, 2.0], repeat)


def simulate(prompts: int, k: int, repeats: int, effect: list[float], seed: int):
    """True strengths, and calls by Plackett-Luce with an effect of the place, in balanced orders."""
    source = np.random.default_rng(seed)
    truth = source.normal(0, 1, (prompts, k))
    contests = []
    for repeat in range(repeats):
        orders = balanced_orders([(f"p{n}", k) for n in range(prompts)], seed, repeat)
        for item, order in enumerate(orders):
            score = truth[item][order] + np.asarray(effect) + source.gumbel(size=k)
            contests.append(Contest(item, order, list((-score).argsort().argsort() + 1.0), repeat))
    return truth, contests


def recovered(truth, rankings) -> float:
    """The mean of Kendall's tau between found and true order."""
    taus = [kendall(list(-row), ranks) for row, ranks in zip(truth, rankings, strict=True)]
    return sum(tau or 0.0 for tau in taus) / len(taus)


# strengths


def test_strengths_of_two_answers_by_hand():
    # A won n = 3 times, B once; with d = s_A - s_B and s_A = -s_B = d / 2 the slope of
    # 3 softplus(-d) + softplus(d) + ridge / 2 * (d^2 / 4 + d^2 / 4) is -3 sig(-d) + sig(d) + ridge * d / 2
    contests = [won(0, 1)] * 3 + [won(1, 0)]
    ((a, b),) = aggregate.strengths(contests, [2], {}, ridge=0.01)
    d = a - b

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    assert a == pytest.approx(-b, abs=1e-9)
    assert -3 * sigmoid(-d) + sigmoid(d) + 0.01 * d / 2 == pytest.approx(0, abs=CLOSE)
    assert d == pytest.approx(math.log(3), abs=0.02)  # without the ridge exactly log 3


def test_strengths_without_calls_are_zero_and_items_do_not_touch_each_other():
    calls = [won(0, 1), won(1, 2), won(0, 2)]
    alone = aggregate.strengths(calls, [3], {})
    beside = aggregate.strengths([*calls, won(1, 0, item=2)], [3, 4, 2], {})
    assert beside[0] == pytest.approx(alone[0], abs=1e-9)
    assert beside[1] == [0.0] * 4
    assert beside[2][0] < 0 < beside[2][1]


@given(st.lists(st.permutations(range(4)), min_size=1, max_size=8), st.floats(0.01, 1.0))
@settings(deadline=None, max_examples=25)
def test_strengths_are_those_of_choix(rankings, ridge):
    contests = [Contest(0, order, [1.0, 2.0, 3.0, 4.0]) for order in rankings]
    (found,) = aggregate.strengths(contests, [4], {}, ridge=ridge)
    oracle = choix.opt_rankings(4, rankings, alpha=ridge / 2, method="Newton-CG", tol=1e-12)
    assert found == pytest.approx(list(oracle), abs=1e-4)


def test_strengths_of_pairs_are_those_of_choix():
    results = [(0, 1), (0, 1), (1, 0), (1, 2), (2, 3), (3, 0), (0, 2), (1, 3)]
    (found,) = aggregate.strengths([won(*result) for result in results], [4], {}, ridge=0.02)
    oracle = choix.opt_pairwise(4, results, alpha=0.01, method="Newton-CG", tol=1e-12)
    assert found == pytest.approx(list(oracle), abs=1e-4)


def test_an_effect_of_place_explains_wins_away():
    # each won when it stood first, one place adds 1: nothing is left to explain, the strengths are equal
    contests = [won(0, 1), won(1, 0)]
    assert aggregate.strengths(contests, [2], {2: [0.5, -0.5]})[0] == pytest.approx([0, 0], abs=1e-9)
    # a win from the first place says less than one from the second
    (from_first,) = aggregate.strengths([won(0, 1)], [2], {2: [1.0, -1.0]})
    (from_second,) = aggregate.strengths([Contest(0, [1, 0], [2.0, 1.0])], [2], {2: [1.0, -1.0]})
    assert 0 < from_first[0] < from_second[0]


def test_a_long_tournament_that_one_answer_always_wins_still_has_an_end():
    contests = [won(a, b) for a, b in combinations(range(26), 2)] * 2
    (found,) = aggregate.strengths(contests, [26], {})
    assert found == sorted(found, reverse=True)
    assert all(math.isfinite(value) for value in found)
    assert sum(found) == pytest.approx(0, abs=1e-6)


# ranks


def test_ranks_by_strength_by_hand():
    calls = [won(2, 0), won(2, 1), won(0, 1)]
    assert aggregate.by_strength(calls, [3], 0.2) == [[2, 3, 1]]
    # a ring of wins says nothing: all equal
    assert aggregate.by_strength([won(0, 1), won(1, 2), won(2, 0)], [3], 0.0) == [[1, 1, 1]]
    # 5 to 4 is a strength of log 1.25 = .22, 10 to 9 one of .105
    assert aggregate.by_strength([won(0, 1)] * 5 + [won(1, 0)] * 4, [2], 0.2) == [[1, 2]]
    assert aggregate.by_strength([won(0, 1)] * 10 + [won(1, 0)] * 9, [2], 0.2) == [[1, 1]]


def test_a_tied_call_pulls_together():
    tie = Contest(0, [0, 1], [1.0, 1.0])
    assert aggregate.by_strength([tie], [2], 0.2) == [[1, 1]]


def test_calls_that_leave_an_answer_unconnected_give_no_ranking():
    (found,) = aggregate.by_strength([won(0, 1), won(2, 3)], [4], 0.2)
    assert isinstance(found, Unparsed)
    assert found.reason == "the 2 calls that could be read do not connect the 4 answers"
    (chained,) = aggregate.by_strength([won(0, 1), won(1, 2), won(2, 3)], [4], 0.2)
    assert chained == [1, 2, 3, 4]


def test_ranks_by_mean_rank_put_answers_back_where_they_belong():
    calls = [Contest(0, [2, 0, 1], [1.0, 2.0, 3.0]), Contest(0, [0, 1, 2], [2.0, 3.0, 1.0], 1)]
    found = aggregate.by_mean_rank(calls, [3, 2], 0.0)
    assert found[0] == [2, 3, 1]
    assert isinstance(found[1], Unparsed)


def test_ranks_by_mark_tie_where_marks_are_equal():
    calls = [Contest(0, [at], [1.0], 0, mark) for at, mark in enumerate((7.0, 9.0, 7.0))]
    assert aggregate.by_mark(calls, [3], 0.0) == [[2, 1, 2]]
    # means 8.5, 9, 7 over two repeats
    more = [Contest(0, [at], [1.0], 1, mark) for at, mark in enumerate((10.0, 9.0, 7.0))]
    assert aggregate.by_mark(calls + more, [3], 0.0) == [[2, 1, 3]]


def test_an_answer_without_a_mark_leaves_its_prompt_unranked():
    (found,) = aggregate.by_mark([Contest(0, [0], [1.0], 0, 5.0)], [3], 0.0)
    assert found == Unparsed("2 of 3 answers have no mark")


def test_prompts_of_all_chunks_have_their_own_strengths(monkeypatch):
    monkeypatch.setattr(aggregate, "_CHUNK", 2)
    calls = [won(item % 2, 1 - item % 2, item=item) for item in range(5)]
    found = aggregate.strengths(calls, [2] * 5, {})
    assert [row[0] > row[1] for row in found] == [True, False, True, False, True]


# places


def test_prompts_of_shards_that_follow_each_other_stay_apart():
    seen = aggregate.Disagreements(2)
    for _ in range(2):
        seen.add([won(0, 1), won(1, 0, repeat=1)])
    (found,) = seen.effects()
    assert (found.n, found.prompts) == (2, 2)


def test_the_effect_of_two_places_by_hand():
    # 18 prompts where the first shown won both times, 6 where the second did: 2 (e_1 - e_2) = log 3
    first = [call for item in range(18) for call in (won(0, 1, item), won(1, 0, item, 1))]
    second = [
        Contest(item, shown, [2.0, 1.0], repeat)
        for item in range(18, 24)
        for repeat, shown in enumerate(([0, 1], [1, 0]))
    ]
    (found,) = aggregate.position_effects([*first, *second], 2)
    assert (found.k, found.n, found.prompts) == (2, 24, 24)
    assert found.effect == pytest.approx([math.log(3) / 4, -math.log(3) / 4], abs=0.01)  # the ridge is .01
    # logistic regression on 24 cases with x = 2, p = 3/4: information per unit of e_1 - e_2 is 24 * 4 * 3/16 = 18, and
    # the robust variance is the same here, since (18 * 1/16 + 6 * 9/16) * 4 = 18; e_1 is half the difference
    assert found.high[0] - found.effect[0] == pytest.approx(1.96 / math.sqrt(18) / 2, rel=0.05)


def test_few_prompts_have_no_interval():
    # with two prompts' disagreements the intervals held the truth in 18 % of simulated sets
    for prompts in (1, 2, 5, 19):
        _, contests = simulate(prompts, 2, 2, [3.0, -3.0], seed=prompts)
        for found in aggregate.position_effects(contests, 2):
            assert (found.low, found.high, found.is_known) == ([], [], False)


@pytest.mark.parametrize("k", [2, 3])
def test_a_judge_that_goes_by_the_place_alone_has_no_interval(k):
    orders = [balanced_orders([(f"p{n}", k) for n in range(60)], 0, repeat) for repeat in range(2)]
    ranks = [float(place) for place in range(1, k + 1)]
    calls = [
        Contest(item, order, ranks, repeat) for repeat, some in enumerate(orders) for item, order in enumerate(some)
    ]
    (found,) = aggregate.position_effects(calls, 2)
    assert found.prompts > 20 and found.effect == sorted(found.effect, reverse=True)
    assert not found.is_known


def test_calls_that_agree_say_nothing_about_places():
    (found,) = aggregate.position_effects([won(0, 1), Contest(0, [1, 0], [2.0, 1.0], 1)], 2)
    assert (found.n, found.effect, found.is_known) == (0, [0.0, 0.0], False)


def test_one_call_a_prompt_cannot_tell_places_from_strengths():
    assert aggregate.position_effects([won(0, 1), won(1, 0, item=1)], 1) == []


def test_calls_that_were_added_since_the_first_disagreed_are_compared_among_themselves():
    early, late = [won(0, 1), Contest(0, [1, 0], [2.0, 1.0], 1)], [won(1, 0, repeat=2)]
    (found,) = aggregate.position_effects(early + late, 2)
    assert found.n == 0
    (pooled,) = aggregate.position_effects(early + late, 3)
    assert pooled.n == 2


EFFECTS = {2: [0.7, -0.7], 4: [0.9, 0.4, -0.5, -0.8], 7: [1.2, 0.8, 0.3, 0.0, -0.4, -0.8, -1.1]}


@pytest.mark.parametrize(("k", "repeats", "prompts"), [(2, 2, 800), (4, 2, 300), (7, 2, 400), (7, 3, 250)])
def test_a_known_effect_of_place_is_found(k, repeats, prompts):
    _, contests = simulate(prompts, k, repeats, EFFECTS[k], seed=7)
    (found,) = aggregate.position_effects(contests, repeats)
    assert sum(found.effect) == pytest.approx(0, abs=1e-4)
    assert found.effect == pytest.approx(EFFECTS[k], abs=0.25)


def test_the_intervals_hold_the_truth_about_as_often_as_they_say():
    covered = []
    for seed in range(60):
        _, contests = simulate(60, 4, 2, EFFECTS[4], seed)
        (found,) = aggregate.position_effects(contests, 2)
        covered += [low <= true <= high for low, true, high in zip(found.low, EFFECTS[4], found.high, strict=True)]
    assert 0.90 < sum(covered) / len(covered) < 0.99  # of 240, not independent


@pytest.mark.parametrize("repeats", [2, 3])
def test_corrected_ranks_are_nearer_to_the_truth_than_mean_ranks(repeats):
    strong = [2 * value for value in EFFECTS[7]]
    truth, contests = simulate(200, 7, repeats, strong, seed=3)
    sizes = [7] * 200
    (found,) = aggregate.position_effects(contests, repeats)
    mean = recovered(truth, aggregate.by_mean_rank(contests, sizes, 0.0))
    plain = recovered(truth, aggregate.by_strength(contests, sizes, 0.0))
    corrected = recovered(truth, aggregate.by_corrected_strength(contests, sizes, 0.0, {7: found.effect}))
    assert corrected > mean + 0.05
    assert corrected > plain + 0.05


def test_without_an_effect_the_correction_changes_nothing_material():
    truth, contests = simulate(200, 7, 3, [0.0] * 7, seed=5)
    sizes = [7] * 200
    (found,) = aggregate.position_effects(contests, 3)
    assert max(map(abs, found.effect)) < 0.15
    plain = aggregate.by_strength(contests, sizes, 0.0)
    corrected = aggregate.by_corrected_strength(contests, sizes, 0.0, {7: found.effect})
    alike = [kendall(one, other) or 1.0 for one, other in zip(plain, corrected, strict=True)]
    assert sum(alike) / len(alike) > 0.95
    assert recovered(truth, corrected) == pytest.approx(recovered(truth, plain), abs=0.01)


def test_the_effect_of_place_does_not_depend_on_how_answers_are_numbered():
    _, contests = simulate(50, 3, 2, [0.5, 0.0, -0.5], seed=1)
    turned = [one._replace(shown=[(2, 0, 1)[index] for index in one.shown]) for one in contests]
    ((one,), (other,)) = (aggregate.position_effects(calls, 2) for calls in (contests, turned))
    assert one.effect == pytest.approx(other.effect, abs=CLOSE)
    assert one.high == pytest.approx(other.high, abs=CLOSE)


def test_the_condition_on_disagreement_is_the_models_own():
    # P(a beats b in one call, b beats a in the other | they differ), from the Plackett-Luce sums over all 6 orders,
    # equals sigmoid(gap of effects in the one less that in the other), whatever the strengths
    strength, effect = np.array([0.3, -1.0, 0.8]), np.array([0.9, 0.1, -1.0])
    one, other = [0, 1, 2], [2, 0, 1]  # what is shown at places 1, 2, 3

    def beats(shown, a, b):
        score = {answer: strength[answer] + effect[place] for place, answer in enumerate(shown)}
        total = 0.0
        for order in permutations(shown):
            if order.index(a) < order.index(b):
                left = [math.exp(score[answer]) for answer in order]
                total += math.prod(left[at] / sum(left[at:]) for at in range(3))
        return total

    up, down = beats(one, 0, 1), beats(other, 0, 1)
    asked = up * (1 - down) / (up * (1 - down) + (1 - up) * down)
    gap = (effect[0] - effect[1]) - (effect[1] - effect[2])
    assert asked == pytest.approx(1 / (1 + math.exp(-gap)), abs=EXACT)
