"""What the loop of tune remembers from step to step, and when it ends early."""

import math
import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from killed import Killed
from loops import TEXTS, fresh, loop, settings
from safetensors.torch import load_file, save_file

from starling import metrics
from starling.checkpoint import Checkpoint
from starling.errors import DataError, StarlingError
from starling.judges.protocol import Judged
from starling.metrics import Recorder
from starling.rewards import Shown
from starling.selection import Watch


def by_length(shown: Sequence[Shown]) -> list[list[float]]:
    return [[float(len(text)) for text in texts] for _prompt, texts, _ends in shown]


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "lm_head.weight"])
def test_a_checkpoint_of_another_model_is_refused_and_kept(tiny_model: Path, tmp_path: Path, name: str) -> None:
    cfg = settings(tmp_path / "own", tiny_model)
    path = tmp_path / "c.pt"
    with pytest.raises(KeyboardInterrupt):
        loop(cfg, Killed(tmp_path / "m.jsonl", "tune", 2)).train(Checkpoint(path, 0))
    saved = path.read_bytes()
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    weights = load_file(other / "model.safetensors")
    save_file(weights | {name: weights[name] * 1.01}, other / "model.safetensors", metadata={"format": "pt"})
    found = loop(settings(tmp_path / "its", other), Recorder(tmp_path / "m.jsonl", "tune"))
    with pytest.raises(DataError, match=r"c\.pt: was saved while another model was tuned than .*; bring that one back"):
        found.train(Checkpoint(path, 0))
    assert path.read_bytes() == saved


class Falling:
    """A judge that likes each look's answers less than the base's, but for the first time it is asked."""

    name, template_hash = "falling", ""

    def __init__(self) -> None:
        self._asked = 0

    def rank(self, items) -> list[Judged]:
        self._asked += 1
        ranks = (1.0, 2.0) if self._asked == 1 else (2.0, 1.0)
        return [Judged(ranks=ranks) for _ in items]


@pytest.mark.parametrize(("extra", "stopped_by"), [(6, "parted"), (0, "steps")])
def test_tuning_ends_where_the_reward_rises_and_the_judge_likes_the_answers_less(
    extra: int, stopped_by: str, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # with no step left after the third nothing is cut short, but it is told all the same
    looks = 0

    def rising(shown: Sequence[Shown]) -> list[list[float]]:
        nonlocal looks
        looks += 1
        return [[looks + len(text) / 100 for text in texts] for _prompt, texts, _ends in shown]

    changes = {"tune__ranked_prompts": 0, "tune__steps": 3 + extra, "tune__validate_every": 1, "tune__reward_clip": 1e9}
    cfg = settings(tmp_path, tiny_model, tune__parting_looks=2, **changes)
    found = loop(cfg, Recorder(tmp_path / "m.jsonl", "tune"), score=rising)
    prompts = [one for two in zip(found.watch._prompts, found.curriculum._prompts, strict=False) for one in two]
    prompts = [replace(one, family=one.id) for one in prompts]
    assert len(prompts) == 6  # families, of fewer than which nothing is ever shown
    found.watch = Watch(cfg, prompts, Falling())
    found.train(Checkpoint(tmp_path / "c.pt", 1e9))
    assert found.facts()["stopped_by"] == stopped_by
    assert (found.step, found.watch.best_step) == (3, 1)
    said = capsys.readouterr().out
    assert "tune: step 3: reward and judge have parted: 2 looks in a row (tune.parting_looks) have more reward" in said
    assert ("tuning ends here" in said) is (extra > 0)
    parted = [line.get("tune/validation/parted") for line in metrics.read(tmp_path / "m.jsonl")]
    assert parted == [0.0, 0.0, 1.0, 1.0]


def test_a_reward_that_draws_goes_on_drawing_after_an_interruption(tiny_model: Path, tmp_path: Path) -> None:
    def noisy(shown: Sequence[Shown]) -> list[list[float]]:
        return [
            [len(text) + float(torch.rand(())) + random.random() for text in texts] for _prompt, texts, _ends in shown
        ]

    cfg = settings(tmp_path, tiny_model, tune__steps=4)
    torch.manual_seed(1)
    random.seed(1)
    whole = loop(cfg, Recorder(tmp_path / "whole.jsonl", "tune"), score=noisy)
    whole.train(Checkpoint(tmp_path / "whole.pt", 1e9))
    torch.manual_seed(1)
    random.seed(1)
    with pytest.raises(KeyboardInterrupt):
        loop(cfg, Killed(tmp_path / "cut.jsonl", "tune", 4), score=noisy).train(Checkpoint(tmp_path / "cut.pt", 0))
    torch.manual_seed(99)
    random.seed(99)
    loop(cfg, Recorder(tmp_path / "cut.jsonl", "tune"), score=noisy).train(Checkpoint(tmp_path / "cut.pt", 0))
    assert metrics.read(tmp_path / "cut.jsonl") == metrics.read(tmp_path / "whole.jsonl")


def test_ranked_answers_that_were_rewarded_are_not_rewarded_again_after_an_interruption(
    tiny_model: Path, tmp_path: Path
) -> None:
    asked: list[int] = []

    def counted(shown: Sequence[Shown]) -> list[list[float]]:
        asked.append(len(shown))
        return by_length(shown)

    cfg = settings(tmp_path, tiny_model, tune__ranked_epochs=3, tune__steps=0, tune__validate_every=99)
    with pytest.raises(KeyboardInterrupt):
        loop(cfg, Killed(tmp_path / "m.jsonl", "tune", 2), score=counted).train(Checkpoint(tmp_path / "c.pt", 0))
    assert asked == [4, 3]  # the ranked answers before the policy moves; the first look
    asked.clear()
    loop(cfg, Recorder(tmp_path / "m.jsonl", "tune"), score=counted).train(Checkpoint(tmp_path / "c.pt", 0))
    assert asked == [3]  # the last look


def test_a_gap_that_was_warned_of_is_not_warned_of_again_after_an_interruption(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = settings(tmp_path, tiny_model, tune__algorithm="grpo", tune__logprob_gap_limit=1e-9)
    with pytest.raises(KeyboardInterrupt):
        loop(cfg, Killed(tmp_path / "m.jsonl", "tune", 2)).train(Checkpoint(tmp_path / "c.pt", 0))
    assert "logprob as sampled and as trained differ by" in capsys.readouterr().out
    found = loop(cfg, Recorder(tmp_path / "m.jsonl", "tune"))
    found.train(Checkpoint(tmp_path / "c.pt", 0))
    assert found.step == 3
    assert "logprob as sampled and as trained differ by" not in capsys.readouterr().out


def test_rollouts_that_were_under_way_are_in_the_checkpoint(tiny_model: Path, tmp_path: Path) -> None:
    cfg = settings(tmp_path, tiny_model, tune__algorithm="ppo", tune__overlap=True, tune__steps=4)
    with pytest.raises(KeyboardInterrupt):
        loop(cfg, Killed(tmp_path / "m.jsonl", "tune", 3)).train(Checkpoint(tmp_path / "c.pt", 0))
    state = Checkpoint(tmp_path / "c.pt", 0).load()
    assert state is not None
    assert [len(answers) for answers in state["open_rollouts"]] == [2] * 4


def test_a_reward_that_is_no_number_leaves_a_checkpoint_to_go_on_from(tiny_model: Path, tmp_path: Path) -> None:
    broken, calls = True, 0

    def score(shown: Sequence[Shown]) -> list[list[float]]:
        nonlocal calls
        calls += 1
        return [[math.nan if broken and calls == 5 else one for one in row] for row in by_length(shown)]

    cfg = settings(tmp_path, tiny_model, tune__ranked_prompts=0, tune__steps=3)
    found = loop(cfg, Recorder(tmp_path / "m.jsonl", "tune"), score=score)
    with pytest.raises(StarlingError, match=r"^tune: reward 'scripted' gave nan for an answer to prompt"):
        found.train(Checkpoint(tmp_path / "c.pt", 0))
    state = Checkpoint(tmp_path / "c.pt", 0).load()
    assert state is not None and state["step"] == 1
    broken = False
    found = loop(cfg, Recorder(tmp_path / "m.jsonl", "tune"), score=score)
    found.train(Checkpoint(tmp_path / "c.pt", 0))
    assert [line["step"] for line in metrics.read(tmp_path / "m.jsonl")] == [0, 1, 2, 3]


def test_samples_stand_at_every_second_step_and_are_the_same_after_an_interruption(
    tiny_model: Path, tmp_path: Path
) -> None:
    def recorder(name: str) -> Recorder:
        return Recorder(tmp_path / f"{name}.jsonl", "tune", diary=tmp_path / f"{name}.md")

    cfg = settings(tmp_path, tiny_model, tune__ranked_prompts=4, tune__steps=5, tune__samples_every=2)
    loop(cfg, recorder("whole")).train(Checkpoint(tmp_path / "whole.pt", 1e9))
    text = (tmp_path / "whole.md").read_text()
    ranked = loop(cfg, recorder("other")).curriculum.ranked_steps
    expected = [f"## Step {ranked + at}" for at in (1, 3, 5)]
    assert [line for line in text.splitlines() if line.startswith("## ")] == expected
    cut = Killed(tmp_path / "cut.jsonl", "tune", ranked + 3)
    cut._diary = tmp_path / "cut.md"
    with pytest.raises(KeyboardInterrupt):
        loop(cfg, cut).train(Checkpoint(tmp_path / "cut.pt", 0))
    assert f"## Step {ranked + 3}\n" in (tmp_path / "cut.md").read_text()  # of a step that is not in the checkpoint
    loop(cfg, recorder("cut")).train(Checkpoint(tmp_path / "cut.pt", 0))
    assert (tmp_path / "cut.md").read_text() == text


def test_the_share_of_targets_above_0_stands_in_the_metrics(tiny_model: Path, tmp_path: Path) -> None:
    found = loop(settings(tmp_path, tiny_model, tune__lam=1e-3), Recorder(tmp_path / "m.jsonl", "tune"))
    found.train(Checkpoint(tmp_path / "c.pt", 1e9))
    shares = [line["tune/apa/target_above_zero"] for line in metrics.read(tmp_path / "m.jsonl")[1:]]
    # so small a lambda makes targets huge: those of advantages above 0 are impossible, those below are not
    assert all(0.1 < share < 0.9 for share in shares)
    assert len(shares) == found.step


@pytest.mark.parametrize("algorithm", ["ppo", "grpo", "reinforce_pp"])
def test_the_kl_that_steers_is_the_one_that_was_charged(tiny_model: Path, tmp_path: Path, algorithm: str) -> None:
    changes = {"tune__algorithm": algorithm, "tune__kl_coef": 0.5, "tune__updates_per_step": 1}
    found = loop(settings(tmp_path, tiny_model, **changes), Recorder(tmp_path / "m.jsonl", "tune"))
    found.fix_scale()
    groups = fresh(found, 4)
    for group in groups:  # a sampler whose logprobs are a nat off
        for answer in group.answers:
            answer.logprobs[:] = [value - 1.0 for value in answer.logprobs]
    _parts, told = found._learn_from_fresh([groups], 1.0)
    assert told["objective/kl"] == pytest.approx(0.0, abs=1e-4)  # before anything is learnt both policies are alike
    assert told["objective/non_score_reward"] == pytest.approx(0.0, abs=1e-4)


def test_the_trunk_runs_once_for_every_answer(tiny_model: Path, tmp_path: Path, monkeypatch) -> None:
    """Rewards need no KL, so the reference is asked for the KL alone, and nothing was kept while sampling."""
    changes = {"tune__algorithm": "grpo", "tune__kl_coef": 0.0, "tune__epochs_per_step": 2, "tune__overlap": True}
    found = loop(settings(tmp_path, tiny_model, **changes), Recorder(tmp_path / "m.jsonl", "tune"))
    found.fix_scale()
    sizes: list[int] = []
    through = found.policy._through_trunk

    def counted(packed):
        sizes.append(packed.ids_1T.shape[1])
        return through(packed)

    monkeypatch.setattr(found.policy, "_through_trunk", counted)
    groups = fresh(found, 4)
    found._learn_from_fresh([groups[:2], groups[2:]], 1.0)
    assert sum(sizes) == sum(len(group.prompt_ids) + group.num_tokens for group in groups)


def test_rollouts_that_differ_between_prompts_teach_where_nothing_is_taken_off(
    tiny_model: Path, tmp_path: Path
) -> None:
    def by_prompt(shown: Sequence[Shown]) -> list[list[float]]:
        return [
            [float(len(prompt.id)) + (text in TEXTS) * len(text) for text in texts] for prompt, texts, _ends in shown
        ]

    for number, (changes, ended) in enumerate(
        [
            ({"algorithm": "ppo", "reward_baseline": "none"}, "steps"),
            ({"algorithm": "ppo"}, "constant_reward"),
            ({"algorithm": "grpo"}, "constant_reward"),
        ]
    ):
        cfg = settings(
            tmp_path / str(number), tiny_model, tune__steps=4, **{f"tune__{k}": v for k, v in changes.items()}
        )
        found = loop(cfg, Recorder(tmp_path / f"{number}.jsonl", "tune"), score=by_prompt)
        found.train(Checkpoint(tmp_path / f"{number}.pt", 1e9))
        assert found.facts()["stopped_by"] == ended, changes
