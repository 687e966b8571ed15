"""The critic's regression onto returns."""

import math

import pytest
import torch
from tolerances import EXACT

from starling.losses.value import clipped_value_loss, value_loss

MASK = torch.tensor([[True, True, False]])


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def test_value_loss_by_hand() -> None:
    # half the mean of (1 - 3)^2 = 4 and (2 - 2)^2 = 0
    loss = value_loss(tensor(1, 2, 9), tensor(3, 2, -9), MASK)
    assert loss.value.item() == pytest.approx(1.0, abs=EXACT)


def test_explained_variance_by_hand() -> None:
    # returns 3, 2: variance 1/4; errors -2, 0: variance 1; 1 - 4 = -3
    loss = value_loss(tensor(1, 2, 9), tensor(3, 2, -9), MASK)
    assert loss.metrics["explained_variance"].item() == pytest.approx(-3.0, abs=EXACT)


@pytest.mark.parametrize(
    ("value", "share"),
    [((3, 2, 0), 1.0), ((5, 4, 0), 1.0), ((2.5, 2.5, 0), 0.0)],
    ids=["perfect", "perfect but for a shift", "constant"],
)
def test_explained_variance_of_known_critics(value, share: float) -> None:
    found = value_loss(tensor(*value), tensor(3, 2, -9), MASK).metrics["explained_variance"].item()
    assert found == pytest.approx(share, abs=EXACT)


def test_gradient_is_the_error_over_the_number_of_tokens() -> None:
    value = tensor(1, 2, 9).requires_grad_()
    value_loss(value, tensor(3, 5, -9), MASK).value.backward()
    # (1 - 3) / 2, (2 - 5) / 2, nothing for the padding
    assert value.grad[0].tolist() == pytest.approx([-1.0, -1.5, 0.0], abs=EXACT)


def test_metrics_carry_no_gradient() -> None:
    loss = value_loss(tensor(1, 2, 9).requires_grad_(), tensor(3, 5, -9), MASK)
    assert loss.value.requires_grad
    assert not any(metric.requires_grad for metric in loss.metrics.values())


def test_a_common_shift_of_value_and_return_changes_nothing() -> None:
    value, target, mask = torch.randn(4, 6).double(), torch.randn(4, 6).double(), torch.rand(4, 6) < 0.7
    before, after = value_loss(value, target, mask), value_loss(value + 3, target + 3, mask)
    assert after.value.item() == pytest.approx(before.value.item(), abs=EXACT)
    assert after.metrics["explained_variance"].item() == pytest.approx(before.metrics["explained_variance"].item())


def test_microbatches_add_up_to_the_batch() -> None:
    value, target, mask = torch.randn(4, 6).double(), torch.randn(4, 6).double(), torch.rand(4, 6) < 0.7
    total = mask.sum().item()
    parts = sum(
        value_loss(value[i : i + 2], target[i : i + 2], mask[i : i + 2], num_tokens=total).value for i in (0, 2)
    )
    expected = sum(0.5 * (v - r) ** 2 for v, r in zip(value[mask].tolist(), target[mask].tolist(), strict=True)) / total
    assert parts.item() == pytest.approx(expected, abs=EXACT)
    assert value_loss(value, target, mask).value.item() == pytest.approx(expected, abs=EXACT)


@pytest.mark.filterwarnings("error")
def test_a_microbatch_without_counted_tokens_adds_nothing() -> None:
    value = tensor(1, 2, 9).requires_grad_()
    loss = value_loss(value, tensor(3, 5, -9), torch.zeros_like(MASK), num_tokens=4)
    loss.value.backward()
    assert loss.value.item() == 0
    assert value.grad.abs().max().item() == 0
    assert torch.isfinite(loss.metrics["explained_variance"])


@pytest.mark.parametrize("target", [(2, 2, -9), (0.1, 0.1, -9)], ids=["whole", "rounded"])
def test_of_constant_returns_nothing_is_explained(target) -> None:
    assert value_loss(tensor(1, 2, 9), tensor(*target), MASK).metrics["explained_variance"].item() == 0


@pytest.mark.parametrize("filler", [1e30, math.inf, math.nan], ids=["huge", "inf", "nan"])
def test_what_stands_in_the_padding_does_not_matter(filler: float) -> None:
    value, old, target = (tensor(*row, filler).requires_grad_() for row in ((1, 2), (0, 2), (3, 2)))
    for loss in (value_loss(value, target, MASK), clipped_value_loss(value, old, target, MASK, clip=5.0)):
        (gradient,) = torch.autograd.grad(loss.value, value)
        assert loss.value.item() == pytest.approx(1.0, abs=EXACT)
        assert gradient.tolist() == [[-1.0, 0.0, 0.0]]
        assert all(metric.isfinite() for metric in loss.metrics.values())


def test_clipped_value_loss_by_hand() -> None:
    # return 2 from 0 with clip 1/2: 1 -> held at 0.5, (1.5)^2 > 1^2;  0.4 -> free, 1.6^2;  -1 -> held at -0.5, but
    # (-1 - 2)^2 = 9 is more;  half the mean of 2.25, 2.56 and 9
    mask = torch.tensor([[True, True, True, False]])
    value = tensor(1, 0.4, -1, 7).requires_grad_()
    loss = clipped_value_loss(value, tensor(0, 0, 0, 0), tensor(2, 2, 2, 2), mask, clip=0.5)
    assert loss.value.item() == pytest.approx((2.25 + 2.56 + 9) / 6, abs=EXACT)
    assert loss.metrics["value_clip_fraction"].item() == pytest.approx(1 / 3, abs=EXACT)
    loss.value.backward()
    # nothing where the clip binds, (V - R) / 3 elsewhere
    assert value.grad[0].tolist() == pytest.approx([0, -1.6 / 3, -1, 0], abs=EXACT)


def random_values() -> tuple[torch.Tensor, ...]:
    value, old, target = torch.randn(3, 4, 6, dtype=torch.float64)
    return value, old, target, torch.rand(4, 6) < 0.7


def test_clipped_value_loss_equals_plain_python() -> None:
    value, old, target, mask = batch = random_values()
    terms, bound = [], []
    for v, o, r in zip(value[mask].tolist(), old[mask].tolist(), target[mask].tolist(), strict=True):
        held = min(max(v, o - 0.3), o + 0.3)
        terms.append(max((v - r) ** 2, (held - r) ** 2) / 2)
        bound.append((held - r) ** 2 > (v - r) ** 2)
    found = clipped_value_loss(*batch, clip=0.3)
    assert found.metrics["value_clip_fraction"].item() == pytest.approx(sum(bound) / len(bound), abs=EXACT)
    assert found.value.item() == pytest.approx(sum(terms) / len(terms), abs=EXACT)


def test_with_a_wide_clip_it_is_the_plain_loss() -> None:
    value, old, target, mask = random_values()
    found, expected = clipped_value_loss(value, old, target, mask, clip=100.0), value_loss(value, target, mask)
    assert found.value.item() == pytest.approx(expected.value.item(), abs=EXACT)
    assert found.metrics["explained_variance"] == expected.metrics["explained_variance"]
    assert found.metrics["value_clip_fraction"].item() == 0


def test_the_clip_never_makes_the_loss_smaller() -> None:
    value, old, target, mask = random_values()
    clipped = clipped_value_loss(value, old, target, mask, clip=0.1).value
    assert clipped.item() > value_loss(value, target, mask).value.item()


def test_microbatches_of_the_clipped_loss_add_up() -> None:
    batch = random_values()
    total = batch[-1].sum()
    whole = clipped_value_loss(*batch, clip=0.3)
    parts = [clipped_value_loss(*(part[i : i + 1] for part in batch), clip=0.3, num_tokens=total) for i in range(4)]
    assert sum(part.value for part in parts).item() == pytest.approx(whole.value.item(), abs=EXACT)
    share = sum(part.metrics["value_clip_fraction"] for part in parts)
    assert share.item() == pytest.approx(whole.metrics["value_clip_fraction"].item(), abs=EXACT)
