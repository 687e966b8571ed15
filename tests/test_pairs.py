"""The comparators: rankings split into pairs."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tolerances import CLOSE, EXACT

from starling import chat, heads
from starling.losses.pairs import adjacent_pairs, all_pairs, best_against_rest, sampled_pair
from starling.losses.ranking import plackett_luce_nll
from starling.models import Model
from starling.packing import pack

WHICH = {"all": all_pairs, "adjacent": adjacent_pairs, "best": best_against_rest}


def value(loss, weights, ranks=None, mask=None, **more) -> float:
    """Of one prompt whose answers have weights exp(reward): a pair then costs log((better + worse) / better)."""
    rank, mask = (None if given is None else torch.tensor([given]) for given in (ranks, mask))
    return loss(torch.tensor([weights], dtype=torch.float64).log(), rank, mask, **more).item()


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


@pytest.mark.parametrize(
    ("loss", "odds", "pairs"),
    [
        # weights 3, 2, 1 from the best: 5/3 (3 over 2), 4/3 (3 over 1), 3/2 (2 over 1)
        (all_pairs, 5 / 3 * 4 / 3 * 3 / 2, 3),
        (adjacent_pairs, 5 / 3 * 3 / 2, 2),
        (best_against_rest, 5 / 3 * 4 / 3, 2),
    ],
)
def test_three_answers_by_hand(loss, odds: float, pairs: int) -> None:
    assert value(loss, (3, 2, 1)) == pytest.approx(math.log(odds) / pairs, abs=EXACT)
    assert value(loss, (1, 3, 2), (3, 1, 2)) == pytest.approx(math.log(odds) / pairs, abs=EXACT)


@pytest.mark.parametrize(
    ("loss", "odds", "pairs"),
    [
        # weights 1, 2, 3, 4 with ranks 1, 1, 3, 4: the two best are no pair; 4/1, 5/1; 5/2, 6/2; 7/3
        (all_pairs, 4 * 5 * 5 / 2 * 3 * 7 / 3, 5),
        # both of the best against the third, the third against the last
        (adjacent_pairs, 4 * 5 / 2 * 7 / 3, 3),
        # both of the best against the third and the last
        (best_against_rest, 4 * 5 * 5 / 2 * 3, 4),
    ],
)
def test_ties_by_hand(loss, odds: float, pairs: int) -> None:
    assert value(loss, (1, 2, 3, 4), (1, 1, 3, 4)) == pytest.approx(math.log(odds) / pairs, abs=EXACT)


@pytest.mark.parametrize(
    ("loss", "odds", "pairs"),
    [
        # weights 4, 3, 2, 1, places of the last two unknown: 7/4, 6/4, 5/4; 5/3, 4/3
        (all_pairs, 7 / 4 * 6 / 4 * 5 / 4 * 5 / 3 * 4 / 3, 5),
        # first against second, second against both that follow
        (adjacent_pairs, 7 / 4 * 5 / 3 * 4 / 3, 3),
        (best_against_rest, 7 / 4 * 6 / 4 * 5 / 4, 3),
    ],
)
def test_unknown_places_stand_below_the_ranked(loss, odds: float, pairs: int) -> None:
    assert value(loss, (4, 3, 2, 1), (1, 2, 0, 0)) == pytest.approx(math.log(odds) / pairs, abs=EXACT)


@pytest.mark.parametrize("loss", WHICH.values(), ids=WHICH)
@pytest.mark.parametrize("k", [2, 3, 7])
def test_equal_scores_cost_log_two_whatever_the_number_of_answers(loss, k: int) -> None:
    assert loss(torch.zeros(1, k, dtype=torch.float64)).item() == pytest.approx(math.log(2), abs=EXACT)


@pytest.mark.parametrize("margin", [0.0, 0.3])
@pytest.mark.parametrize("difference", [-20.0, -1.0, 0.0, 3.0])
def test_at_two_answers_all_are_bradley_terry_and_the_k_wise_loss(difference: float, margin: float) -> None:
    reward = torch.tensor([[difference, 0.0]], dtype=torch.float64)
    found = [loss(reward, margin=margin).item() for loss in (*WHICH.values(), plackett_luce_nll)]
    found.append(sampled_pair(reward, draw_B=torch.tensor([0.9]), margin=margin).item())
    assert found == pytest.approx([softplus(margin - difference)] * 5, abs=EXACT)


@pytest.mark.parametrize("loss", WHICH.values(), ids=WHICH)
def test_the_margin_is_taken_off_every_difference(loss) -> None:
    # rewards 2, 1, 0 from the best and a margin of 1/2
    reward = torch.tensor([[2.0, 1.0, 0.0]], dtype=torch.float64)
    one, two = softplus(-0.5), softplus(-1.5)
    expected = {all_pairs: (2 * one + two) / 3, adjacent_pairs: one, best_against_rest: (one + two) / 2}[loss]
    assert loss(reward, margin=0.5).item() == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize(("draw", "odds"), [(0.0, 5 / 3), (0.34, 4 / 3), (0.67, 3 / 2), (1 - 1e-9, 3 / 2)])
def test_the_draw_says_which_pair_counts(draw: float, odds: float) -> None:
    found = value(sampled_pair, (3, 2, 1), draw_B=torch.tensor([draw], dtype=torch.float64))
    assert found == pytest.approx(math.log(odds), abs=EXACT)


@pytest.mark.parametrize("ranks", [(1, 2, 3, 4), (2, 1, 2, 4), (0, 1, 0, 2)], ids=str)
def test_over_all_draws_a_pair_costs_what_all_pairs_do(ranks) -> None:
    reward = torch.randn(1, 4, dtype=torch.float64)
    rank, mask = torch.tensor([ranks]).expand(60, 4), torch.ones(60, 4, dtype=torch.bool)
    draws = (torch.arange(60) + 0.5) / 60  # 60 is a multiple of 5 and of 6 pairs
    found = sampled_pair(reward.expand(60, 4), rank, mask, draw_B=draws)
    assert len(set(found.tolist())) in (5, 6)
    assert found.mean().item() == pytest.approx(all_pairs(reward, rank[:1]).item(), abs=EXACT)


@pytest.mark.parametrize("ranks", [(1, 1, 1), (0, 0, 0)], ids=["tied", "unknown"])
def test_where_nothing_is_decided_nothing_is_learnt(ranks) -> None:
    for loss in WHICH.values():
        assert value(loss, (3, 2, 1), ranks) == 0
    assert value(sampled_pair, (3, 2, 1), ranks, draw_B=torch.tensor([0.5])) == 0


@pytest.mark.parametrize("loss", WHICH.values(), ids=WHICH)
def test_masked_answers_leave_no_trace(loss) -> None:
    reward = torch.tensor([[1.0, math.nan, 0.0, -1.0]], dtype=torch.float64, requires_grad=True)
    found = loss(reward, None, torch.tensor([[True, False, True, True]]))
    assert found.item() == pytest.approx(loss(torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64)).item(), abs=EXACT)
    found.sum().backward()
    assert reward.grad[0, 1].item() == 0
    assert torch.isfinite(reward.grad).all()


def by_loops(name: str, rewards: list[float], ranks: list[int]) -> float:
    """The mean over the pairs, in plain Python."""
    place = [rank or 99 for rank in ranks]
    levels = sorted(set(place))
    found = [
        softplus(rewards[j] - rewards[i])
        for i in range(len(ranks))
        for j in range(len(ranks))
        if place[i] < place[j]
        and (name != "adjacent" or levels.index(place[j]) == levels.index(place[i]) + 1)
        and (name != "best" or place[i] == levels[0])
    ]
    return sum(found) / len(found) if found else 0.0


@pytest.mark.parametrize("name", WHICH)
@given(
    answers=st.lists(st.tuples(st.floats(-5, 5), st.integers(0, 4)), min_size=1, max_size=7),
    shift=st.floats(-50, 50),
    random=st.randoms(use_true_random=False),
)
def test_shift_and_order_do_not_matter_and_plain_python_agrees(name: str, answers, shift: float, random) -> None:
    shuffled = random.sample(answers, len(answers))
    reward = torch.tensor([[r + shift for r, _ in shuffled]], dtype=torch.float64)
    found = WHICH[name](reward, torch.tensor([[rank for _, rank in shuffled]])).item()
    assert found == pytest.approx(by_loops(name, [r for r, _ in answers], [k for _, k in answers]), abs=1e-10)


@pytest.mark.parametrize("loss", WHICH.values(), ids=WHICH)
def test_extreme_rewards_by_hand(loss) -> None:
    reward = torch.tensor([[-1e4, 1e4]], requires_grad=True)
    found = loss(reward)
    found.sum().backward()
    assert found.item() == pytest.approx(2e4)
    assert reward.grad.tolist() == [[-1.0, 1.0]]
    assert loss(torch.tensor([[1e4, -1e4]])).item() == 0
    assert loss(torch.tensor([[2.0, 1.0]], dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.filterwarnings("ignore")
def test_pairs_cost_what_trl_makes_of_them(reward_model: Model, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl", reason="trl is not installed: pip install '.[test]'")
    from datasets import Dataset

    answers = [["the rain", "no"], ["town", "the river runs"], ["wet", "dry"]]
    prompts = [[{"role": "user", "content": f"what is {at}?"}] for at in range(3)]
    network, tokenizer = reward_model
    packs = [chat.conversation_ids(tokenizer, *row, [True, True]) for row in zip(prompts, answers, strict=True)]
    rewards = heads.rewards(network, pack(packs)).view(3, 2)
    ours = all_pairs(rewards, margin=0.3).mean() + 0.05 * rewards.sum(1).square().mean()
    ours.backward()
    gradient = {name: weight.grad.clone() for name, weight in network.named_parameters()}
    network.zero_grad()
    rows = [
        {"prompt": prompt, "margin": 0.3}
        | {
            name: [{"role": "assistant", "content": text}]
            for name, text in zip(("chosen", "rejected"), pair, strict=True)
        }
        for prompt, pair in zip(prompts, answers, strict=True)
    ]
    settings = trl.RewardConfig(
        output_dir=str(tmp_path),
        report_to=[],
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        gradient_checkpointing=False,
        center_rewards_coefficient=0.05,
    )
    network.set_attn_implementation("eager")
    data = Dataset.from_list(rows)
    trainer = trl.RewardTrainer(network, settings, processing_class=tokenizer, train_dataset=data, eval_dataset=data)
    theirs = trainer.evaluate()["eval_loss"]
    assert theirs == pytest.approx(ours.item(), abs=CLOSE)
    assert theirs != pytest.approx(all_pairs(rewards).mean().item(), abs=0.01)
    (batch,) = trainer.get_eval_dataloader()
    trainer.compute_loss(network, batch).backward()
    for name, weight in network.named_parameters():
        assert torch.allclose(weight.grad, gradient[name], atol=CLOSE), name
