"""Rollouts sampled while the step before is learnt from: by older weights, corrected, and kept over an interruption."""

import time
from pathlib import Path
from threading import Event

import pytest
import torch
from loops import gathered, loop, settings

from starling import metrics, update
from starling.checkpoint import Checkpoint
from starling.loop import Loop
from starling.metrics import Recorder


def tell(count: int) -> None:
    """Nobody looks at progress here."""


def made(tiny_model: Path, tmp_path: Path, **changes: object) -> Loop:
    cfg = settings(tmp_path, tiny_model, **{f"tune__{key}": value for key, value in changes.items()})
    found = loop(cfg, Recorder(tmp_path / "m.jsonl", "tune"))
    found.step = found.curriculum.ranked_steps
    return found


def move(found: Loop) -> None:
    with torch.no_grad():
        for weight in found.policy.trained.values():
            weight += 0.05 * torch.randn_like(weight)


def ids(groups: list) -> list[list[int]]:
    return [answer.ids for group in groups for answer in group.answers]


def test_sampling_ahead_ends_where_the_step_beside_it_is_broken_off(tiny_model: Path, tmp_path: Path) -> None:
    found, heard, begun = made(tiny_model, tmp_path, overlap=True), [], Event()

    def slowly(count: int) -> None:
        heard.append(count)
        begun.set()
        time.sleep(0.05)

    with pytest.raises(KeyboardInterrupt), found.rollouts.ahead(found.step + 1, slowly):
        assert begun.wait(10)
        raise KeyboardInterrupt
    so_far = len(heard)
    assert not found.rollouts.state_dict()
    with found.rollouts.ahead(found.step + 1, heard.append):
        pass
    assert so_far < len(heard) - so_far


def test_groups_sampled_ahead_are_those_of_the_older_weights(tiny_model: Path, tmp_path: Path) -> None:
    found = made(tiny_model, tmp_path, overlap=True)
    step = found.step + 1
    by_old = found.rollouts.of(step, tell)
    assert not found.rollouts.stale
    with found.rollouts.ahead(step, tell):
        move(found)  # the policy that trains; the network that samples waits for `sync`
    found.policy.sync()
    waiting = found.rollouts.of(step, tell)
    assert found.rollouts.stale
    assert ids(waiting) == ids(by_old)
    by_new = found.rollouts.of(step, tell)
    assert not found.rollouts.stale
    assert ids(by_new) != ids(by_old)


def test_without_overlap_nothing_is_sampled_ahead(tiny_model: Path, tmp_path: Path) -> None:
    found = made(tiny_model, tmp_path)
    with found.rollouts.ahead(found.step + 1, tell):
        pass
    assert found.rollouts.state_dict() == []


@pytest.mark.parametrize("overlap", [False, True])
def test_the_trunks_states_come_with_groups_that_no_checkpoint_must_hold(
    tiny_model: Path, tmp_path: Path, overlap: bool
) -> None:
    found = made(tiny_model, tmp_path, overlap=overlap, layers=1)
    for group in found.rollouts.of(found.step, tell):
        for answer in group.answers:
            assert (answer.trunk_TH is None) == overlap
            assert overlap or len(answer.trunk_TH) == len(group.prompt_ids) + len(answer.ids) - 1


def test_groups_that_wait_come_back_from_what_was_saved(tiny_model: Path, tmp_path: Path) -> None:
    found, other = made(tiny_model, tmp_path, overlap=True), made(tiny_model, tmp_path, overlap=True)
    step = found.step + 1
    with found.rollouts.ahead(step, tell):
        pass
    other.rollouts.load_state_dict(found.rollouts.state_dict(), step)
    assert other.rollouts.of(step, tell) == found.rollouts.of(step, tell)


def test_an_error_in_the_sampling_thread_reaches_the_loop(tiny_model: Path, tmp_path: Path) -> None:
    found = made(tiny_model, tmp_path, overlap=True)

    def fails(count: int) -> None:
        raise KeyError("in the thread")

    with pytest.raises(KeyError, match="in the thread"), found.rollouts.ahead(found.step, fails):
        pass


@torch.no_grad()
def test_the_ratio_starts_from_what_sampled(tiny_model: Path, tmp_path: Path) -> None:
    # one step old: the ratio of the moved policy to the sampler is not 1, while to itself it is
    anchors = []
    for overlap in (True, False):
        found = made(tiny_model, tmp_path, overlap=overlap, algorithm="grpo", kl_coef=0.0)
        groups = found.rollouts.of(found.step, tell)
        torch.manual_seed(3)
        move(found)
        part = gathered(found, groups, [[0.0, 1.0]] * len(groups))
        experience = part.experiences[0]
        batch = update.appraised(found.policy, experience, found.algorithm, found.cfg, 0.0)
        now_N = found.policy.logprobs(experience.packed, experience.features)
        anchors.append((batch.anchor_logprob_BT[experience.mask_BT], experience.sampled_N, now_N))
    (stale, sampled, _now), (own, _sampled, now) = anchors
    assert torch.equal(stale, sampled)
    assert torch.equal(own, now)
    assert (stale - now).abs().max() > 0.1


@pytest.mark.parametrize("algorithm", ["apa", "ppo", "grpo", "p3o"])
def test_overlapped_tuning_learns_and_counts_every_token_it_learns_from(
    algorithm: str, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = made(tiny_model, tmp_path, overlap=True, algorithm=algorithm, steps=3, ranked_prompts=0)
    found.train(Checkpoint(tmp_path / "c.pt", 1e9))
    lines = metrics.read(tmp_path / "m.jsonl")
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    assert lines[-1]["tune/num_tokens"] == found.tokens
    assert found.rollouts.state_dict() == []  # nothing is sampled that no step learns from
    gaps = [line["tune/sampling/sampling_logp_difference/mean"] for line in lines[1:]]
    assert gaps[0] < 0.1 < max(gaps[1:])  # one step of learning stands between the later ones
    assert "as sampled and as trained" not in capsys.readouterr().out
