"""What the loop of tune rewards, how often, and what it makes of rewards that tell nothing apart."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from loops import TEXTS, fresh, loop, settings

from starling import loop as loop_module
from starling import progress
from starling.checkpoint import Checkpoint
from starling.errors import StarlingError
from starling.experience import Scale, is_flat, teach_nothing
from starling.generate import Sampled
from starling.metrics import Recorder
from starling.records import Prompt
from starling.rewards import Rewards, Shown
from starling.rollout import Group


def test_progress_is_told_while_ranked_answers_are_rewarded(tiny_model: Path, tmp_path: Path, monkeypatch) -> None:
    told, counted = [], 0

    @contextmanager
    def track(stage: str, total: int, unit: str, curves: object = None) -> Iterator[progress.Advance]:
        yield lambda count, note="", **_found: told.append((unit, total, count, note))

    def score(shown: Sequence[Shown]) -> list[list[float]]:
        nonlocal counted
        counted += sum(len(texts) for _prompt, texts, _ends in shown)
        told.append(("scored", counted, 0, ""))
        return [[float(len(text)) for text in texts] for _prompt, texts, _ends in shown]

    monkeypatch.setattr(progress, "track", track)
    monkeypatch.setattr(loop_module, "PARTS_AT_ONCE", 1)
    cfg = settings(tmp_path, tiny_model, tune__prompts_per_step=2, tune__updates_per_step=1)
    found = loop(cfg, Recorder(tmp_path / "metrics.jsonl", "tune"), score=score)
    found.fix_scale()
    parts = found.curriculum.parts[: found.curriculum.num_warm_up_parts]
    assert len(parts) > 1
    answers = [sum(len(group.answers) for group in part) for part in parts]
    assert [kind for kind, *_rest in told] == ["scored", "answers"] * len(parts)
    assert [count for kind, _total, count, _note in told if kind == "answers"] == answers
    assert {total for kind, total, *_rest in told if kind == "answers"} == {sum(answers)} == {found.scale.answers}


def test_a_step_asks_what_rewards_once_and_ranked_answers_are_rewarded_once(tiny_model: Path, tmp_path: Path) -> None:
    asked: list[int] = []

    def score(shown: Sequence[Shown]) -> list[list[float]]:
        asked.append(len(shown))
        return [[float(len(text)) for text in texts] for _prompt, texts, _ends in shown]

    changes = {"ranked_epochs": 2, "warm_up_prompts": 2, "updates_per_step": 4, "steps": 1, "validate_every": 100}
    cfg = settings(tmp_path, tiny_model, **{f"tune__{key}": value for key, value in changes.items()})
    found = loop(cfg, Recorder(tmp_path / "m.jsonl", "tune"), score=score)
    found.fix_scale()
    found.warm_up(lambda count, note="": None)
    assert asked == [2]
    for _ in range(3):
        found.take_step(lambda count, note="": None)
    # the other two of four ranked prompts, nothing in the second pass, the fresh ones, and the look after the last step
    assert asked == [2, 2, 4, 3]


def test_rewards_that_stay_the_same_end_tuning_with_a_line(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def ranked_answers_alone(shown: Sequence[Shown]) -> list[list[float]]:
        return [[float(text in TEXTS) * len(text) for text in texts] for _prompt, texts, _ends in shown]

    cfg = settings(tmp_path, tiny_model, tune__steps=9, tune__ranked_prompts=0)
    found = loop(cfg, Recorder(tmp_path / "m.jsonl", "tune"), score=ranked_answers_alone)
    found.train(Checkpoint(tmp_path / "c.pt", 1e9))
    assert found.facts()["stopped_by"] == "constant_reward"
    assert found.step == 3
    assert (
        "tune: step 3: in 3 steps in a row all answers to a prompt got the same reward once it is "
        "scaled and clipped, first 0;" in capsys.readouterr().out
    )


def test_a_reward_that_is_the_same_for_all_answers_stops_with_a_line(tiny_model: Path, tmp_path: Path) -> None:
    found = loop(settings(tmp_path, tiny_model), Recorder(tmp_path / "m.jsonl", "tune"), head=0.0)
    with pytest.raises(StarlingError, match=r"^tune: all 8 ranked answers looked at get the same reward; refit .*$"):
        found.train(Checkpoint(tmp_path / "c.pt", 1e9))


def test_rewards_that_differ_from_prompt_to_prompt_alone_end_tuning(tiny_model: Path, tmp_path: Path, capsys) -> None:
    def by_prompt(shown: Sequence[Shown]) -> list[list[float]]:
        return [[float(sum(map(ord, prompt.id)))] * len(texts) for prompt, texts, _ends in shown]

    found = loop(settings(tmp_path, tiny_model, tune__steps=9), Recorder(tmp_path / "m.jsonl", "tune"), score=by_prompt)
    found.train(Checkpoint(tmp_path / "c.pt", 1e9))
    assert found.facts()["stopped_by"] == "constant_reward"
    shown = capsys.readouterr().out
    assert "all answers to a prompt got the same reward once it is scaled and clipped, first " in shown


@pytest.mark.parametrize(("raw", "flat"), [([0, 0], True), ([5.0, 5.000001], True), ([1e-9, 2e-9], False), ([1], True)])
def test_rewards_are_flat_by_their_own_size(raw: list[float], flat: bool) -> None:
    assert is_flat(raw) == flat


def test_a_critic_that_is_not_taught_costs_no_warm_up(tiny_model: Path, tmp_path: Path, monkeypatch) -> None:
    changes = {"tune__critic_epochs": 0, "tune__ranked_prompts": 0, "tune__steps": 1}
    found = loop(settings(tmp_path, tiny_model, **changes), Recorder(tmp_path / "m.jsonl", "tune"))
    found.fix_scale()
    monkeypatch.setattr(found.ranked, "part", None)  # it would be called
    found.warm_up(lambda count, note="": None)
    assert found.facts()["critic_warm_up_tokens"] == 0
    assert loop(settings(tmp_path, tiny_model), Recorder(tmp_path / "n", "tune")).facts()["critic_warm_up_tokens"] > 0


def test_rewards_are_flat_as_they_are_learnt_from(tiny_model: Path, tmp_path: Path) -> None:
    cfg = settings(tmp_path, tiny_model, tune__reward_clip=2.0, tune__missing_eos_penalty=1.0).tune
    whole, cut = (
        Group(
            prompt=Prompt(id="p", messages=[]),
            prompt_ids=(5,),
            answers=tuple(Sampled(ids=[7], finished=end) for end in ends),
            texts=("a", "b"),
        )
        for ends in ((True, True), (True, False))
    )
    scale = Scale(1.0, 0.5)
    assert teach_nothing([whole], [[1.25, 1.25]], scale, cfg)
    assert not teach_nothing([whole], [[1.25, 1.0]], scale, cfg)
    assert teach_nothing([whole], [[7.0, 9.0]], scale, cfg)  # both are past the clip
    assert not teach_nothing([cut], [[0.0, 0.0]], scale, cfg)  # the one that was cut loses 1
    assert not teach_nothing([whole, whole], [[1.25, 1.25], [1.0, 1.0]], scale, cfg)


def test_the_judge_is_not_asked_about_answers_that_it_has_ranked(tiny_model: Path, tmp_path: Path) -> None:
    asked: list[int] = []

    def judge(shown: Sequence[Shown]) -> list[list[float]]:
        asked.append(len(shown))
        return [[0.25] * len(texts) for _prompt, texts, _ends in shown]

    found = loop(settings(tmp_path, tiny_model), Recorder(tmp_path / "m.jsonl", "tune"))
    new, ranked = fresh(found, 2), found.curriculum.parts[0][:1]
    raw, _means = Rewards({"judge": (2.0, judge)})([new[0], *ranked, new[1]])
    assert raw == [[0.5] * 2, [2.0, 0.0], [0.5] * 2]  # ranks 1 and 2: the first beats the other
    assert asked == [2]
    assert Rewards({"judge": (1.0, judge)})(ranked)[0] == [[1.0, 0.0]]
    assert asked == [2]
