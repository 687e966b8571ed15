"""Proximal policy optimisation's clipped surrogate."""

import math

import pytest
import torch
from tolerances import EXACT

from starling.losses.ppo import clipped_policy_loss, clipped_surrogate

RATIO = torch.tensor([[1.5, 0.5, 1.5, 9.0]], dtype=torch.float64)
OLD = torch.tensor([[-2.0, -0.5, -4.0, -1.0]], dtype=torch.float64)
ADVANTAGE = torch.tensor([[1.0, -1.0, -1.0, 70.0]], dtype=torch.float64)
MASK = torch.tensor([[True, True, True, False]])


def random_batch() -> tuple[torch.Tensor, ...]:
    old, noise, advantage = torch.randn(3, 4, 5, dtype=torch.float64)
    return old + 0.4 * noise, old, advantage, torch.rand(4, 5) < 0.7


def by_loops(logprob, old, advantage, mask, clip: float) -> float:
    """The minimum, spelled out: a good action's ratio counts up to 1 + clip, a bad one's down to 1 - clip."""
    terms = []
    for new, before, a in zip(logprob[mask].tolist(), old[mask].tolist(), advantage[mask].tolist(), strict=True):
        ratio = math.exp(new) / math.exp(before)
        terms.append(-a * (min(ratio, 1 + clip) if a > 0 else max(ratio, 1 - clip)))
    return sum(terms) / len(terms)


def test_loss_and_metrics_by_hand() -> None:
    # min(1.5, 1.2) = 1.2;  min(-0.5, -0.8) = -0.8;  min(-1.5, -1.2) = -1.5;  -(1.2 - 0.8 - 1.5) / 3 = 1.1 / 3
    loss = clipped_policy_loss(OLD + RATIO.log(), OLD, ADVANTAGE, MASK, clip=0.2)
    assert loss.value.item() == pytest.approx(1.1 / 3, abs=EXACT)
    # the clip binds on the first two; rho - 1 - log rho sums to 3.5 - 3 - log(1.5 * 0.5 * 1.5)
    assert loss.metrics["clip_fraction"].item() == pytest.approx(2 / 3, abs=EXACT)
    assert loss.metrics["ratio"].item() == pytest.approx(3.5 / 3, abs=EXACT)
    assert loss.metrics["approx_kl"].item() == pytest.approx((0.5 - math.log(1.125)) / 3, abs=EXACT)


def test_a_good_action_may_rise_by_the_high_clip_and_a_bad_one_fall_by_the_low() -> None:
    # min(1.5, 1.4) = 1.4;  min(-0.5, -0.9) = -0.9;  min(-1.5, -1.4) = -1.5
    found = clipped_surrogate(OLD + RATIO.log(), OLD, ADVANTAGE, MASK, clip_low=0.1, clip_high=0.4)
    assert found.loss_BT[0, :3].tolist() == pytest.approx([-1.4, 0.9, 1.5], abs=EXACT)


def test_where_the_clip_binds_there_is_no_gradient_and_elsewhere_it_is_the_ratio_times_the_advantage() -> None:
    logprob = (OLD + RATIO.log()).requires_grad_()
    clipped_policy_loss(logprob, OLD, ADVANTAGE, MASK, clip=0.2).value.backward()
    assert logprob.grad[0].tolist() == pytest.approx([0.0, 0.0, 1.5 / 3, 0.0], abs=EXACT)


def test_gradient_at_ratio_one_is_the_policy_gradient() -> None:
    logprob = OLD.clone().requires_grad_()
    loss = clipped_policy_loss(logprob, OLD, ADVANTAGE, MASK, clip=0.2)
    loss.value.backward()
    # descent raises what was better than expected: -A / n
    assert logprob.grad[0].tolist() == pytest.approx([-1 / 3, 1 / 3, 1 / 3, 0.0], abs=EXACT)
    assert [loss.metrics[name].item() for name in ("clip_fraction", "ratio", "approx_kl")] == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("clip", [0.05, 0.2, 0.9])
def test_loss_equals_plain_python(clip: float) -> None:
    batch = random_batch()
    assert clipped_policy_loss(*batch, clip=clip).value.item() == pytest.approx(by_loops(*batch, clip), rel=EXACT)


def test_gradient_equals_finite_differences() -> None:
    logprob, old, advantage, mask = random_batch()
    logprob.requires_grad_()
    clipped_policy_loss(logprob, old, advantage, mask, clip=0.2).value.backward()
    step = 1e-6
    for row, column in [(0, 0), (1, 3), (2, 2), (3, 4)]:
        nudge = torch.zeros_like(old)
        nudge[row, column] = step
        up, down = (by_loops(logprob.detach() + sign * nudge, old, advantage, mask, 0.2) for sign in (1, -1))
        assert logprob.grad[row, column].item() == pytest.approx((up - down) / (2 * step), abs=1e-8)


def test_mean_of_approx_kl_over_samples_of_the_old_policy_is_the_exact_divergence() -> None:
    old, new = [torch.tensor([row], dtype=torch.float64) for row in ([0.5, 0.3, 0.2], [0.2, 0.3, 0.5])]
    exact = sum(p * math.log(p / q) for p, q in zip(old[0].tolist(), new[0].tolist(), strict=True))
    mean = 0.0
    for arm in range(3):
        here = [part[:, arm : arm + 1] for part in (new.log(), old.log(), old, torch.ones_like(old, dtype=torch.bool))]
        mean += old[0, arm].item() * clipped_policy_loss(*here, clip=0.2).metrics["approx_kl"].item()
    assert mean == pytest.approx(exact, abs=EXACT)


def test_a_common_shift_of_both_logprobs_changes_nothing() -> None:
    logprob, old, advantage, mask = random_batch()
    found = clipped_policy_loss(logprob - 0.3, old - 0.3, advantage, mask, clip=0.2).value.item()
    assert found == pytest.approx(by_loops(logprob, old, advantage, mask, 0.2), rel=EXACT)


def test_the_loss_grows_with_the_advantages_scale() -> None:
    logprob, old, advantage, mask = random_batch()
    found = clipped_policy_loss(logprob, old, 3 * advantage, mask, clip=0.2).value.item()
    assert found == pytest.approx(3 * by_loops(logprob, old, advantage, mask, 0.2), rel=EXACT)


def test_microbatches_add_up_and_their_order_does_not_matter() -> None:
    batch = random_batch()
    total = batch[-1].sum().item()
    whole = clipped_policy_loss(*batch, clip=0.2)
    parts = [
        clipped_policy_loss(*(part[i : i + 1] for part in batch), clip=0.2, num_tokens=total) for i in (2, 0, 3, 1)
    ]
    assert sum(part.value for part in parts).item() == pytest.approx(whole.value.item(), abs=EXACT)
    for name, metric in whole.metrics.items():
        assert sum(part.metrics[name] for part in parts).item() == pytest.approx(metric.item(), abs=EXACT)
        assert not metric.requires_grad


@pytest.mark.parametrize("filler", [1e30, math.inf, math.nan], ids=["huge", "inf", "nan"])
def test_what_stands_in_the_padding_does_not_matter(filler: float) -> None:
    *parts, mask = random_batch()
    dirty = [part.masked_fill(~mask, filler) for part in parts]
    dirty[0].requires_grad_()
    loss = clipped_policy_loss(*dirty, mask, clip=0.2)
    loss.value.backward()
    assert loss.value.item() == pytest.approx(by_loops(*parts, mask, 0.2), rel=EXACT)
    assert dirty[0].grad.isfinite().all()
    assert all(metric.isfinite() for metric in loss.metrics.values())


def test_a_microbatch_without_counted_tokens_adds_nothing() -> None:
    logprob = OLD.clone().requires_grad_()
    loss = clipped_policy_loss(logprob, OLD, ADVANTAGE, torch.zeros_like(MASK), clip=0.2, num_tokens=4)
    loss.value.backward()
    assert loss.value.item() == 0
    assert logprob.grad.abs().max().item() == 0
