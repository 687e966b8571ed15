"""Logits -> tokens, by numbers worked out by hand."""

import math

import pytest
import torch
from tolerances import CLOSE

from starling.errors import StarlingError
from starling.sampling import sample


def one(values: list[float]) -> torch.Tensor:
    return torch.tensor(values)


@pytest.mark.parametrize(
    ("number", "token"),
    [(0.0, 0), (0.4999, 0), (0.5, 1), (0.7499, 1), (0.75, 2), (0.9999, 2)],
)
def test_sample_inverts_the_cumulative_distribution(number: float, token: int) -> None:
    # weights 2, 1, 1: cumulative 1/2, 3/4, 1
    logits = torch.tensor([[math.log(2), 0.0, 0.0]])
    tokens, logprobs = sample(logits, one([number]), one([1.0]), one([1.0]))
    assert tokens.tolist() == [token]
    assert logprobs.item() == pytest.approx(math.log([1 / 2, 1 / 4, 1 / 4][token]), abs=CLOSE)


def test_sample_under_temperature_by_hand() -> None:
    # weights 4, 1, 1 at temperature 2: 2, 1, 1
    logits = torch.tensor([[math.log(4), 0.0, 0.0]])
    tokens, logprobs = sample(logits, one([0.6]), one([2.0]), one([1.0]))
    assert tokens.tolist() == [1]
    assert logprobs.item() == pytest.approx(math.log(1 / 4), abs=CLOSE)


def test_sample_under_top_p_by_hand() -> None:
    # probabilities 0.1, 0.5, 0.15, 0.25; top_p 0.7 keeps 0.5 and 0.25, that is 2/3 and 1/3
    logits = torch.tensor([[0.1, 0.5, 0.15, 0.25]]).log().expand(4, 4)
    tokens, logprobs = sample(logits, one([0.0, 0.66, 0.67, 0.9999]), torch.ones(4), torch.full((4,), 0.7))
    assert tokens.tolist() == [1, 1, 3, 3]
    assert logprobs.tolist() == pytest.approx([math.log(2 / 3)] * 2 + [math.log(1 / 3)] * 2, abs=CLOSE)


def test_top_p_keeps_at_least_the_likeliest_token() -> None:
    tokens, logprobs = sample(torch.tensor([[1.0, 3.0, 2.0]]), one([0.99]), one([1.0]), one([1e-6]))
    assert (tokens.item(), logprobs.item()) == (1, 0.0)


def test_top_p_stops_at_the_token_that_reaches_it() -> None:
    # 1/2 reaches 0.5 exactly: the two of 1/4 stay outside
    tokens, _ = sample(torch.tensor([[math.log(2), 0.0, 0.0]]), one([0.999]), one([1.0]), one([0.5]))
    assert tokens.item() == 0


def test_temperature_zero_takes_the_likeliest_token_with_logprob_zero() -> None:
    tokens, logprobs = sample(torch.tensor([[1.0, 3.0, 2.0]]), one([0.0]), one([0.0]), one([1.0]))
    assert (tokens.item(), logprobs.item()) == (1, 0.0)


def test_evenly_spread_numbers_draw_each_token_by_its_probability() -> None:
    prob = torch.tensor([0.1, 0.2, 0.3, 0.4])
    numbers = (torch.arange(1000) + 0.5) / 1000
    tokens, _ = sample(prob.log().expand(1000, 4), numbers, torch.ones(1000), torch.ones(1000))
    assert tokens.bincount().tolist() == [100, 200, 300, 400]


def test_the_largest_number_below_one_still_draws_from_the_nucleus() -> None:
    # rounded to float32 it is 1, past the end of the cumulative distribution
    logits = torch.tensor([[0.1, 0.5, 0.25, 0.15]]).log()
    number = torch.tensor([1 - 2**-53], dtype=torch.float64)
    tokens, logprobs = sample(logits, number, one([1.0]), one([0.7]))
    assert tokens.item() == 2
    assert logprobs.item() == pytest.approx(math.log(1 / 3), abs=CLOSE)


def test_bfloat16_logits_are_sampled_in_float32() -> None:
    logits = torch.randn(1, 300).bfloat16()
    tokens, logprobs = sample(logits, one([0.3]), one([1.0]), one([1.0]))
    expected = logits[0].double().log_softmax(0)[tokens.item()].item()
    assert logprobs.dtype == torch.float32
    assert logprobs.item() == pytest.approx(expected, abs=CLOSE)


def test_a_large_vocabulary_is_sampled_like_a_small_one() -> None:
    # 300 tokens fall into three tiles; each of the last 100 has weight 3, the others 1: 200 + 300
    logits = torch.cat([torch.zeros(200), torch.full((100,), math.log(3))]).expand(4, 300)
    tokens, logprobs = sample(logits, one([0.1, 0.3999, 0.4001, 0.9999]), torch.ones(4), torch.ones(4))
    assert tokens.tolist() == [50, 199, 200, 299]  # 0.1 x 500 = 50; (0.4001 x 500 - 200) / 3 = 0.02
    assert logprobs.tolist() == pytest.approx([math.log(1 / 500)] * 2 + [math.log(3 / 500)] * 2, abs=CLOSE)


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999])
def test_the_nucleus_of_a_large_vocabulary_is_that_of_a_whole_sort(top_p: float) -> None:
    logits = torch.randn(20, 1000, generator=torch.Generator().manual_seed(3)) * 4
    numbers = torch.linspace(0, 0.999, 20)
    tokens, logprobs = sample(logits, numbers, torch.ones(20), torch.full((20,), top_p))
    for row, token, logprob, number in zip(logits.double().softmax(-1), tokens, logprobs, numbers, strict=True):
        ordered, index = row.sort(descending=True)
        kept = ordered[ordered.cumsum(0) - ordered < top_p]
        share = kept / kept.sum()
        place = index.tolist().index(int(token))
        assert float(share[:place].sum()) - CLOSE <= number <= float(share[: place + 1].sum()) + CLOSE
        assert logprob == pytest.approx(float(share[place].log()), abs=1e-4)  # one unlikely token may be in or out


def test_more_rows_than_are_sampled_at_a_time_keep_their_order() -> None:
    logits = torch.full((30, 30), -50.0).fill_diagonal_(50.0)
    tokens, _ = sample(logits, torch.rand(30), torch.ones(30), torch.tensor([1.0, 0.9] * 15))
    assert tokens.tolist() == list(range(30))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_told(temperature: float) -> None:
    logits = torch.zeros(2, 300)
    logits[1] = math.nan
    with pytest.raises(StarlingError, match="logits that are not numbers"):
        sample(logits, torch.tensor([0.5, 0.5]), torch.full((2,), temperature), torch.ones(2))


def test_a_token_without_probability_is_never_drawn() -> None:
    logits = torch.full((2, 260), -math.inf)
    logits[:, 130] = 0.0
    for number in (0.0, 1 - 2**-24):
        tokens, logprobs = sample(logits, torch.full((2,), number), torch.ones(2), torch.tensor([1.0, 0.5]))
        assert (tokens.tolist(), logprobs.tolist()) == ([130, 130], [0.0, 0.0])


def test_a_flat_row_is_whole_beside_a_peaked_one() -> None:
    # of 300 equal tokens half are in the nucleus of .5, though the other row needs one token
    logits = torch.zeros(2, 300)
    logits[1, 7] = 50.0
    _, logprobs = sample(logits, one([0.999, 0.999]), torch.ones(2), one([0.5, 0.5]))
    assert logprobs.tolist() == pytest.approx([-math.log(150), 0.0], abs=CLOSE)
