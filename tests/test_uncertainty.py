"""How sure a reward model is: the last layer's Laplace approximation."""

import math
from pathlib import Path

import pytest
import torch
from made_rankings import ranking, rankings
from tolerances import CLOSE

from starling import accuracy, heads, packing, uncertainty
from starling.errors import ModelError, StarlingError
from starling.examples import Example, examples_of, ragged
from starling.losses.ranking import plackett_luce_nll
from starling.models import Model
from starling.uncertainty import Uncertainty, information

LOG_3 = math.log(3)


def example(ranks: list[float]) -> Example:
    return Example(ranking("p", ["a"] * len(ranks), ranks), [1], [[2]] * len(ranks))


def test_what_a_pair_says_by_hand() -> None:
    # hidden states (1, 0) and (0, 2), odds 3 to 1: 3/16 times the square of their difference (1, -2)
    found = information(
        torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64), torch.tensor([LOG_3, 0.0]), [example([1, 2])]
    )
    assert found.tolist() == [
        pytest.approx([3 / 16, -6 / 16], abs=1e-7),
        pytest.approx([-6 / 16, 12 / 16], abs=1e-7),
    ]


def test_it_is_the_second_derivative_of_the_likelihood_by_the_head() -> None:
    torch.manual_seed(4)
    told = [example([2, 1, 3]), example([1, 2]), example([1, 1, 3, 4])]
    hidden, head = torch.randn(9, 5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)

    def nll(weight: torch.Tensor) -> torch.Tensor:
        return plackett_luce_nll(*ragged(hidden @ weight, told)).sum()

    expected = torch.autograd.functional.hessian(nll, head)
    assert torch.allclose(information(hidden, hidden @ head, told), expected, atol=1e-10, rtol=0)
    assert expected.abs().max().item() > 0.5


def test_a_shift_of_all_hidden_states_says_nothing() -> None:
    hidden, reward = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    told = [example([2, 1, 3])]
    assert torch.allclose(information(hidden + 7, reward, told), information(hidden, reward, told), atol=1e-10)


def test_the_spread_by_hand() -> None:
    # precision diag(4, 1/4), mean (1, 1): sqrt(2^2 / 4 + 0) = 1; sqrt(0 + 1 * 4) = 2; both: sqrt(5); at the mean: 0
    found = Uncertainty(torch.tensor([[2.0, 0.0], [0.0, 0.5]]), torch.tensor([1.0, 1.0]), torch.zeros(2))
    hidden = torch.tensor([[3.0, 1.0], [1.0, 0.0], [3.0, 2.0], [1.0, 1.0]])
    assert found.spread(hidden).tolist() == pytest.approx([1.0, 2.0, math.sqrt(5), 0.0], abs=1e-6)


def test_the_factor_is_taken_from_the_right_side() -> None:
    # L = [[1, 0], [1, 1]], P = L L^T = [[1, 1], [1, 2]], P^-1 = [[2, -1], [-1, 1]]: (1, 0) -> sqrt 2, (0, 1) -> 1
    found = Uncertainty(torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.zeros(2), torch.zeros(2))
    assert found.spread(torch.eye(2)).tolist() == pytest.approx([math.sqrt(2), 1.0], abs=1e-6)


@pytest.mark.parametrize("tokens", [64, 100_000])
def test_the_posterior_is_prior_and_all_rankings_together(reward_model: Model, tokens: int) -> None:
    told, _ = examples_of(reward_model, [*rankings(5), ranking("pair", ["wet", "dry"], [1, 2])])
    found = uncertainty.fit(reward_model, told, 2.0, tokens)
    packed = packing.pack([(one.shared, one.endings) for one in told])
    with torch.no_grad():
        hidden = heads.answer_states(reward_model.network, packed).double()
        reward = heads.rewards_of(reward_model.network, hidden.float())
    head = reward_model.network.score.weight[0].double()
    expected = 2 * 32 / (head @ head) * torch.eye(32, dtype=torch.float64) + information(hidden, reward, told)
    factor = found.factor_HH.double()
    assert torch.allclose(factor @ factor.T, expected, atol=CLOSE, rtol=CLOSE)
    assert torch.allclose(found.mean_H.double(), hidden.mean(0), atol=CLOSE)
    assert torch.equal(found.head_H, reward_model.network.score.weight[0])


def test_a_prior_too_small_to_invert_is_told(reward_model: Model) -> None:
    told, _ = examples_of(reward_model, rankings(2))
    with pytest.raises(StarlingError, match="laplace_prior = 1e-30 is too small"):
        uncertainty.fit(reward_model, told, 1e-30, 2048)


def test_more_rankings_of_a_kind_and_a_stronger_prior_make_surer(reward_model: Model) -> None:
    told, _ = examples_of(reward_model, rankings(8))
    hidden = torch.randn(5, 32)
    plain = uncertainty.fit(reward_model, told, 1.0, 2048).spread(hidden)
    # everything twice, prior too: the precision doubles, the mean stays
    double = uncertainty.fit(reward_model, [*told, *told], 2.0, 2048).spread(hidden)
    assert double.tolist() == pytest.approx((plain / math.sqrt(2)).tolist(), rel=1e-3)
    assert (uncertainty.fit(reward_model, told, 10.0, 2048).spread(hidden) < plain).all()


def test_without_data_the_rewards_own_size_is_what_is_expected(reward_model: Model) -> None:
    # one ranking says next to nothing of most of 32 directions: about |phi - mean| |w| / sqrt(32)
    told, _ = examples_of(reward_model, rankings(1))
    found = uncertainty.fit(reward_model, told, 1.0, 2048)
    away = torch.randn(200, 32)
    expected = away.norm(dim=1) * reward_model.network.score.weight[0].norm().detach() / math.sqrt(32)
    assert found.spread(found.mean_H + away).mean().item() == pytest.approx(expected.mean().item(), rel=0.1)


def test_over_heads_drawn_from_the_posterior_differences_vary_by_the_spread() -> None:
    torch.manual_seed(8)
    root = torch.randn(6, 6)
    precision = root @ root.T + torch.eye(6)
    found = Uncertainty(torch.linalg.cholesky(precision), torch.randn(6), torch.zeros(6))
    hidden = torch.randn(4, 6)
    heads = torch.distributions.MultivariateNormal(torch.zeros(6), precision_matrix=precision).sample((40_000,))
    drawn = (heads @ (hidden - found.mean_H).T).std(0)
    assert found.spread(hidden).tolist() == pytest.approx(drawn.tolist(), rel=0.02)


def test_it_is_read_as_it_was_written(reward_model: Model, tmp_path: Path) -> None:
    head = reward_model.network.score.weight[0].detach()
    written = Uncertainty(torch.randn(32, 32).tril(), torch.randn(32), head)
    uncertainty.save(written, tmp_path)
    found = uncertainty.load(tmp_path / uncertainty.FILE, head)
    assert torch.equal(found.factor_HH, written.factor_HH)
    assert torch.equal(found.mean_H, written.mean_H)


def test_what_belongs_to_other_weights_is_refused(reward_model: Model, tmp_path: Path) -> None:
    head = reward_model.network.score.weight[0].detach()
    uncertainty.save(Uncertainty(torch.eye(32), torch.zeros(32), head), tmp_path)
    for other in (head + 1, head[:-1]):
        with pytest.raises(ModelError, match=r"uncertainty\.safetensors: belongs to other weights"):
            uncertainty.load(tmp_path / uncertainty.FILE, other)


def test_a_file_that_is_none_of_ours_is_a_plain_error(tmp_path: Path) -> None:
    (tmp_path / uncertainty.FILE).write_bytes(b"torn")
    with pytest.raises(ModelError, match="not what `fit` writes"):
        uncertainty.load(tmp_path / uncertainty.FILE, torch.zeros(2))


def test_rewards_are_left_as_they_are(reward_model: Model) -> None:
    told, _ = examples_of(reward_model, rankings(3))
    before = accuracy.score(reward_model, told, 2048)
    uncertainty.fit(reward_model, told, 1.0, 2048)
    assert accuracy.score(reward_model, told, 2048) == before
