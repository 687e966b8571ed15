"""Experience: rewards shaped and laid on last tokens, advantages whitened, the critic taught first."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tolerances import CLOSE, EXACT

from starling import models
from starling.algorithms import ALGORITHMS
from starling.config import TuneTable
from starling.experience import (
    Batch,
    Experience,
    Part,
    Scale,
    compared,
    gather,
    is_flat,
    on_last_token,
    shaped,
    shifted,
    teach_critic,
    trunk_states,
    whitened,
)
from starling.generate import Request, Sampled, generate
from starling.packing import Packed, pack
from starling.policy import Policy
from starling.records import Message, Prompt
from starling.rollout import Group
from starling.update import appraised

WHOLE, CUT = Sampled(ids=[7], finished=True), Sampled(ids=[7], finished=False)
PLAIN = Scale(mean=0.0, spread=1.0)


def group(*answers: Sampled) -> Group:
    asked = Prompt(id="p", messages=[Message(role="user", content="?")])
    return Group(prompt=asked, prompt_ids=(5, 6), answers=answers, texts=("",) * len(answers))


def judged_by_critic(policy: Policy, experience: Experience, cfg: TuneTable) -> Batch:
    return appraised(policy, experience, ALGORITHMS["apa"], cfg, 0.0)


def packed_alone(group: Group) -> Packed:
    return pack([(group.prompt_ids, [answer.ids for answer in group.answers])])


def answers(*lengths: int) -> Group:
    return group(*(Sampled(ids=list(range(7, 7 + length)), finished=True) for length in lengths))


@pytest.fixture
def policy(tiny_model: Path) -> Policy:
    torch.manual_seed(5)
    return Policy(models.load_policy(str(tiny_model), torch.float32), layers=1)


def rolled_out(policy: Policy) -> list[Group]:
    """Three answers to each of two prompts, with the trunk's states."""
    asked = Prompt(id="p", messages=[Message(role="user", content="?")])
    prompts = [(5, 6, 7), (5, 6, 40, 41)]
    requests = [Request(prompt=prompt, seed=seed) for prompt in prompts for seed in range(3)]
    stop = frozenset(range(0, 300, 9))
    found = generate(policy.network, requests, max_new_tokens=8, stop=stop, trunk_blocks=policy.trunk_blocks)
    return [
        Group(prompt=asked, prompt_ids=ids, answers=tuple(found[3 * at : 3 * at + 3]), texts=("",) * 3)
        for at, ids in enumerate(prompts)
    ]


def test_states_kept_from_sampling_stand_for_the_trunks_own_pass(policy: Policy) -> None:
    groups = rolled_out(policy)
    bare = [replace(one, answers=tuple(replace(a, trunk_TH=None) for a in one.answers)) for one in groups]
    raw = [[0.0] * 3] * 2
    kept, run = (gather(policy, chosen, raw, PLAIN, TuneTable()).experiences[0] for chosen in (groups, bare))
    assert trunk_states(bare) is None
    torch.testing.assert_close(kept.ref_logprob_BT, run.ref_logprob_BT)
    torch.testing.assert_close(policy.values(kept.features), policy.values(run.features))
    logprob = policy.logprobs(kept.packed, kept.features)
    torch.testing.assert_close(logprob, policy.logprobs(run.packed, run.features))
    logprob.sum().backward()  # states of inference mode would refuse


@pytest.mark.parametrize(
    ("prompts", "draws", "chosen"),
    [
        (16, 4, [0, 4, 8, 12]),  # every fourth: 16 answers
        (17, 8, [0, 4, 8, 12, 16]),
        (12, 4, [0, 3, 6, 9]),  # every fourth would be 12 answers
        (4, 2, [0, 1, 2, 3]),  # 8 answers are all there are
    ],
)
def test_where_nothing_needs_the_reference_a_share_of_whole_prompts_measures_the_kl(
    prompts: int, draws: int, chosen: list[int], policy: Policy
) -> None:
    groups = [answers(*range(1 + number % 3, 1 + number % 3 + draws)) for number in range(prompts)]
    halves = [groups[: prompts // 2], groups[prompts // 2 :]]
    without = [gather(policy, half, (), PLAIN, TuneTable(), reference=False) for half in halves]
    found, ref_logprob_N = compared(policy, without, TuneTable())
    assert [id(group) for group in found] == [id(groups[at]) for at in chosen]
    alone = torch.cat([policy.features(packed_alone(group)).ref_logprob_N for group in found])
    torch.testing.assert_close(ref_logprob_N, alone, atol=0.01, rtol=0)


def test_where_the_reference_is_known_all_answers_measure_the_kl(policy: Policy) -> None:
    groups = [answers(1, 2, 3, 4) for _ in range(16)]
    part = gather(policy, groups, (), PLAIN, TuneTable())
    found, ref_logprob_N = compared(policy, [part], TuneTable())
    assert found == groups
    assert torch.equal(ref_logprob_N, torch.cat([one.features.ref_logprob_N for one in part.experiences]))


def test_without_the_reference_all_else_is_the_same_and_it_has_no_rows(policy: Policy) -> None:
    groups = [answers(3, 5), answers(2, 9)]
    known, bare = (
        gather(policy, groups, [[1.0, 2.0], [0.0, 1.0]], PLAIN, TuneTable(), reference=known).experiences[0]
        for known in (True, False)
    )
    assert bare.ref_logprob_BT.shape == (0, 9)
    assert torch.equal(bare.mask_BT, known.mask_BT)
    assert torch.equal(bare.reward_BT, known.reward_BT)
    assert torch.equal(bare.features.trunk_1TH, known.features.trunk_1TH)


def test_on_last_token_by_hand() -> None:
    mask_BT = torch.tensor([[True, True, False], [True, True, True], [True, False, False]])
    found = on_last_token(torch.tensor([5.0, 7.0, -1.0]), mask_BT)
    assert found.tolist() == [[0, 5, 0], [0, 0, 7], [-1, 0, 0]]


def test_rewards_are_scaled_clipped_and_compared_within_the_prompt() -> None:
    cfg = TuneTable(missing_eos_penalty=1.0, reward_clip=5.0)
    scale = Scale(mean=1.0, spread=2.0)
    # (3 - 1) / 2 = 1 and (5 - 1) / 2 - 1 for the cut = 1: less the other one's
    assert shaped(group(WHOLE, CUT), [3.0, 5.0], scale, cfg).tolist() == [0, 0]
    # (99 - 1) / 2 = 49, clipped to 5, and (1 - 1) / 2 = 0: 5 - 0 and 0 - 5
    assert shaped(group(WHOLE, WHOLE), [99.0, 1.0], scale, cfg).tolist() == [5, -5]


def test_a_running_scale_is_that_of_all_rewards_so_far() -> None:
    found = Scale(mean=2.0, spread=2**0.5, answers=2).after([5.0]).after([-2.0, 4.0])  # the first two were 1 and 3
    assert found.mean == pytest.approx(11 / 5, abs=EXACT)
    assert found.spread == pytest.approx(torch.tensor([1.0, 3, 5, -2, 4]).std().item(), abs=1e-6)
    assert found.answers == 5


def test_the_shift_favours_the_token_that_ends_an_answer_whatever_whitening_and_critic_do(policy: Policy) -> None:
    cut = Sampled(ids=[9, 9], finished=False)
    part = gather(policy, [group(WHOLE, cut)], [[1.0, 2.0]], PLAIN, TuneTable())
    (batch,) = [judged_by_critic(policy, one, TuneTable()) for one in part.experiences]
    before = whitened([[batch]])
    ((found,),) = shifted(before, 0.25)
    change_BT = found.advantage_BT - before[0][0].advantage_BT
    last = len(WHOLE.ids) - 1
    assert change_BT.nonzero().tolist() == [[0, last]]
    assert float(change_BT[0, last]) == 0.25


def test_without_a_baseline_the_reward_stands_as_it_is() -> None:
    cfg = TuneTable(reward_baseline="none")
    assert shaped(group(WHOLE, WHOLE), [3.0, 5.0], Scale(mean=1.0, spread=2.0), cfg).tolist() == [1.0, 2.0]


def test_rewards_stay_with_their_answers_in_every_microbatch(policy: Policy) -> None:
    cfg = TuneTable(reward_baseline="none", microbatch_tokens=64)
    groups = [answers(20, 11), answers(9, 25), answers(3, 4)]
    part = gather(policy, groups, [[1.0, 2.0], [3.0, 4.0], [-1.0, -2.0]], PLAIN, cfg)
    assert len(part.experiences) > 1
    found = {
        length: float(reward_T[length - 1])
        for experience in part.experiences
        for length, reward_T in zip(experience.lengths, experience.reward_BT, strict=True)
    }
    assert found == {20: 1.0, 11: 2.0, 9: 3.0, 25: 4.0, 3: -1.0, 4: -2.0}


def test_advantages_are_whitened_over_all_parts_and_microbatches(policy: Policy) -> None:
    cfg = TuneTable(microbatch_tokens=64)
    parts = [
        gather(policy, [answers(20, 11), answers(9, 25)], [[1.0, 2.0], [3.0, 5.0]], PLAIN, cfg),
        gather(policy, [answers(3, 4)], [[0.0, 7.0]], PLAIN, cfg),
    ]
    found = whitened([[judged_by_critic(policy, one, cfg) for one in part.experiences] for part in parts])
    batches = [batch for part in found for batch in part]
    assert len(found[0]) > 1
    counted = torch.cat([batch.advantage_BT[batch.experience.mask_BT] for batch in batches])
    assert len(counted) == 20 + 11 + 9 + 25 + 3 + 4
    assert float(counted.mean()) == pytest.approx(0, abs=CLOSE)
    assert float(counted.std(correction=0)) == pytest.approx(1, abs=CLOSE)
    assert all(batch.advantage_BT[~batch.experience.mask_BT].eq(0).all() for batch in batches)


@pytest.mark.parametrize("lengths", [(1,), (3, 2)], ids=["one token", "equal"])
def test_advantages_without_a_difference_are_whitened_to_nothing(policy: Policy, lengths: tuple[int, ...]) -> None:
    part = gather(policy, [answers(20, 11)], [[1.0, 2.0]], PLAIN, TuneTable())
    (batch,) = [judged_by_critic(policy, one, TuneTable()) for one in part.experiences]
    mask_BT = torch.zeros_like(batch.experience.mask_BT)
    for row, length in enumerate(lengths):
        mask_BT[row, :length] = True
    level = batch._replace(
        experience=batch.experience._replace(mask_BT=mask_BT), advantage_BT=torch.full(mask_BT.shape, 0.1)
    )
    (found,) = whitened([[level]])[0]
    assert found.advantage_BT.eq(0).all()


def test_the_critic_learns_what_reward_is_to_come_and_the_policy_stays(policy: Policy) -> None:
    cfg = TuneTable(reward_baseline="none", critic_epochs=200, critic_learning_rate=1e-2, critic_weight_decay=0.0)
    good, bad = Sampled(ids=[7, 8, 9], finished=True), Sampled(ids=[20, 21, 22], finished=True)
    part: Part = gather(policy, [group(good, bad)], [[1.0, -1.0]], PLAIN, cfg)
    before = {name: weight.clone() for name, weight in policy.top.state_dict().items()}
    teach_critic(policy, [part], cfg, torch.Generator().manual_seed(0))
    value_BT = policy.values(part.experiences[0].features).view(2, 3)
    assert value_BT[0, 1:].tolist() == pytest.approx([1.0, 1.0], abs=0.05)
    assert value_BT[1, 1:].tolist() == pytest.approx([-1.0, -1.0], abs=0.05)
    assert value_BT[:, 0].tolist() == pytest.approx([0.0, 0.0], abs=0.05)  # before the first token both are open
    assert all(torch.equal(weight, before[name]) for name, weight in policy.top.state_dict().items())
    assert all(weight.grad is None for weight in policy.critic.parameters())


def test_what_the_critic_is_taught_is_discounted(policy: Policy) -> None:
    cfg = TuneTable(
        reward_baseline="none", gamma=0.5, critic_epochs=300, critic_learning_rate=1e-2, critic_weight_decay=0.0
    )
    part = gather(policy, [group(Sampled(ids=[7, 8, 9], finished=True))], [[1.0]], PLAIN, cfg)
    teach_critic(policy, [part], cfg, torch.Generator().manual_seed(0))
    assert policy.values(part.experiences[0].features).tolist() == pytest.approx([0.25, 0.5, 1.0], abs=0.05)


def test_the_critics_weights_decay_as_it_is_taught(policy: Policy) -> None:
    # a reward of 0 and a head of zeros: no gradient, so a step at rate .1 with decay .5 only shrinks by .05
    cfg = TuneTable(reward_baseline="none", critic_epochs=1, critic_learning_rate=0.1, critic_weight_decay=0.5)
    part = gather(policy, [group(WHOLE)], [[0.0]], PLAIN, cfg)
    before = {name: weight.clone() for name, weight in policy.critic.state_dict().items()}
    teach_critic(policy, [part], cfg, torch.Generator().manual_seed(0))
    after = policy.critic.state_dict()
    assert any(weight.ne(0).any() for weight in before.values())
    assert all(torch.allclose(after[name], 0.95 * weight) for name, weight in before.items())


def test_a_small_difference_of_large_rewards_is_one() -> None:
    assert is_flat([100.0, 100.0 + 1e-9])
    assert not is_flat([100.0, 100.1])
