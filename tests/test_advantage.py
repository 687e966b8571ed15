"""How much better an action was than expected."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tolerances import EXACT

from starling.losses import advantage

REWARD = torch.tensor([[0.0, 0.0, 1.0, 7.0]], dtype=torch.float64)
VALUE = torch.tensor([[0.5, 0.4, 0.2, 9.0]], dtype=torch.float64)
MASK = torch.tensor([[True, True, True, False]])


def random_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    lengths = torch.tensor([6, 1, 3, 4, 0])
    reward, value = torch.randn(2, 5, 6, dtype=torch.float64)
    return reward, value, torch.arange(6) < lengths[:, None]


def gae_by_loops(reward: list[float], value: list[float], gamma: float, lam: float) -> list[float]:
    """Eq. 16 as it stands: the sum over l of (gamma lam)^l delta_{t+l}; V beyond the end is 0."""
    after = [*value, 0.0][1:]
    delta = [r + gamma * v1 - v0 for r, v0, v1 in zip(reward, value, after, strict=True)]
    return [sum((gamma * lam) ** (s - t) * delta[s] for s in range(t, len(delta))) for t in range(len(delta))]


def test_gae_by_hand_for_an_answer_of_three_tokens_with_padding() -> None:
    # gamma = lam = 1/2. delta_2 = 1 + 0 - 0.2 = 0.8;   delta_1 = 0 + 0.1 - 0.4 = -0.3;  delta_0 = 0 + 0.2 - 0.5 = -0.3
    #                    A_2 = 0.8;  A_1 = -0.3 + 0.8 / 4 = -0.1;  A_0 = -0.3 - 0.1 / 4 = -0.325;  R = A + V
    found, returns = advantage.gae(REWARD, VALUE, MASK, gamma=0.5, lam=0.5)
    assert found[0].tolist() == pytest.approx([-0.325, -0.1, 0.8, 0.0], abs=EXACT)
    assert returns[0].tolist() == pytest.approx([0.175, 0.3, 1.0, 0.0], abs=EXACT)


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (0.99, 1.0), (0.7, 0.0)])
def test_gae_equals_the_sum_of_discounted_errors(gamma: float, lam: float) -> None:
    reward, value, mask = random_batch()
    found, returns = advantage.gae(reward, value, mask, gamma=gamma, lam=lam)
    for row, length in enumerate(mask.sum(1).tolist()):
        expected = gae_by_loops(reward[row, :length].tolist(), value[row, :length].tolist(), gamma, lam)
        padding = [0.0] * (6 - length)
        assert found[row].tolist() == pytest.approx(expected + padding, abs=EXACT)
        whole = [a + v for a, v in zip(expected, value[row, :length].tolist(), strict=True)]
        assert returns[row].tolist() == pytest.approx(whole + padding, abs=EXACT)


def test_gae_with_lambda_one_is_the_return_to_go_less_the_value() -> None:
    reward, value, mask = random_batch()
    found, returns = advantage.gae(reward, value, mask, gamma=1.0, lam=1.0)
    to_go = (reward * mask).flip(1).cumsum(1).flip(1)
    assert torch.allclose(found, (to_go - value) * mask, atol=EXACT, rtol=0)
    assert torch.allclose(returns, to_go * mask, atol=EXACT, rtol=0)


def test_gae_with_lambda_zero_is_the_one_step_error() -> None:
    # 0 + 0.9 * 0.4 - 0.5;  0 + 0.9 * 0.2 - 0.4;  1 - 0.2
    found, _ = advantage.gae(REWARD, VALUE, MASK, gamma=0.9, lam=0.0)
    assert found[0].tolist() == pytest.approx([-0.14, -0.22, 0.8, 0.0], abs=EXACT)


def test_gae_is_zero_where_the_critic_already_knows() -> None:
    found, returns = advantage.gae(REWARD, torch.ones_like(VALUE), MASK, gamma=1.0, lam=0.95)
    assert found[0].tolist() == pytest.approx([0.0] * 4, abs=EXACT)
    assert returns[0].tolist() == pytest.approx([1.0, 1.0, 1.0, 0.0], abs=EXACT)


@pytest.mark.parametrize("filler", [1e9, math.inf, math.nan], ids=["huge", "inf", "nan"])
def test_gae_bootstraps_nothing_from_the_padding(filler: float) -> None:
    reward, value = REWARD.clone(), VALUE.clone()
    reward[:, 3] = value[:, 3] = filler
    found, returns = advantage.gae(reward, value, MASK, gamma=0.5, lam=0.5)
    assert found[0].tolist() == pytest.approx([-0.325, -0.1, 0.8, 0.0], abs=EXACT)
    assert returns[0].tolist() == pytest.approx([0.175, 0.3, 1.0, 0.0], abs=EXACT)


def test_gae_of_an_answer_does_not_depend_on_its_company() -> None:
    reward, value, mask = random_batch()
    whole = advantage.gae(reward, value, mask, gamma=0.9, lam=0.8)
    for row in range(5):
        alone = advantage.gae(reward[row : row + 1], value[row : row + 1], mask[row : row + 1], gamma=0.9, lam=0.8)
        assert torch.equal(alone[0][0], whole[0][row])
        assert torch.equal(alone[1][0], whole[1][row])


def test_group_by_hand() -> None:
    # mean of 1, 2, 6 is 3
    found = advantage.group(torch.tensor([[1.0, 2.0, 6.0]], dtype=torch.float64))
    assert found[0].tolist() == pytest.approx([-2.0, -1.0, 3.0], abs=EXACT)


def test_leave_one_out_by_hand() -> None:
    # 1 - (2 + 6) / 2;  2 - (1 + 6) / 2;  6 - (1 + 2) / 2
    found = advantage.leave_one_out(torch.tensor([[1.0, 2.0, 6.0]], dtype=torch.float64))
    assert found[0].tolist() == pytest.approx([-3.0, -1.5, 4.5], abs=EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("answers", range(2, 17))
def test_equal_rewards_have_no_advantage_at_all(answers: int, dtype: torch.dtype) -> None:
    rewards = torch.linspace(-5, 5, 997, dtype=dtype)[:, None].expand(-1, answers)
    for baseline in (advantage.group, advantage.leave_one_out):
        assert baseline(rewards).eq(0).all()


def test_what_rounding_leaves_of_equal_rewards_is_not_whitened_to_full_size() -> None:
    # ten answers to each of six prompts, three prompts all right and three all wrong, in spreads of .49 round .4
    right, wrong = (1 - 0.4) / 0.49, (0 - 0.4) / 0.49
    left = advantage.leave_one_out(torch.tensor([[right] * 10] * 3 + [[wrong] * 10] * 3))
    assert advantage.whiten(left, torch.ones_like(left, dtype=torch.bool)).eq(0).all()


def test_leave_one_out_of_a_single_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="two answers"):
        advantage.leave_one_out(torch.ones(3, 1))


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=8), st.floats(-100, 100))
def test_baselines_do_not_see_a_shift_and_leave_no_mean(rewards: list[float], shift: float) -> None:
    reward = torch.tensor([rewards], dtype=torch.float64)
    for baseline in (advantage.group, advantage.leave_one_out):
        found = baseline(reward)
        assert found.sum().item() == pytest.approx(0, abs=1e-10)
        assert torch.allclose(baseline(reward + shift), found, atol=1e-10, rtol=0)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=8))
def test_leave_one_out_subtracts_the_mean_of_the_others(rewards: list[float]) -> None:
    expected = [r - sum(rewards[:i] + rewards[i + 1 :]) / (len(rewards) - 1) for i, r in enumerate(rewards)]
    found = advantage.leave_one_out(torch.tensor([rewards], dtype=torch.float64))[0].tolist()
    assert found == pytest.approx(expected, abs=1e-10)


def test_prompts_do_not_share_a_baseline() -> None:
    found = advantage.group(torch.tensor([[1.0, 3.0], [100.0, 104.0]]))
    assert found.tolist() == [[-1.0, 1.0], [-2.0, 2.0]]


def test_normalised_group_by_hand() -> None:
    # mean 2, squares 1 + 0 + 1 over 2: one standard deviation is 1; the equal rewards say nothing
    reward = torch.tensor([[1.0, 2.0, 3.0], [0.1, 0.1, 0.1]])
    assert advantage.normalised_group(reward).flatten().tolist() == pytest.approx([-1, 0, 1, 0, 0, 0], abs=1e-6)


def test_normalised_group_has_mean_zero_and_spread_one_and_knows_no_shift_or_scale() -> None:
    reward = torch.randn(5, 4, dtype=torch.float64)
    found = advantage.normalised_group(reward)
    assert found.mean(1).tolist() == pytest.approx([0.0] * 5, abs=EXACT)
    assert found.std(1).tolist() == pytest.approx([1.0] * 5, abs=EXACT)
    assert torch.allclose(advantage.normalised_group(3 * reward - 7), found, atol=1e-11, rtol=0)
    assert torch.equal(found.argsort(1), reward.argsort(1))


def test_normalised_group_needs_two_answers() -> None:
    with pytest.raises(ValueError, match="two answers"):
        advantage.normalised_group(torch.zeros(2, 1))


def test_whitening_by_hand_counts_real_tokens_only() -> None:
    # 1, 5 and 3: mean 3, variance (4 + 4 + 0) / 3
    value = torch.tensor([[1.0, 5.0, 99.0], [3.0, math.nan, math.inf]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    spread = math.sqrt(8 / 3)
    expected = [-2 / spread, 2 / spread, 0, 0, 0, 0]
    assert advantage.whiten(value, mask).flatten().tolist() == pytest.approx(expected, abs=EXACT)


def test_whitening_knows_no_shift_or_scale_and_whitens_once() -> None:
    value, mask = torch.randn(4, 6, dtype=torch.float64), torch.rand(4, 6) < 0.7
    found = advantage.whiten(value, mask)
    assert torch.allclose(advantage.whiten(5 * value + 3, mask), found, atol=1e-11, rtol=0)
    assert torch.allclose(advantage.whiten(found, mask), found, atol=EXACT, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("constant", [0.0, 0.1, -1e6, 1e-12])
def test_of_equal_advantages_nothing_is_left(constant: float, dtype: torch.dtype) -> None:
    value = torch.full((7, 11), constant, dtype=dtype)
    assert advantage.whiten(value, torch.rand(7, 11) < 0.7).abs().max().item() == 0
    assert advantage.normalised_group(value).abs().max().item() == 0


def test_whitening_nothing_is_nothing() -> None:
    assert advantage.whiten(torch.ones(2, 3), torch.zeros(2, 3).bool()).tolist() == [[0.0] * 3] * 2


def test_small_differences_between_large_rewards_are_no_rounding() -> None:
    assert advantage.group(torch.tensor([[1000.0, 1000.5]])).tolist() == [[-0.25, 0.25]]
    found = advantage.group(torch.tensor([[1.0, 1.5], [1e6, 1e6 + 2]]))
    assert found.tolist() == [[-0.25, 0.25], [-1.0, 1.0]]  # each prompt by its own size
