"""Identity preference optimisation."""

import math

import pytest
import torch
from tolerances import EXACT

from starling.losses.dpo import dpo_loss
from starling.losses.ipo import ipo_loss


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def by_loops(logprob, ref, tau: float) -> float:
    """Expanded: h^2 - h / tau + 1 / (4 tau^2), over the pairs of a ranking whose column 0 is best."""
    rankings = []
    for new, old in zip(logprob.tolist(), ref.tolist(), strict=True):
        ratio = [p - r for p, r in zip(new, old, strict=True)]
        pairs = [(i, j) for i in range(len(ratio)) for j in range(i + 1, len(ratio))]
        terms = [(ratio[i] - ratio[j]) ** 2 - (ratio[i] - ratio[j]) / tau + 1 / (4 * tau**2) for i, j in pairs]
        rankings.append(sum(terms) / len(terms))
    return sum(rankings) / len(rankings)


def test_a_pair_by_hand() -> None:
    # h = (4 - 2) - (1 - 3) = 4, goal 1 / (2 * 1/4) = 2; (4 - 2)^2
    loss = ipo_loss(tensor(4, 1), tensor(2, 3), tau=0.25)
    assert loss.value.item() == pytest.approx(4, abs=EXACT)
    assert loss.metrics["accuracy"].item() == 1
    assert loss.metrics["margin"].item() == pytest.approx(1, abs=EXACT)


def test_three_answers_by_hand() -> None:
    # goal 1; h = 1, 3, 2: (0 + 4 + 1) / 3
    assert ipo_loss(tensor(3, 2, 0), tensor(0, 0, 0), tau=0.5).value.item() == pytest.approx(5 / 3, abs=EXACT)


def test_gradient_at_the_reference_raises_the_better_answer() -> None:
    logprob = tensor(-3, -5).requires_grad_()
    ipo_loss(logprob, logprob.detach(), tau=0.5).value.backward()
    # 2 (0 - 1)
    assert logprob.grad[0].tolist() == pytest.approx([-2.0, 2.0], abs=EXACT)


def test_loss_and_gradient_are_zero_at_the_goal() -> None:
    logprob = tensor(-3, -5).requires_grad_()
    loss = ipo_loss(logprob, tensor(-8, -5), tau=0.1)  # h = 5 = 1 / 0.2
    loss.value.backward()
    assert loss.value.item() == pytest.approx(0, abs=EXACT)
    assert logprob.grad.abs().max().item() == pytest.approx(0, abs=EXACT)
    assert loss.metrics["margin"].item() == pytest.approx(0.5, abs=EXACT)


@pytest.mark.parametrize("share", [0.9, 0.6])
def test_where_labels_disagree_the_gap_is_their_balance_over_two_tau(share: float) -> None:
    # Azar et al., proposition 2's optimum for one pair: h = (p - 1/2) / tau where y wins with probability p
    tau = 0.2
    gap = torch.tensor((share - 0.5) / tau, dtype=torch.float64, requires_grad=True)
    both = torch.stack([torch.stack([gap, gap * 0]), torch.stack([gap * 0, gap])])
    losses = [ipo_loss(row[None], torch.zeros(1, 2, dtype=torch.float64), tau=tau).value for row in both]
    (share * losses[0] + (1 - share) * losses[1]).backward()
    assert gap.grad.item() == pytest.approx(0, abs=EXACT)


@pytest.mark.parametrize("size", [2, 4])
def test_loss_equals_plain_python(size: int) -> None:
    logprob, ref = torch.randn(2, 5, size, dtype=torch.float64)
    assert ipo_loss(logprob, ref, tau=0.3).value.item() == pytest.approx(by_loops(logprob, ref, 0.3), rel=1e-11)


def test_what_a_prompt_adds_to_all_its_answers_changes_nothing() -> None:
    logprob, ref = torch.randn(2, 3, 2, dtype=torch.float64)
    shift = torch.tensor([[0.0], [5.0], [-70.0]], dtype=torch.float64)
    found = ipo_loss(logprob + shift, ref - 2 * shift, tau=0.3).value.item()
    assert found == pytest.approx(by_loops(logprob, ref, 0.3), rel=1e-11)


def test_ranks_travel_with_their_answers() -> None:
    logprob, ref = torch.randn(2, 4, 3, dtype=torch.float64)
    order = torch.tensor([2, 0, 1])
    rank = torch.tensor([1, 2, 3]).expand(4, 3)
    found = ipo_loss(logprob[:, order], ref[:, order], rank[:, order], tau=0.3).value.item()
    assert found == pytest.approx(by_loops(logprob, ref, 0.3), rel=1e-11)


def test_ties_and_masked_answers_are_no_pairs() -> None:
    # of ranks 1, 1, 2 and a masked fourth two pairs remain: (0, 2) and (1, 2); goal 1, h = 3 and 2
    mask = torch.tensor([[True, True, True, False]])
    loss = ipo_loss(tensor(3, 2, 0, math.nan), tensor(0, 0, 0, 0), torch.tensor([[1, 1, 2, 3]]), mask, tau=0.5)
    assert loss.value.item() == pytest.approx((4 + 1) / 2, abs=EXACT)
    tied = ipo_loss(tensor(3, 2), tensor(0, 0), torch.tensor([[1, 1]]), tau=0.5)
    assert tied.value.item() == 0


def test_metrics_are_those_of_dpo() -> None:
    logprob, ref = torch.randn(2, 5, 3, dtype=torch.float64)
    assert ipo_loss(logprob, ref, tau=0.3).metrics == dpo_loss(logprob, ref, beta=0.3).metrics


def test_microbatches_add_up_and_their_order_does_not_matter() -> None:
    logprob, ref = torch.randn(2, 5, 3, dtype=torch.float64)
    whole = ipo_loss(logprob, ref, tau=0.3).value.item()
    parts = [ipo_loss(logprob[rows], ref[rows], tau=0.3, num_rankings=5).value for rows in ([3], [0, 4], [2, 1])]
    assert sum(parts).item() == pytest.approx(whole, rel=1e-11)
