"""Direct preference optimisation on rankings."""

import itertools
import math

import pytest
import torch
from tolerances import EXACT

from starling.losses.dpo import dpo_loss


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def by_loops(logprob, ref, beta: float) -> float:
    """Column 0 is best: each place goes to its answer with its share of pi^beta / ref^beta among those left."""
    terms = []
    for new, old in zip(logprob.tolist(), ref.tolist(), strict=True):
        weight = [math.exp(beta * (p - r)) for p, r in zip(new, old, strict=True)]
        terms.append(-sum(math.log(weight[j] / sum(weight[j:])) for j in range(len(weight))))
    return sum(terms) / len(terms)


def test_a_pair_by_hand() -> None:
    # beta 1/2: rewards (4 - 2) / 2 = 1 and (1 - 3) / 2 = -1: softplus(-2)
    loss = dpo_loss(tensor(4, 1), tensor(2, 3), beta=0.5)
    assert loss.value.item() == pytest.approx(math.log1p(math.exp(-2)), abs=EXACT)
    assert loss.metrics["accuracy"].item() == 1
    assert loss.metrics["margin"].item() == pytest.approx(2, abs=EXACT)


def test_three_answers_by_hand() -> None:
    # rewards log 3, log 2, log 1: places with 3/6 and 2/3: log 2 + log(3/2) = log 3; margins log 3/2, log 3, log 2
    logprob = tensor(3, 2, 1).log() * 4
    loss = dpo_loss(logprob, torch.zeros_like(logprob), beta=0.25)
    assert loss.value.item() == pytest.approx(math.log(3), abs=EXACT)
    assert loss.metrics["margin"].item() == pytest.approx(math.log(9) / 3, abs=EXACT)


def test_the_policy_at_its_reference_gives_log_k_factorial() -> None:
    logprob = torch.randn(3, 5, dtype=torch.float64)
    assert dpo_loss(logprob, logprob, beta=0.1).value.item() == pytest.approx(math.log(120), abs=EXACT)


def test_gradient_at_the_reference_raises_the_better_answer() -> None:
    logprob = tensor(-3, -5).requires_grad_()
    dpo_loss(logprob, logprob.detach(), beta=0.1).value.backward()
    # beta (sigmoid(0) - 1) for the better, beta sigmoid(0) for the worse
    assert logprob.grad[0].tolist() == pytest.approx([-0.05, 0.05], abs=EXACT)


@pytest.mark.parametrize("beta", [0.1, 1.0, 3.0])
def test_two_answers_are_dpo(beta: float) -> None:
    logprob, ref = torch.randn(2, 6, 2, dtype=torch.float64)
    gap = (logprob - ref)[:, 0] - (logprob - ref)[:, 1]
    expected = (1 + (-beta * gap).exp()).log().mean().item()
    assert dpo_loss(logprob, ref, beta=beta).value.item() == pytest.approx(expected, rel=EXACT)


@pytest.mark.parametrize("size", [2, 3, 7])
def test_loss_equals_plain_python(size: int) -> None:
    logprob, ref = torch.randn(2, 4, size, dtype=torch.float64)
    assert dpo_loss(logprob, ref, beta=0.7).value.item() == pytest.approx(by_loops(logprob, ref, 0.7), rel=EXACT)


def test_probabilities_of_all_orders_sum_to_one() -> None:
    logprob, ref = torch.randn(2, 1, 3, dtype=torch.float64)
    orders = [torch.tensor([order]) for order in itertools.permutations((1, 2, 3))]
    total = sum(math.exp(-dpo_loss(logprob, ref, order, beta=0.7).value.item()) for order in orders)
    assert total == pytest.approx(1, abs=EXACT)


def test_gradient_equals_finite_differences() -> None:
    logprob, ref = torch.randn(2, 3, 4, dtype=torch.float64)
    logprob.requires_grad_()
    dpo_loss(logprob, ref, beta=0.7).value.backward()
    step = 1e-6
    for row, column in [(0, 0), (1, 3), (2, 1)]:
        nudge = torch.zeros_like(ref)
        nudge[row, column] = step
        up, down = (by_loops(logprob.detach() + sign * nudge, ref, 0.7) for sign in (1, -1))
        assert logprob.grad[row, column].item() == pytest.approx((up - down) / (2 * step), abs=1e-8)


def test_what_a_prompt_adds_to_all_its_answers_changes_nothing() -> None:
    logprob, ref = torch.randn(2, 4, 3, dtype=torch.float64)
    shift = torch.tensor([[0.0], [5.0], [-70.0], [2.0]], dtype=torch.float64)
    found = dpo_loss(logprob + shift, ref - 2 * shift, beta=0.7).value.item()
    assert found == pytest.approx(by_loops(logprob, ref, 0.7), rel=1e-11)


def test_ranks_travel_with_their_answers() -> None:
    logprob, ref = torch.randn(2, 4, 3, dtype=torch.float64)
    order = torch.tensor([2, 0, 1])
    rank = torch.tensor([1, 2, 3]).expand(4, 3)
    found = dpo_loss(logprob[:, order], ref[:, order], rank[:, order], beta=0.7)
    assert found.value.item() == pytest.approx(by_loops(logprob, ref, 0.7), rel=EXACT)
    assert found.metrics == dpo_loss(logprob, ref, beta=0.7).metrics


def test_a_masked_answer_leaves_a_shorter_ranking() -> None:
    logprob, ref = torch.randn(2, 4, 3, dtype=torch.float64)
    mask = torch.tensor([True, False, True]).expand(4, 3)
    dirty = logprob.masked_fill(~mask, math.nan)
    found = dpo_loss(dirty, ref, None, mask, beta=0.7)
    kept = [part[:, [0, 2]] for part in (logprob, ref)]
    assert found.value.item() == pytest.approx(by_loops(*kept, 0.7), rel=EXACT)
    assert all(metric.isfinite() for metric in found.metrics.values())


def test_accuracy_counts_the_decided_pairs_only() -> None:
    # ranks 1, 2, 2, 3 with rewards 1, 2, 5, 0: decided (1,2) no, (1,2) no, (1,3) yes, (2,3) yes twice: 3/5
    logprob = tensor(1, 2, 5, 0)
    metrics = dpo_loss(logprob, torch.zeros_like(logprob), torch.tensor([[1, 2, 2, 3]]), beta=1.0).metrics
    assert metrics["accuracy"].item() == pytest.approx(3 / 5, abs=EXACT)
    assert metrics["margin"].item() == pytest.approx((-1 - 4 + 1 + 2 + 5) / 5, abs=EXACT)


def test_microbatches_add_up_and_their_order_does_not_matter() -> None:
    logprob, ref = torch.randn(2, 5, 3, dtype=torch.float64)
    whole = dpo_loss(logprob, ref, beta=0.7)
    parts = [dpo_loss(logprob[rows], ref[rows], beta=0.7, num_rankings=5) for rows in ([3], [0, 4], [2, 1])]
    assert sum(part.value for part in parts).item() == pytest.approx(whole.value.item(), abs=EXACT)
    for name, metric in whole.metrics.items():
        assert sum(part.metrics[name] for part in parts).item() == pytest.approx(metric.item(), abs=EXACT)
        assert not metric.requires_grad


def test_a_ranking_that_is_all_tied_has_no_pairs_and_metrics_that_are_numbers() -> None:
    metrics = dpo_loss(tensor(3, 2), tensor(0, 0), torch.tensor([[1, 1]]), beta=0.5).metrics
    assert (metrics["accuracy"].item(), metrics["margin"].item()) == (0, 0)


def test_at_the_reference_no_answer_is_ahead() -> None:
    assert dpo_loss(tensor(-1, -2), tensor(-1, -2), beta=0.5).metrics["accuracy"].item() == 0
