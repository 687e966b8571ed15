"""tune: rollout, score, advantage, update."""

import math
from pathlib import Path

import pytest
import torch
from killed import Killed
from small_road import prompt_rows, recipe
from tolerances import CLOSE

from starling import config, metrics, models, tables
from starling.checkpoint import Checkpoint
from starling.config import Config
from starling.errors import StarlingError
from starling.experience import Batch, Part, gather, judged_by_critic
from starling.judges.rubric import RubricJudge
from starling.metrics import Recorder
from starling.policy import Policy
from starling.records import Candidate, Prompt, Ranking
from starling.rollout import Group
from starling.selection import Watch
from starling.stages.tune import Loop, _divergence


def settings(folder: Path, tiny_model: Path, **changes) -> Config:
    return config.load(recipe(folder, tiny_model, **({"tune__steps": 3, "tune__ranked_prompts": 4} | changes)))


def ranking(prompt: Prompt) -> Ranking:
    """Two answers to a prompt, the shorter one ranked first; the longer one was cut."""
    texts = {"the rain": True, "a plain in spain the": False}
    answers = [
        Candidate(prompt_id=prompt.id, model="x", draw=draw, answer=text, finished=finished)
        for draw, (text, finished) in enumerate(texts.items())
    ]
    return Ranking(prompt_id=prompt.id, messages=prompt.messages, answers=answers, ranks=[1.0, 2.0], judge="scripted")


def fresh(found: Loop, count: int, step: int = 0) -> list[Group]:
    """The first groups that the policy itself answers in a step after the ranked ones."""
    found.step = found.ranked_steps + step
    return [group for groups in found._sample(lambda tokens: None) for group in groups][:count]


def gathered(found: Loop, groups: list[Group], raw: list[list[float]]) -> Part:
    return gather(found.policy, groups, raw, found.scale, found.cfg)


def batches_of(found: Loop, part: Part) -> list[Batch]:
    return [judged_by_critic(found.policy, experience, found.cfg) for experience in part.experiences]


def loop(cfg: Config, recorder: Recorder, *, head: float = 1.0) -> Loop:
    """A loop over the small road's prompts, with a reward model whose head is drawn, or constant where `head` is 0."""
    prompts = [tables.prompt_from_row(row, "here") for row in prompt_rows()]
    train, validation = ([p for p in prompts if p.split == split] for split in ("train", "validation"))
    torch.manual_seed(5)
    policy = Policy(models.load_policy(cfg.run.model, torch.float32), cfg.tune.layers)
    reward_model = models.new_reward_model(cfg.run.model)
    torch.nn.init.normal_(reward_model.network.score.weight, std=head)
    watch = Watch(cfg, validation, RubricJudge(tie_margin=0.02))
    return Loop(cfg, policy, reward_model, train, [ranking(prompt) for prompt in train], watch, recorder)


def test_the_gradient_does_not_depend_on_the_microbatches(tiny_model: Path, tmp_path: Path) -> None:
    grads, figures = [], []
    for tokens in (64, 100_000):
        found = loop(
            settings(tmp_path, tiny_model, tune__microbatch_tokens=tokens), Recorder(tmp_path / "m.jsonl", "tune")
        )
        groups = fresh(found, 4)
        rewards = [[1.0, -1.0], [0.5, -0.5], [2.0, -2.0], [-1.0, 1.0]]
        batches = batches_of(found, gathered(found, groups, rewards))
        figures.append(found._gradient(batches))
        grads.append({name: weight.grad for name, weight in found.policy.top.named_parameters()})
    assert figures[0]["loss/policy"] == pytest.approx(figures[1]["loss/policy"], rel=0.01)
    for name, grad in grads[0].items():
        scale = float(grad.abs().max())
        assert scale > 0
        assert torch.allclose(grads[1][name], grad, atol=0.03 * scale, rtol=0), name  # bfloat16


def test_divergence_by_hand(tiny_model: Path, tmp_path: Path) -> None:
    found = loop(settings(tmp_path, tiny_model), Recorder(tmp_path / "m.jsonl", "tune"))
    groups = fresh(found, 2)
    part = gathered(found, groups, [[0.0, 0.0], [0.0, 0.0]])
    sampled = [logprob for group in groups for answer in group.answers for logprob in answer.logprobs]
    reference = [value for one in part.experiences for value in one.ref_logprob_BT[one.mask_BT].tolist()]
    ratios = [here - there for here, there in zip(sampled, reference, strict=True)]
    figures = _divergence([part])
    assert figures["objective/kl"] == pytest.approx(sum(ratios) / 4, abs=CLOSE)  # four answers
    mean = sum(math.exp(-ratio) - 1 + ratio for ratio in ratios) / len(ratios)
    assert figures["objective/kl_k3"] == pytest.approx(mean, abs=CLOSE)


def test_ranked_answers_come_first_as_the_ids_the_policy_would_say(tiny_model: Path, tmp_path: Path) -> None:
    cfg = settings(tmp_path, tiny_model, tune__ranked_prompts=6, tune__updates_per_step=2)
    found = loop(cfg, Recorder(tmp_path / "m.jsonl", "tune"))
    # parts of 2 prompts, two a step: 3 parts in 2 steps, twice; then 3 fresh steps
    assert (found.num_ranked_parts, found.steps_per_epoch, found.ranked_steps, found.num_steps) == (3, 2, 4, 7)
    order = [found._ranked_order(step) for step in range(4)]
    assert [len(indices) for indices in order] == [2, 1, 2, 1]
    assert sorted(order[0] + order[1]) == sorted(order[2] + order[3]) == [0, 1, 2]
    whole, cut = found.ranked[0][0].answers
    stop = found.policy.tokenizer.eos_token_id
    assert whole.ids[-1] == stop
    assert stop not in cut.ids
    assert found.policy.tokenizer.decode(cut.ids) == "a plain in spain the"


def test_every_prompt_is_asked_once_before_any_is_asked_again(tiny_model: Path, tmp_path: Path) -> None:
    found = loop(settings(tmp_path, tiny_model), Recorder(tmp_path / "m.jsonl", "tune"))
    asked = []
    for step in range(6):
        asked.append([group.prompt.id for group in fresh(found, 4, step)])
    first, second = (sorted(name for step in asked[start : start + 3] for name in step) for start in (0, 3))
    assert first == second == sorted(prompt.id for prompt in found.prompts)
    assert asked[:3] != asked[3:]


def states_equal(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(states_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(states_equal, one, other))
    return one == other


def test_a_loop_that_was_killed_goes_on_bit_for_bit(tiny_model: Path, tmp_path: Path) -> None:
    cfg = settings(tmp_path, tiny_model)
    whole = loop(cfg, Recorder(tmp_path / "whole.jsonl", "tune"))
    whole.train(Checkpoint(tmp_path / "whole.pt", 1e9))
    with pytest.raises(KeyboardInterrupt):
        loop(cfg, Killed(tmp_path / "cut.jsonl", "tune", 3)).train(Checkpoint(tmp_path / "cut.pt", 0))
    again = loop(cfg, Recorder(tmp_path / "cut.jsonl", "tune"))
    state = Checkpoint(tmp_path / "cut.pt", 0).load()
    assert state is not None
    assert state["step"] == 2
    again.train(Checkpoint(tmp_path / "cut.pt", 0))
    assert again.facts() == whole.facts()
    assert whole.facts()["steps"] == 5  # two over the ranked answers, three fresh ones
    assert states_equal(again.state_dict(), whole.state_dict())
    assert metrics.read(tmp_path / "cut.jsonl") == metrics.read(tmp_path / "whole.jsonl")
    sampling = zip(again.policy.network.parameters(), whole.policy.network.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in sampling)


def test_a_step_moves_policy_and_critic_and_is_recorded(tiny_model: Path, tmp_path: Path) -> None:
    found = loop(
        settings(tmp_path, tiny_model, tune__steps=2, tune__ranked_prompts=0), Recorder(tmp_path / "m.jsonl", "tune")
    )
    before = {name: weight.clone() for name, weight in found.policy.top.state_dict().items()}
    found.train(Checkpoint(tmp_path / "c.pt", 1e9))
    lines = metrics.read(tmp_path / "m.jsonl")
    assert [line["step"] for line in lines] == [0, 1, 2]
    assert all(math.isfinite(value) for line in lines for name, value in line.items() if name != "stage")
    assert lines[0]["tune/validation/win_rate"] == 0.5
    first, second = (abs(line["tune/objective/kl"]) for line in lines[1:])
    assert first < 0.1 < second  # measured before the update: but for bfloat16 nothing, then something
    assert lines[2]["tune/tokens"] == found.tokens == found.facts()["rollout_tokens"]
    assert not any(torch.equal(weight, before[name]) for name, weight in found.policy.top.state_dict().items())


def test_a_reward_that_is_the_same_for_all_answers_stops_with_a_line(tiny_model: Path, tmp_path: Path) -> None:
    found = loop(settings(tmp_path, tiny_model), Recorder(tmp_path / "m.jsonl", "tune"), head=0.0)
    with pytest.raises(StarlingError, match=r"^tune: all 8 ranked answers looked at get the same reward; refit .*$"):
        found.train(Checkpoint(tmp_path / "c.pt", 1e9))


def test_a_policy_that_goes_too_far_is_stopped(tiny_model: Path, tmp_path: Path) -> None:
    changes = {"tune__kl_limit": 1e-6, "tune__learning_rate": 1e-2, "tune__steps": 9, "tune__validate_every": 5}
    found = loop(settings(tmp_path, tiny_model, **changes), Recorder(tmp_path / "m.jsonl", "tune"))
    found.train(Checkpoint(tmp_path / "c.pt", 1e9))
    assert found.facts()["stopped_by"] == "kl_limit"
    assert found.step < 9
    assert found.watch.last_step == found.step


def test_the_token_budget_ends_tuning_with_a_last_look(tiny_model: Path, tmp_path: Path) -> None:
    # at most 4 * 2 * 8 = 64 tokens a step: two fit for sure, nine do not; the ranked step before them costs none
    changes = {"tune__token_budget": 140, "tune__steps": 9, "tune__validate_every": 9}
    found = loop(settings(tmp_path, tiny_model, **changes), Recorder(tmp_path / "m.jsonl", "tune"))
    found.train(Checkpoint(tmp_path / "c.pt", 1e9))
    assert found.facts()["stopped_by"] == "token_budget"
    assert 3 <= found.step < 10
    assert found.tokens <= 140
    assert [look["step"] for look in found.watch.facts()["looks"]] == [0, found.step]
