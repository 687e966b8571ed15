"""The table of algorithms: advantages, pairs, and losses that agree where they must."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from tolerances import CLOSE
from torch import Tensor

from starling.algorithms import ALGORITHMS, Totals, chosen, totals_of
from starling.config import TuneTable
from starling.experience import Batch, Experience
from starling.generate import Sampled
from starling.records import Message, Prompt
from starling.rollout import Group
from starling.tune_settings import READS

ASKED = Prompt(id="p", messages=[Message(role="user", content="?")])
LENGTHS = [2, 1, 2, 1]


def group(lengths: Sequence[int], ranks: Sequence[float] = ()) -> Group:
    answers = tuple(Sampled(ids=list(range(7, 7 + length))) for length in lengths)
    return Group(prompt=ASKED, prompt_ids=(5,), answers=answers, texts=("",) * len(answers), ranks=tuple(ranks))


def experience(groups: Sequence[Group], reward_B: Sequence[float] = ()) -> Experience:
    """What advantages and losses read of an experience; reference logprobs are -1 a token."""
    lengths = [len(answer.ids) for one in groups for answer in one.answers]
    mask_BT = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    reward_BT = torch.zeros(mask_BT.shape)
    for row, reward in enumerate(reward_B):
        reward_BT[row, lengths[row] - 1] = reward
    nothing: Any = None
    ref_BT = torch.full(mask_BT.shape, -1.0).masked_fill(~mask_BT, 0.0)
    return Experience(nothing, nothing, lengths, mask_BT, ref_BT, reward_BT, groups)


def batch(found: Experience, advantage_BT: Tensor, anchor_BT: Tensor) -> Batch:
    return Batch(found, advantage_BT, advantage_BT, torch.zeros_like(advantage_BT), anchor_BT)


def advantage(name: str, cfg: TuneTable | None = None) -> list[list[float]]:
    """Of two prompts with two answers each, rewarded by 4 and 1, and by 2 and 8."""
    found = experience([group(LENGTHS[:2]), group(LENGTHS[2:])], [4.0, 1.0, 2.0, 8.0])
    settings = cfg or TuneTable.model_validate({"algorithm": name})
    values_BT = torch.zeros_like(found.reward_BT)
    return ALGORITHMS[name].advantage(found, found.reward_BT, values_BT, settings)[0].tolist()


def test_the_table_has_every_algorithm_with_what_it_reads() -> None:
    assert {name: algorithm.reads for name, algorithm in ALGORITHMS.items()} == READS
    assert chosen(TuneTable()) is ALGORITHMS["apa"]
    assert chosen(TuneTable(anchor="sampling")) is ALGORITHMS["apa_sampling"]
    assert [name for name, one in ALGORITHMS.items() if one.critic] == ["apa", "apa_sampling", "awr", "ppo"]
    assert [name for name, one in ALGORITHMS.items() if not one.online] == ["dpo", "ipo", "listwise_dpo", "sft"]
    for one in ALGORITHMS.values():
        assert one.old_logprobs or not one.kl_in_reward  # the KL is that of the policy that sampled


def test_advantages_by_hand() -> None:
    half = 0.5**0.5  # of two rewards the spread is |difference| / sqrt(2); each is half of it off the mean
    expected = torch.tensor([[half, half], [-half, 0], [-half, -half], [half, 0]])
    assert torch.allclose(torch.tensor(advantage("grpo")), expected)
    assert advantage("grpo", TuneTable(algorithm="grpo", normaliser="dr_grpo")) == [
        [1.5, 1.5],
        [-1.5, 0],
        [-3, -3],
        [3, 0],
    ]
    assert advantage("rloo") == [[3, 3], [-3, 0], [-6, -6], [6, 0]]
    assert advantage("p3o") == [[4, 4], [1, 0], [2, 2], [8, 0]]
    assert advantage("reinforce_pp", TuneTable(gamma=0.5)) == [[2, 4], [1, 0], [1, 2], [8, 0]]


@pytest.mark.parametrize("name", ["apa", "apa_sampling", "awr", "ppo"])
def test_advantages_and_returns_of_a_critic_by_hand(name: str) -> None:
    # two tokens with values 1 and 2 and reward 4 at the end, gamma 1/2, lambda 1/4: delta 4 - 2 = 2 and 0 + 1 - 1 = 0,
    # A = 0 + 1/8 * 2 and 2, R = A + V; one token with value -3 and reward 1: A = 4, R = 1
    found = experience([group([2, 1])], [4.0, 1.0])
    settings = TuneTable.model_validate(
        {"algorithm": "apa" if name == "apa_sampling" else name, "gamma": 0.5, "gae_lambda": 0.25}
    )
    value_BT = torch.tensor([[1.0, 2.0], [-3.0, 0.0]])
    advantage_BT, return_BT = ALGORITHMS[name].advantage(found, found.reward_BT, value_BT, settings)
    assert advantage_BT.tolist() == [[0.25, 2.0], [4.0, 0.0]]
    assert return_BT.tolist() == [[1.25, 4.0], [1.0, 0.0]]


@pytest.mark.parametrize(("normaliser", "spread"), [("grpo", 4.5**0.5), ("dapo", 4.5**0.5), ("dr_grpo", 1.0)])
def test_a_kl_costs_beside_the_reward_and_is_not_blown_up_where_rewards_are_equal(
    normaliser: str, spread: float
) -> None:
    cfg = TuneTable.model_validate({"algorithm": "grpo", "normaliser": normaliser})
    # rewards 4 and 1, whose spread is 3 / sqrt 2, and 2 and 2; KLs of 0.1 a token cost the longer answers 0.2
    found = experience([group(LENGTHS[:2]), group(LENGTHS[2:])], [4.0, 1.0, 2.0, 2.0])
    with_kl_BT = found.reward_BT - 0.1 * found.mask_BT
    advantage_BT, _ = ALGORITHMS["grpo"].advantage(found, with_kl_BT, torch.zeros_like(with_kl_BT), cfg)
    assert advantage_BT[:, 0].tolist() == pytest.approx(
        [1.5 / spread - 0.05, -1.5 / spread + 0.05, -0.05, 0.05], abs=CLOSE
    )


def test_at_its_anchor_apa_has_twice_the_policy_gradient_over_lambda() -> None:
    found = experience([group(LENGTHS)])
    advantage_BT = torch.randn(found.mask_BT.shape).masked_fill(~found.mask_BT, 0.0)
    anchor_BT = -torch.rand(found.mask_BT.shape)
    cfg, grads = TuneTable(lam=0.25), {}
    for name in ("apa", "ppo", "reinforce_pp"):
        logprob_BT = anchor_BT.clone().requires_grad_()
        one = batch(found, advantage_BT, anchor_BT)
        ALGORITHMS[name].loss(logprob_BT, one, cfg, Totals(6, 4, 1, 0)).value.backward()
        assert logprob_BT.grad is not None
        grads[name] = logprob_BT.grad
    assert torch.allclose(grads["apa"], grads["ppo"] * 2 / 0.25, atol=CLOSE)
    assert torch.equal(grads["ppo"], grads["reinforce_pp"])


def test_grpo_clips_above_where_it_is_told_to() -> None:
    found = experience([group(LENGTHS)])
    ones_BT = found.mask_BT.float()
    one, totals = batch(found, ones_BT, found.ref_logprob_BT), Totals(6, 4, 1, 0)
    logprob_BT = found.ref_logprob_BT + math.log(1.25)
    values = [
        float(ALGORITHMS["grpo"].loss(logprob_BT, one, TuneTable(clip=0.2, clip_high=high), totals).value)
        for high in (0.0, 0.28, 0.1)
    ]
    assert values == pytest.approx([-1.2, -1.25, -1.1], abs=CLOSE)  # -min(1.25, 1 + clip) with every advantage 1


def test_p3o_pairs_the_answers_as_they_were_drawn() -> None:
    found = experience([group(LENGTHS)], [4.0, 1.0, 2.0, 8.0])
    reward_BT = torch.tensor([4.0, 1.0, 2.0, 8.0])[:, None].expand(4, 2)
    at_BT = found.ref_logprob_BT
    logprob_BT = at_BT.clone().requires_grad_()
    loss = ALGORITHMS["p3o"].loss(logprob_BT, batch(found, reward_BT, at_BT), TuneTable(), Totals(6, 4, 1, 0))
    loss.value.backward()
    assert logprob_BT.grad is not None
    # at the reference the gradient by a logprob is -(r1 - r2) / 2 for the first answer, + for the second; 2 pairs
    expected = [[-0.75, -0.75], [0.75, 0], [1.5, 1.5], [-1.5, 0]]
    assert logprob_BT.grad.tolist() == expected
    assert float(loss.metrics["reward_margin"]) == 4.5  # (3 + 6) / 2


def test_dpo_takes_all_pairs_that_are_decided() -> None:
    groups = [group([1, 1, 1], [1.0, 1.0, 3.0]), group([1, 2], [2.0, 1.0])]
    totals = totals_of(groups)
    assert totals == Totals(tokens=6, answers=5, prompts=2, pairs=3)
    found = experience(groups)
    logprob_BT = torch.tensor([[-1.0, 0], [-2, 0], [-3, 0], [-5, 0], [-1, -3]])
    cfg = TuneTable(algorithm="dpo", beta=0.5)
    one = batch(found, torch.zeros_like(logprob_BT), found.ref_logprob_BT)
    # log ratios 0, -1, -2 and -4, -2 (the reference says -1 a token); better first: (0, -2), (-1, -2), (-2, -4)
    gaps = torch.tensor([2.0, 1.0, 2.0])
    expected = -torch.nn.functional.logsigmoid(0.5 * gaps).mean()
    assert float(ALGORITHMS["dpo"].loss(logprob_BT, one, cfg, totals).value) == pytest.approx(
        float(expected), abs=CLOSE
    )
    # IPO with tau = 1/2: the mean of (gap - 1)^2, here (1 + 0 + 1) / 3
    assert float(ALGORITHMS["ipo"].loss(logprob_BT, one, cfg, totals).value) == pytest.approx(2 / 3, abs=CLOSE)


def test_sft_counts_every_token_of_what_it_is_shown_alike() -> None:
    groups = [group([2, 1], [1.0, 1.0]), group([1], [1.0])]
    found, totals = experience(groups), totals_of(groups)
    logprob_BT = torch.tensor([[-1.0, -2], [-4, 0], [-5, 0]])
    one = batch(found, torch.zeros_like(logprob_BT), found.ref_logprob_BT)
    loss = ALGORITHMS["sft"].loss(logprob_BT, one, TuneTable(algorithm="sft"), totals)
    assert float(loss.value) == pytest.approx(3, abs=CLOSE)  # (1 + 2 + 4 + 5) / 4
    assert [name for name, algorithm in ALGORITHMS.items() if algorithm.best_only] == ["sft"]


def test_of_two_answers_listwise_dpo_is_dpo() -> None:
    groups = [group([1, 2], [2.0, 1.0]), group([2, 1], [1.0, 2.0])]
    found, totals = experience(groups), totals_of(groups)
    one = batch(found, torch.zeros_like(found.reward_BT), found.ref_logprob_BT)
    logprob_BT = -torch.rand(found.mask_BT.shape)
    values = [ALGORITHMS[name].loss(logprob_BT, one, TuneTable(), totals).value for name in ("dpo", "listwise_dpo")]
    assert torch.allclose(*values, atol=CLOSE)
