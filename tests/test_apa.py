"""Advantage-Induced Policy Alignment."""

import math

import pytest
import torch
from tolerances import EXACT

from starling.losses.apa import apa_loss

LOGPROB = torch.tensor([[-1.0, -0.5, -3.0]], dtype=torch.float64)
ANCHOR = torch.tensor([[-2.0, -0.5, -4.0]], dtype=torch.float64)
ADVANTAGE = torch.tensor([[1.0, -3.0, 50.0]], dtype=torch.float64)
MASK = torch.tensor([[True, True, False]])


def random_batch() -> tuple[torch.Tensor, ...]:
    logprob, anchor, advantage = -torch.rand(3, 4, 5, dtype=torch.float64) * 3
    return logprob, anchor, advantage + 1.5, torch.rand(4, 5) < 0.7


def by_loops(logprob, anchor, advantage, mask, lam: float) -> float:
    """The loss in plain Python, in the paper's form: (lam (log pi - log pi_anchor) - A)^2 / lam^2."""
    rows = zip(logprob[mask].tolist(), anchor[mask].tolist(), advantage[mask].tolist(), strict=True)
    terms = [(lam * (new - old) - a) ** 2 / lam**2 for new, old, a in rows]
    return sum(terms) / len(terms)


def test_loss_by_hand() -> None:
    # targets -2 + 1/2 = -3/2 and -1/2 - 3/2 = -2; errors 1/2 and 3/2; (1/4 + 9/4) / 2
    loss = apa_loss(LOGPROB, ANCHOR, ADVANTAGE, MASK, lam=2.0)
    assert loss.value.item() == pytest.approx(1.25, abs=EXACT)


def test_share_of_unreachable_targets_by_hand() -> None:
    # lam 1/4: targets -2 + 4 = 2 > 0 and -1/2 - 12 < 0; the third (-4 + 200) does not count
    loss = apa_loss(LOGPROB, ANCHOR, ADVANTAGE, MASK, lam=0.25)
    assert loss.metrics["target_above_zero"].item() == pytest.approx(0.5, abs=EXACT)
    assert not loss.metrics["target_above_zero"].requires_grad


def test_loss_and_gradient_are_zero_at_the_target() -> None:
    logprob = torch.tensor([[-1.5, -2.0, -3.0]], dtype=torch.float64, requires_grad=True)
    loss = apa_loss(logprob, ANCHOR, ADVANTAGE, MASK, lam=2.0).value
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=EXACT)
    assert logprob.grad.abs().max().item() == pytest.approx(0, abs=EXACT)


def test_gradient_at_the_anchor_is_the_policy_gradient_times_two_over_lambda() -> None:
    logprob = ANCHOR.clone().requires_grad_()
    apa_loss(logprob, ANCHOR, ADVANTAGE, MASK, lam=4.0).value.backward()
    # -2 / lam * A / n = -2/4 * 1/2 and -2/4 * -3/2: descent raises what was better than expected
    assert logprob.grad[0].tolist() == pytest.approx([-0.25, 0.75, 0.0], abs=EXACT)


@pytest.mark.parametrize("lam", [0.1, 1.0, 7.0])
def test_loss_equals_the_papers_form_in_plain_python(lam: float) -> None:
    logprob, anchor, advantage, mask = random_batch()
    found = apa_loss(logprob, anchor, advantage, mask, lam=lam).value.item()
    assert found == pytest.approx(by_loops(logprob, anchor, advantage, mask, lam), rel=EXACT)


def test_gradient_equals_finite_differences() -> None:
    logprob, anchor, advantage, mask = random_batch()
    logprob.requires_grad_()
    apa_loss(logprob, anchor, advantage, mask, lam=0.5).value.backward()
    step = 1e-5
    for row, column in [(0, 0), (1, 3), (3, 4)]:
        nudge = torch.zeros_like(anchor)
        nudge[row, column] = step
        up, down = (by_loops(logprob.detach() + sign * nudge, anchor, advantage, mask, 0.5) for sign in (1, -1))
        assert logprob.grad[row, column].item() == pytest.approx((up - down) / (2 * step), abs=1e-8)


def test_a_common_shift_of_logprob_and_anchor_changes_nothing() -> None:
    logprob, anchor, advantage, mask = random_batch()
    found = apa_loss(logprob - 0.3, anchor - 0.3, advantage, mask, lam=0.5).value.item()
    assert found == pytest.approx(by_loops(logprob, anchor, advantage, mask, 0.5), rel=EXACT)


def test_the_order_of_the_batch_does_not_matter() -> None:
    batch = random_batch()
    shuffled = [part[torch.tensor([2, 0, 3, 1])] for part in batch]
    assert apa_loss(*shuffled, lam=0.5).value.item() == pytest.approx(by_loops(*batch, 0.5), rel=EXACT)


def test_microbatches_add_up_to_the_batch() -> None:
    batch = random_batch()
    total = batch[-1].sum()
    losses = [apa_loss(*(part[i : i + 1] for part in batch), lam=0.5, num_tokens=total) for i in range(4)]
    assert sum(loss.value for loss in losses).item() == pytest.approx(by_loops(*batch, 0.5), rel=EXACT)
    above = sum(((batch[1] + batch[2] / 0.5) > 0)[batch[3]].tolist()) / total.item()
    assert sum(loss.metrics["target_above_zero"] for loss in losses).item() == pytest.approx(above, abs=EXACT)


@pytest.mark.parametrize("filler", [1e30, math.inf, math.nan], ids=["huge", "inf", "nan"])
def test_what_stands_in_the_padding_does_not_matter(filler: float) -> None:
    *parts, mask = random_batch()
    dirty = [part.masked_fill(~mask, filler) for part in parts]
    dirty[0].requires_grad_()
    loss = apa_loss(*dirty, mask, lam=0.5)
    loss.value.backward()
    assert loss.value.item() == pytest.approx(by_loops(*parts, mask, 0.5), rel=EXACT)
    assert dirty[0].grad.isfinite().all()
    assert all(metric.isfinite() for metric in loss.metrics.values())


def test_a_bandit_ends_at_the_anchor_times_exp_of_advantage_over_lambda() -> None:
    # Ten draws from the anchor (1/2, 3/10, 1/5); advantages chosen so that the target (1/5, 3/10, 1/2) is normalised.
    anchor, target, lam = [0.5, 0.3, 0.2], [0.2, 0.3, 0.5], 0.7
    draws = torch.tensor([[0] * 5 + [1] * 3 + [2] * 2])
    advantage = torch.tensor([lam * math.log(t / a) for t, a in zip(target, anchor, strict=True)], dtype=torch.float64)
    anchor_logprob = torch.tensor(anchor, dtype=torch.float64).log()
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-14, tolerance_change=1e-16)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        everything = torch.ones_like(draws, dtype=torch.bool)
        loss = apa_loss(
            logits.log_softmax(0)[draws], anchor_logprob[draws], advantage[draws], everything, lam=lam
        ).value
        loss.backward()
        return loss

    optimiser.step(closure)
    assert logits.softmax(0).tolist() == pytest.approx(target, abs=1e-6)
