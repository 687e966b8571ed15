"""Likelihood of a ranking of K answers under the Plackett-Luce model."""

import itertools
import math

import choix
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tolerances import CLOSE, EXACT

from starling.losses.ranking import centring_penalty, decided_places, plackett_luce_curvature, plackett_luce_nll


def nll(weights, ranks=None, mask=None) -> float:
    """The loss of one prompt whose answers have the given weights exp(reward)."""
    reward = torch.tensor([weights], dtype=torch.float64).log()
    rank = None if ranks is None else torch.tensor([ranks])
    return plackett_luce_nll(reward, rank, None if mask is None else torch.tensor([mask])).item()


def by_loops(rewards: list[float], ranks: list[int]) -> float:
    """Efron's likelihood in plain Python, place after place."""
    weight = [math.exp(r) for r in rewards]
    total = 0.0
    for level in sorted({rank for rank in ranks if rank > 0}):
        tied = [w for w, rank in zip(weight, ranks, strict=True) if rank == level]
        field = sum(w for w, rank in zip(weight, ranks, strict=True) if rank >= level or rank == 0)
        for place, w in enumerate(tied):
            total += math.log(field - place / len(tied) * sum(tied)) - math.log(w)
    return total


@pytest.mark.parametrize("k", [1, 2, 3, 7])
def test_equal_scores_give_log_k_factorial(k: int) -> None:
    found = plackett_luce_nll(torch.full((1, k), 3.7, dtype=torch.float64)).item()
    assert found == pytest.approx(math.log(math.factorial(k)), abs=EXACT)


def test_three_answers_by_hand() -> None:
    # weights 3, 2, 1 from the best: 3/6 * 2/3 * 1/1 = 1/3
    assert nll([3, 2, 1]) == pytest.approx(math.log(3), abs=EXACT)
    # weights 1, 2, 3 from the best: 1/6 * 2/5 * 1/1 = 1/15
    assert nll([1, 2, 3]) == pytest.approx(math.log(15), abs=EXACT)


def test_ranks_say_who_is_best_not_the_columns() -> None:
    # the best has weight 3, then 2, then 1
    assert nll([1, 3, 2], [3, 1, 2]) == pytest.approx(math.log(3), abs=EXACT)


@pytest.mark.parametrize("difference", [-30.0, -1.0, 0.0, 0.5, 20.0])
def test_two_answers_are_bradley_terry(difference: float) -> None:
    reward = torch.tensor([[difference, 0.0]], dtype=torch.float64)
    expected = max(-difference, 0) + math.log1p(math.exp(-abs(difference)))  # softplus(s_worse - s_better)
    assert plackett_luce_nll(reward).item() == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize("k", [2, 3, 4])
def test_probabilities_of_all_orders_sum_to_one(k: int) -> None:
    reward = torch.randn(1, k, dtype=torch.float64) * 2
    orders = torch.tensor(list(itertools.permutations(range(1, k + 1))))
    total = plackett_luce_nll(reward.expand(len(orders), k), orders).neg().exp().sum().item()
    assert total == pytest.approx(1, abs=EXACT)


@pytest.mark.parametrize("difference", [-3.0, 0.0, 1.7])
def test_a_tie_of_two_by_its_closed_form(difference: float) -> None:
    found = plackett_luce_nll(torch.tensor([[difference, 0.0]], dtype=torch.float64), torch.tensor([[1, 1]])).item()
    expected = math.log1p(math.exp(difference)) + math.log1p(math.exp(-difference)) - math.log(2)
    assert found == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize(
    ("ranks", "odds"),
    [
        # weights 1, 2, 3. First place against 6, second against 6 - (1 + 2) / 2 = 4.5: (6 * 4.5) / (1 * 2)
        ((1, 1, 3), 13.5),
        # first: 6 / 1; then 5 / 2 and (5 - 5/2) / 3: 6 * 5 * 2.5 / 6
        ((1, 2, 2), 12.5),
        # 6 * (6 - 2) * (6 - 4) / 6
        ((1, 1, 1), 8.0),
    ],
    ids=["two lead", "two trail", "all equal"],
)
def test_efron_ties_of_three_by_hand(ranks, odds: float) -> None:
    assert nll([1, 2, 3], ranks) == pytest.approx(math.log(odds), abs=EXACT)


def test_ranks_may_skip_places_and_be_floats() -> None:
    reward = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64).log()
    dense, competition = torch.tensor([[1, 1, 2]]), torch.tensor([[1.0, 1.0, 3.0]], dtype=torch.float64)
    assert plackett_luce_nll(reward, dense).item() == pytest.approx(math.log(13.5), abs=EXACT)
    assert plackett_luce_nll(reward, competition).item() == pytest.approx(math.log(13.5), abs=EXACT)


def test_top_m_by_hand() -> None:
    # weights 4, 3, 2, 1, only the two best places known: 4/10 * 3/6 = 1/5
    assert nll([4, 3, 2, 1], [1, 2, 0, 0]) == pytest.approx(math.log(5), abs=EXACT)
    # the same with the unplaced answers first
    assert nll([2, 1, 4, 3], [0, 0, 1, 2]) == pytest.approx(math.log(5), abs=EXACT)


def test_top_m_is_the_sum_over_the_orders_of_the_rest() -> None:
    reward = torch.randn(1, 5, dtype=torch.float64)
    orders = torch.tensor([[1, 2, *rest] for rest in itertools.permutations((3, 4, 5))])
    expected = plackett_luce_nll(reward.expand(6, 5), orders).neg().exp().sum().item()
    found = plackett_luce_nll(reward, torch.tensor([[1, 2, 0, 0, 0]])).neg().exp().item()
    assert found == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize(
    ("ranks", "decided"),
    [([1, 2, 3, 4], 3), ([1, 1, 3, 3], 3), ([1, 2, 0, 0], 2), ([0, 0, 0, 1], 1), ([1, 0, 2, 3], 3), ([1, 1, 0, 0], 2)],
    ids=str,
)
def test_a_ranking_decides_all_places_but_the_last_or_those_that_are_known(ranks, decided: int) -> None:
    found, mask = torch.tensor([[*ranks, 7]]), torch.tensor([[True] * 4 + [False]])
    assert decided_places(torch.zeros(1, 5), found, mask).tolist() == [decided]


def test_where_one_place_alone_is_unknown_the_ranking_is_whole() -> None:
    assert nll([4, 3, 2], [1, 2, 0]) == nll([4, 3, 2], [1, 2, 3])
    whole, top = torch.tensor([[1, 2, 3]]), torch.tensor([[1, 2, 0]])
    assert decided_places(torch.zeros(1, 3), whole) == decided_places(torch.zeros(1, 3), top) == 2


def test_a_place_of_infinity_is_one_that_is_not_known() -> None:
    assert nll([4, 3, 2, 1], [1, 2, math.inf, math.inf]) == nll([4, 3, 2, 1], [1, 2, 0, 0])


def test_without_any_known_place_nothing_is_learnt() -> None:
    assert nll([4, 3, 2], [0, 0, 0]) == 0


@pytest.mark.parametrize("filler", [1.0, 1e4, 1e-4])
def test_masked_answers_leave_no_trace(filler: float) -> None:
    # as in the test by hand: 3/6 * 2/3 * 1/1
    assert nll([3, 2, filler, 1], mask=[True, True, False, True]) == pytest.approx(math.log(3), abs=EXACT)
    assert nll([filler, 3, 2, 1], [1, 1, 2, 3], [False, True, True, True]) == pytest.approx(math.log(3), abs=EXACT)


def test_masked_answers_get_no_gradient() -> None:
    reward = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True, False, True], [True, False, False, True]])
    plackett_luce_nll(reward, None, mask).sum().backward()
    assert torch.equal(reward.grad[~mask], torch.zeros(3, dtype=torch.float64))
    assert reward.grad[mask].abs().min().item() > 0


ranked = st.lists(st.tuples(st.floats(-5, 5), st.integers(0, 4)), min_size=1, max_size=7)


@given(ranked)
def test_ties_and_unplaced_answers_equal_plain_python(answers: list[tuple[float, int]]) -> None:
    rewards, ranks = [r for r, _ in answers], [rank for _, rank in answers]
    found = plackett_luce_nll(torch.tensor([rewards], dtype=torch.float64), torch.tensor([ranks])).item()
    assert found == pytest.approx(by_loops(rewards, ranks), abs=1e-10)


@given(ranked, st.floats(-50, 50), st.randoms(use_true_random=False))
def test_neither_shift_nor_order_of_the_columns_matters(answers, shift: float, random) -> None:
    shuffled = random.sample(answers, len(answers))
    found = plackett_luce_nll(
        torch.tensor([[r + shift for r, _ in shuffled]], dtype=torch.float64),
        torch.tensor([[rank for _, rank in shuffled]]),
    ).item()
    assert found == pytest.approx(by_loops([r for r, _ in answers], [rank for _, rank in answers]), abs=1e-10)


def test_prompts_are_independent_of_each_other() -> None:
    reward, rank = torch.randn(6, 4, dtype=torch.float64), torch.randint(0, 4, (6, 4))
    expected = [by_loops(r, k) for r, k in zip(reward.tolist(), rank.tolist(), strict=True)]
    order = torch.randperm(6)
    found = plackett_luce_nll(reward[order], rank[order])
    assert found.tolist() == pytest.approx([expected[i] for i in order.tolist()], abs=1e-10)


def test_likelihood_equals_that_of_choix() -> None:
    params = np.random.default_rng(1).normal(size=6)
    rankings = choix.generate_rankings(params, 20, 4)
    reward = torch.tensor(np.array([[params[item] for item in ranking] for ranking in rankings]))
    assert plackett_luce_nll(reward).sum().item() == pytest.approx(
        -choix.log_likelihood_rankings(rankings, params), rel=EXACT
    )


def test_fitted_parameters_equal_those_of_choix() -> None:
    random = np.random.default_rng(2)
    truth = random.normal(size=5)
    rankings = [tuple(int(i) for i in np.argsort(-(truth + random.gumbel(size=5)))[: 3 + at % 3]) for at in range(60)]
    expected = choix.ilsr_rankings(5, rankings, tol=1e-10)
    theta = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([theta], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = sum(plackett_luce_nll(theta[list(ranking)][None]).sum() for ranking in rankings) / len(rankings)
        loss.backward()
        return loss

    optimiser.step(closure)
    found = theta.detach() - theta.detach().mean()
    assert found.tolist() == pytest.approx((expected - expected.mean()).tolist(), abs=1e-6)


def test_the_gradient_is_zero_where_choix_finds_the_optimum() -> None:
    random = np.random.default_rng(3)
    truth = random.normal(size=6)
    rankings = [np.argsort(-(truth + random.gumbel(size=6)))[: 2 + at % 5] for at in range(80)]
    best = torch.tensor(choix.opt_rankings(6, [tuple(map(int, r)) for r in rankings], tol=1e-12), requires_grad=True)
    sum(plackett_luce_nll(best[torch.tensor(ranking)][None]).sum() for ranking in rankings).backward()
    assert best.grad.abs().max().item() < 1e-5
    off = (best.detach() + torch.tensor([0.1, 0, 0, 0, 0, 0])).requires_grad_()
    sum(plackett_luce_nll(off[torch.tensor(ranking)][None]).sum() for ranking in rankings).backward()
    assert off.grad.abs().max().item() > 0.1


def test_gradient_equals_finite_differences() -> None:
    rewards, ranks, step = [0.3, -1.0, 0.8, 0.1, 2.0], [1, 2, 2, 0, 4], 1e-5
    reward = torch.tensor([rewards], dtype=torch.float64, requires_grad=True)
    plackett_luce_nll(reward, torch.tensor([ranks])).sum().backward()
    for at in range(5):
        up, down = ([r + sign * step * (i == at) for i, r in enumerate(rewards)] for sign in (1, -1))
        slope = (by_loops(up, ranks) - by_loops(down, ranks)) / (2 * step)
        assert reward.grad[0, at].item() == pytest.approx(slope, abs=1e-8)


def test_descent_raises_the_best_and_lowers_the_worst() -> None:
    reward = torch.zeros(1, 4, requires_grad=True)
    plackett_luce_nll(reward).sum().backward()
    # softmax shares 1/4, 1/3, 1/2, 1 summed over the places an answer competes for, less 1
    expected = [1 / 4 - 1, 1 / 4 + 1 / 3 - 1, 1 / 4 + 1 / 3 + 1 / 2 - 1, 1 / 4 + 1 / 3 + 1 / 2 + 1 - 1]
    assert reward.grad[0].tolist() == pytest.approx(expected, abs=CLOSE)


def with_margin(weights, ranks, margin: float) -> float:
    reward = torch.tensor([weights], dtype=torch.float64).log()
    return plackett_luce_nll(reward, torch.tensor([ranks]), margin=margin).item()


@pytest.mark.parametrize(
    ("weights", "ranks", "odds"),
    [
        # everybody below counts double: (3 + 4 + 2) / 3 * (2 + 2) / 2 * 1 / 1
        ((3, 2, 1), (1, 2, 3), 6.0),
        # tied answers are not below each other: (1 + 2 + 6) / 1 * (9 - 3 / 2) / 2 * 3 / 3
        ((1, 2, 3), (1, 1, 3), 33.75),
        # those of unknown place are below: (4 + 6 + 4 + 2) / 4 * (3 + 4 + 2) / 3
        ((4, 3, 2, 1), (1, 2, 0, 0), 12.0),
    ],
    ids=["strict", "tie", "top two"],
)
def test_a_margin_of_log_two_by_hand(weights, ranks, odds: float) -> None:
    assert with_margin(weights, ranks, math.log(2)) == pytest.approx(math.log(odds), abs=EXACT)


@pytest.mark.parametrize("margin", [0.0, 0.1, 2.5])
def test_the_margin_of_a_pair_is_taken_off_the_difference(margin: float) -> None:
    reward = torch.tensor([[0.7, -0.4]], dtype=torch.float64)
    expected = -math.log(1 / (1 + math.exp(-(0.7 + 0.4 - margin))))
    assert plackett_luce_nll(reward, margin=margin).item() == pytest.approx(expected, abs=EXACT)


def test_the_curvature_of_a_pair_by_hand() -> None:
    # weights 3 and 1: p = 3/4, p (1 - p) = 3/16
    reward = torch.tensor([[3.0, 1.0]], dtype=torch.float64).log()
    expected = [[3 / 16, -3 / 16], [-3 / 16, 3 / 16]]
    assert plackett_luce_curvature(reward)[0].tolist() == [pytest.approx(row, abs=EXACT) for row in expected]


@pytest.mark.parametrize(
    ("ranks", "mask"),
    [((1, 2, 3, 4), None), ((2, 1, 1, 4), None), ((1, 2, 0, 0), None), ((3, 1, 2, 2), (True, False, True, True))],
    ids=["strict", "tie", "top two", "masked"],
)
def test_the_curvature_is_the_second_derivative(ranks, mask) -> None:
    reward, rank = torch.randn(1, 4, dtype=torch.float64), torch.tensor([ranks])
    mask = None if mask is None else torch.tensor([mask])
    expected = torch.autograd.functional.hessian(lambda r: plackett_luce_nll(r, rank, mask).sum(), reward)[0, :, 0]
    found = plackett_luce_curvature(reward, rank, mask)[0]
    assert torch.allclose(found, expected, atol=1e-10, rtol=0)
    assert found.abs().max().item() > 0.1
    assert torch.linalg.eigvalsh(found).min().item() > -1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_rewards_are_computed_in_float32(dtype: torch.dtype) -> None:
    reward, ranks = (torch.randn(8, 7) * 2).to(dtype), torch.randint(0, 5, (8, 7))
    found = plackett_luce_nll(reward, ranks)
    assert found.dtype == torch.float32
    expected = [by_loops(r, k) for r, k in zip(reward.double().tolist(), ranks.tolist(), strict=True)]
    assert found.tolist() == pytest.approx(expected, abs=CLOSE, rel=CLOSE)


def test_centring_penalty_by_hand() -> None:
    # (1 + 2 - 4)^2 = 1 and, the second answer not counting, (1 - 4)^2 = 9
    reward = torch.tensor([[1.0, 2.0, -4.0], [1.0, 2.0, -4.0]], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True, True], [True, False, True]])
    penalty = centring_penalty(reward, mask)
    assert penalty.tolist() == pytest.approx([1.0, 9.0], abs=EXACT)
    penalty.sum().backward()
    # 2 * sum for every answer that counts
    assert reward.grad.tolist() == [[-2.0, -2.0, -2.0], [-6.0, 0.0, -6.0]]
