"""Two heads: one goes with the answers' length, the other does not."""

import math

import numpy as np
import pytest
import torch
from tolerances import EXACT

from starling.losses.length import correlation, length_terms


def rows(*values: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


ALL = torch.ones(1, 3, dtype=torch.bool)


def test_correlation_by_hand() -> None:
    # less their means (2; 4): -1, 0, 1 and -2, -1, 3; products 2 + 0 + 3, squares 2 and 14
    assert correlation(rows((1, 2, 3)), rows((2, 3, 7)), ALL).item() == pytest.approx(5 / math.sqrt(28), abs=EXACT)
    assert correlation(rows((3, 2, 1)), rows((2, 3, 7)), ALL).item() == pytest.approx(-5 / math.sqrt(28), abs=EXACT)


def test_prompts_are_centred_each_by_itself_and_pooled() -> None:
    first, second = rows((1, 2, 3), (105, 103, 0)), rows((2, 3, 7), (50, 54, 999))
    mask = torch.tensor([[True, True, True], [True, True, False]])
    # the second prompt adds 1 * -2 + -1 * 2 = -4 to the products, 2 and 8 to the squares
    assert correlation(first, second, mask).item() == pytest.approx((5 - 4) / math.sqrt(4 * 22), abs=EXACT)


def test_of_one_prompt_it_is_numpys() -> None:
    first, second = torch.randn(1, 7, dtype=torch.float64), torch.randn(1, 7, dtype=torch.float64)
    expected = np.corrcoef(first[0].numpy(), second[0].numpy())[0, 1]
    assert correlation(first, second, torch.ones(1, 7, dtype=torch.bool)).item() == pytest.approx(expected, abs=EXACT)


def test_neither_shift_nor_scale_matters() -> None:
    first, second = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    mask = ALL.expand(2, 3)
    moved = 3 * first + rows((7,), (-40,))
    assert correlation(moved, second, mask).item() == pytest.approx(correlation(first, second, mask).item(), abs=1e-10)


@pytest.mark.parametrize(("first", "second"), [((1, 1, 1), (2, 3, 7)), ((1, 2, 3), (4, 4, 4))])
def test_what_never_varies_goes_with_nothing_and_gets_no_gradient(first, second) -> None:
    value = rows(first).requires_grad_()
    found = correlation(value, rows(second), ALL)
    found.backward()
    assert found.item() == 0
    assert value.grad.tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize("sign", [1, -1])
def test_the_terms_by_hand(sign: int) -> None:
    # quality as above, 5 / sqrt(28) either way; the length head's rewards are twice the lengths: 1;
    # heads (3, 4) and (4, 3): 24 / 25
    quality, lengths = sign * rows((1, 2, 3)), rows((2, 3, 7))
    found = length_terms(quality, 2 * lengths, lengths, ALL, rows((3, 4), (-4, -3)))
    assert found.value.item() == pytest.approx(5 / math.sqrt(28) - 1 + 24 / 25, abs=EXACT)
    assert found.quality_correlation.item() == pytest.approx(sign * 5 / math.sqrt(28), abs=EXACT)
    assert found.length_correlation.item() == pytest.approx(1, abs=EXACT)


def test_descent_takes_length_from_the_one_head_to_the_other_and_turns_them_apart() -> None:
    torch.manual_seed(1)
    hidden = torch.randn(4, 7, 5, dtype=torch.float64)
    lengths = 10 * hidden[..., 0] + torch.randn(4, 7, dtype=torch.float64)
    mask = torch.ones(4, 7, dtype=torch.bool)
    heads = torch.ones(2, 5, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        heads[1, 1] = 0.5
    optimiser = torch.optim.SGD([heads], lr=0.05)
    for _ in range(400):
        optimiser.zero_grad()
        quality, length = (hidden @ heads[at] for at in (0, 1))
        found = length_terms(quality, length, lengths, mask, heads)
        found.value.backward()
        optimiser.step()
    assert abs(found.quality_correlation.item()) < 0.05
    assert found.length_correlation.item() > 0.9
    assert abs(torch.cosine_similarity(heads[0], heads[1], dim=0).item()) < 0.05
