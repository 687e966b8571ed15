"""Group relative policy optimisation and its normalisers."""

import math

import pytest
import torch
from tolerances import EXACT

from starling.losses.grpo import Counts, grpo_loss
from starling.losses.ppo import clipped_policy_loss

NORMALISERS = ["grpo", "dr_grpo", "dapo"]
OLD = torch.tensor([[-2.0, 0.0, 0.0, 0.0], [-1.0, -3.0, -0.5, 0.0]], dtype=torch.float64)
ADVANTAGE = torch.tensor([[1.0], [-2.0]], dtype=torch.float64).expand(2, 4)
MASK = torch.tensor([[True, False, False, False], [True, True, True, False]])


def random_batch() -> tuple[torch.Tensor, ...]:
    old, noise, advantage = torch.randn(3, 5, 6, dtype=torch.float64)
    mask = torch.arange(6) < torch.tensor([6, 1, 3, 0, 4])[:, None]
    return old + 0.4 * noise, old, advantage[:, :1].expand(5, 6), mask


def by_loops(logprob, old, advantage, mask, normaliser: str) -> float:
    """Clips 0.2 and 0.3; each answer by itself, then the normaliser's own division."""
    answers = []
    for row in range(len(mask)):
        terms = []
        for t in range(int(mask[row].sum())):
            ratio, a = math.exp(logprob[row, t] - old[row, t]), advantage[row, t].item()
            terms.append(-a * (min(ratio, 1.3) if a > 0 else max(ratio, 0.8)))
        answers.append(terms)
    if normaliser == "grpo":
        return sum(sum(terms) / len(terms) for terms in answers if terms) / len(answers)
    divisor = {"dr_grpo": mask.numel(), "dapo": sum(map(len, answers))}[normaliser]
    return sum(map(sum, answers)) / divisor


def loss_of(batch, normaliser: str, counts: Counts | None = None):
    return grpo_loss(*batch, clip_low=0.2, clip_high=0.3, normaliser=normaliser, counts=counts)


@pytest.mark.parametrize(
    ("normaliser", "value"),
    # ratio 1: one token of -1, three of 2. Answers' means -1 and 2; 5 over 2 answers of at most 4; 5 over 4 tokens
    [("grpo", 1 / 2), ("dr_grpo", 5 / 8), ("dapo", 5 / 4)],
)
def test_each_normaliser_by_hand(normaliser: str, value: float) -> None:
    assert loss_of((OLD, OLD, ADVANTAGE, MASK), normaliser).value.item() == pytest.approx(value, abs=EXACT)


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "clipped"),
    # clip_high lets a good action rise to 1.3, clip_low a bad one fall to 0.8; the other side is free
    [(1.25, 1.0, -1.25, 0), (1.5, 1.0, -1.3, 1), (0.5, -1.0, 0.8, 1), (0.5, 1.0, -0.5, 0), (1.5, -1.0, 1.5, 0)],
)
def test_the_two_clips_by_hand(ratio: float, advantage: float, value: float, clipped: int) -> None:
    one = torch.ones(1, 1, dtype=torch.float64)
    loss = loss_of((one * math.log(ratio), one * 0, one * advantage, one.bool()), "grpo")
    assert loss.value.item() == pytest.approx(value, abs=EXACT)
    assert loss.metrics["clip_fraction"].item() == clipped


@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_loss_equals_plain_python(normaliser: str) -> None:
    batch = random_batch()
    assert loss_of(batch, normaliser).value.item() == pytest.approx(by_loops(*batch, normaliser), rel=EXACT)


@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_gradient_equals_finite_differences(normaliser: str) -> None:
    logprob, *rest = random_batch()
    logprob.requires_grad_()
    loss_of((logprob, *rest), normaliser).value.backward()
    step = 1e-6
    for row, column in [(0, 0), (0, 5), (1, 0), (2, 2), (4, 3), (3, 0)]:
        nudge = torch.zeros_like(logprob)
        nudge[row, column] = step
        up, down = (by_loops(logprob.detach() + sign * nudge, *rest, normaliser) for sign in (1, -1))
        assert logprob.grad[row, column].item() == pytest.approx((up - down) / (2 * step), abs=1e-8)


def test_with_equal_clips_and_all_tokens_alike_it_is_ppo() -> None:
    batch = random_batch()
    found = grpo_loss(*batch, clip_low=0.2, clip_high=0.2, normaliser="dapo")
    expected = clipped_policy_loss(*batch, clip=0.2)
    assert found.value.item() == expected.value.item()
    assert found.metrics == expected.metrics


def test_answers_of_one_length_weigh_the_same_under_every_normaliser() -> None:
    *parts, mask = random_batch()
    values = [loss_of((*parts, torch.ones_like(mask)), normaliser).value.item() for normaliser in NORMALISERS]
    assert values == pytest.approx([values[0]] * 3, abs=EXACT)


def test_metrics_are_means_over_tokens_under_every_normaliser() -> None:
    batch = random_batch()
    found = [loss_of(batch, normaliser).metrics for normaliser in NORMALISERS]
    assert found[0] == found[1] == found[2]
    assert found[0]["ratio"].item() == pytest.approx((batch[0] - batch[1])[batch[-1]].exp().mean().item(), abs=EXACT)


@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_microbatches_add_up_to_the_batch(normaliser: str) -> None:
    batch = random_batch()
    counts = Counts(tokens=int(batch[-1].sum()), answers=5, max_tokens=6)
    whole = loss_of(batch, normaliser)
    parts = [loss_of([part[rows] for part in batch], normaliser, counts) for rows in ([4], [0, 2], [1, 3])]
    assert sum(part.value for part in parts).item() == pytest.approx(whole.value.item(), abs=EXACT)
    for name, metric in whole.metrics.items():
        assert sum(part.metrics[name] for part in parts).item() == pytest.approx(metric.item(), abs=EXACT)


@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_a_microbatch_may_be_padded_as_it_likes(normaliser: str) -> None:
    batch = random_batch()
    counts = Counts(tokens=batch[-1].sum(), answers=5, max_tokens=6)
    wide = [torch.nn.functional.pad(part, (0, 3)) for part in batch]
    found = loss_of(wide, normaliser, counts).value.item()
    assert found == pytest.approx(loss_of(batch, normaliser).value.item(), abs=EXACT)


@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_the_order_of_answers_does_not_matter(normaliser: str) -> None:
    batch = random_batch()
    shuffled = [part[torch.tensor([2, 0, 4, 1, 3])] for part in batch]
    assert loss_of(shuffled, normaliser).value.item() == pytest.approx(by_loops(*batch, normaliser), rel=EXACT)
