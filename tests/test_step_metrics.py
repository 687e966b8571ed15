"""What a step reports of its answers."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from loops import fresh, gathered, loop, settings
from tolerances import CLOSE

from starling import step_metrics
from starling.experience import Scale, compared
from starling.generate import Sampled
from starling.loop import Loop
from starling.metrics import Recorder


@pytest.fixture
def found(tiny_model: Path, tmp_path: Path) -> Loop:
    return loop(settings(tmp_path, tiny_model), Recorder(tmp_path / "m.jsonl", "tune"))


def test_divergence_and_entropy_by_hand(found: Loop) -> None:
    groups = fresh(found, 2)
    part = gathered(found, groups, [[0.0, 0.0], [0.0, 0.0]])
    sampled = [logprob for group in groups for answer in group.answers for logprob in answer.logprobs]
    reference = [value for one in part.experiences for value in one.ref_logprob_BT[one.mask_BT].tolist()]
    ratios = [here - there for here, there in zip(sampled, reference, strict=True)]
    figures = step_metrics.of_rollouts([part], *compared(found.policy, [part], found.cfg))
    assert figures["objective/kl"] == pytest.approx(sum(ratios) / 4, abs=CLOSE)  # four answers
    mean = sum(math.exp(-ratio) - 1 + ratio for ratio in ratios) / len(ratios)
    assert figures["objective/kl_k3"] == pytest.approx(mean, abs=CLOSE)
    assert figures["objective/entropy"] == pytest.approx(-sum(sampled) / 4, rel=CLOSE)


def test_divergence_on_a_share_says_over_how_many_answers_and_entropy_is_of_all(found: Loop) -> None:
    groups = fresh(found, 2)
    part = gathered(found, groups, [[0.0, 0.0], [0.0, 0.0]])
    here, all_here = (
        [logprob for group in chosen for answer in group.answers for logprob in answer.logprobs]
        for chosen in (groups[1:], groups)
    )
    figures = step_metrics.of_rollouts([part], groups[1:], torch.tensor(here) - 0.25)
    assert figures["objective/kl_answers"] == 2
    assert figures["objective/kl"] == pytest.approx(0.25 * len(here) / 2, abs=CLOSE)  # a quarter of a nat a token
    assert figures["objective/kl_k3"] == pytest.approx(math.exp(-0.25) - 1 + 0.25, abs=CLOSE)
    assert figures["objective/entropy"] == pytest.approx(-sum(all_here) / 4, rel=CLOSE)


def test_the_charged_kl_by_hand(found: Loop) -> None:
    # log pi - log ref is -1 + 1.5 on each of 2 + 1 tokens of two answers, and 3 more stand in the padding
    mask_BT = torch.tensor([[True, True], [True, False]])
    one: Any = SimpleNamespace(
        anchor_logprob_BT=torch.tensor([[-1.0, -1.0], [-1.0, 0.0]]),
        experience=SimpleNamespace(
            ref_logprob_BT=torch.tensor([[-1.5, -1.5], [-1.5, 3.0]]), mask_BT=mask_BT, lengths=[2, 1]
        ),
    )
    assert step_metrics.charged_kl([[one]]) == 0.75
    assert step_metrics.charged_kl([[one], [one, one]]) == 0.75


def test_rewards_by_hand(found: Loop) -> None:
    part = gathered(found, fresh(found, 2), [[1.0, 3.0], [5.0, 7.0]])
    figures = step_metrics.of_answers([part], Scale(mean=2.0, spread=4.0))
    assert figures["reward_raw"] == 4.0
    assert figures["reward"] == 0.5  # (4 - 2) / 4
    assert figures["reward_spread_within_prompt"] == pytest.approx(math.sqrt(2), abs=CLOSE)  # of 1, 3 and of 5, 7
    assert figures["reward_std"] == pytest.approx(math.sqrt(20 / 3) / 4, abs=CLOSE)  # of 1, 3, 5 and 7, in spreads of 4
    assert figures["frac_reward_zero_std"] == 0.0
    alike = step_metrics.of_answers([part._replace(raw=[[1.0, 3.0], [5.0, 5.0]])], Scale(mean=2.0, spread=4.0))
    assert alike["frac_reward_zero_std"] == 0.5


def test_lengths_and_the_share_of_answers_that_the_cap_cut(found: Loop) -> None:
    (group, other) = fresh(found, 2)
    answers = [
        Sampled(ids=list(range(length)), logprobs=[-1.0] * length, finished=done)
        for length, done in ((2, True), (4, True), (6, False), (8, False))
    ]
    groups = [replace(group, answers=tuple(answers[:2])), replace(other, answers=tuple(answers[2:]))]
    part = gathered(found, fresh(found, 2), ())._replace(groups=groups)
    figures = step_metrics.of_answers([part], found.scale)
    assert {name.removeprefix("completions/"): figure for name, figure in figures.items()} == {
        "mean_length": 5, "min_length": 2, "max_length": 8, "mean_terminated_length": 3, "clipped_ratio": 0.5,
    }  # fmt: skip
    part = part._replace(groups=groups[1:])
    assert step_metrics.of_answers([part], found.scale)["completions/mean_terminated_length"] == 0  # as in TRL


def test_where_ranks_teach_there_is_no_reward(found: Loop) -> None:
    figures = step_metrics.of_answers([gathered(found, fresh(found, 2), ())], found.scale)
    assert all(name.startswith("completions/") for name in figures)
