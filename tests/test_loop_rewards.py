"""What the loop of tune rewards, how often, and what it makes of rewards that tell nothing apart."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from loops import TEXTS, fresh, loop, settings

from starling import metrics, progress, ranked
from starling.checkpoint import Checkpoint
from starling.errors import StarlingError
from starling.experience import Scale, is_flat, teach_nothing
from starling.generate import Sampled
from starling.metrics import Recorder
from starling.records import Prompt
from starling.rewards import Rewards, Scorer, Shown
from starling.rollout import Group


def by_prompt(shown: Sequence[Shown]) -> list[list[float]]:
    return [[float(sum(map(ord, prompt.id)))] * len(texts) for prompt, texts, _ends in shown]


def rollouts_by_prompt(shown: Sequence[Shown]) -> list[list[float]]:
    """The ranked answers are told apart by their length."""
    rows = zip(by_prompt(shown), shown, strict=True)
    return [
        [reward + (text in TEXTS) * len(text) for reward, text in zip(row, texts, strict=True)]
        for row, (_prompt, texts, _ends) in rows
    ]


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
    monkeypatch.setattr(ranked, "PARTS_AT_ONCE", 1)
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


def test_rollouts_whose_rewards_differ_between_prompts_alone_end_tuning(
    tiny_model: Path, tmp_path: Path, capsys
) -> None:
    cfg = settings(tmp_path, tiny_model, tune__steps=9)
    found = loop(cfg, Recorder(tmp_path / "m.jsonl", "tune"), score=rollouts_by_prompt)
    found.train(Checkpoint(tmp_path / "c.pt", 1e9))
    assert found.facts()["stopped_by"] == "constant_reward"
    shown = capsys.readouterr().out
    assert "all answers to a prompt got the same reward once it is scaled and clipped, first " in shown


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": "apa", "steps": 0},
        {"algorithm": "apa", "reward_baseline": "none"},
        {"algorithm": "apa", "anchor": "sampling"},
        {"algorithm": "awr", "steps": 0, "reward_baseline": "none"},
        {"algorithm": "ppo", "reward_baseline": "none"},
        {"algorithm": "p3o"},
        {"algorithm": "grpo"},
        {"algorithm": "rloo"},
        {"algorithm": "reinforce_pp"},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_rewards_that_differ_between_prompts_alone_stop_over_ranked_answers(
    changes: dict, tiny_model: Path, tmp_path: Path
) -> None:
    cfg = settings(tmp_path, tiny_model, **{f"tune__{key}": value for key, value in changes.items()})
    found = loop(cfg, Recorder(tmp_path / "m.jsonl", "tune"), score=by_prompt)
    line = (
        r"tune: each of 4 prompts has the same reward for all its ranked answers \(8 in all\) once it is scaled and "
        r"clipped, first \d+ for prompt .+, so that no answer is told from another; refit the reward model, choose "
        r"other tune\.rewards, or look at more prompts \(tune\.warm_up_prompts\)"
    )
    with pytest.raises(StarlingError, match=f"^{line}$"):
        found.train(Checkpoint(tmp_path / "c.pt", 1e9))
    assert found.step == 0
    assert not (tmp_path / "m.jsonl").exists() or metrics.read(tmp_path / "m.jsonl") == []


@pytest.mark.parametrize("algorithm", ["dpo", "sft"])
def test_what_learns_from_ranks_has_no_use_for_rewards(algorithm: str, tiny_model: Path, tmp_path: Path) -> None:
    cfg = settings(tmp_path, tiny_model, tune__algorithm=algorithm, tune__ranked_epochs=1)
    found = loop(cfg, Recorder(tmp_path / "m.jsonl", "tune"), score=by_prompt)
    found.train(Checkpoint(tmp_path / "c.pt", 1e9))
    assert (found.step, found.facts()["stopped_by"]) == (found.curriculum.num_steps, "steps")


def test_ranked_answers_past_the_warm_up_are_looked_at_before_tuning_stops(tiny_model: Path, tmp_path: Path) -> None:
    asked: list[list[str]] = []
    cfg = settings(tmp_path, tiny_model, tune__warm_up_prompts=2, tune__updates_per_step=4, tune__steps=0)

    def apart_at(place: int) -> Scorer:
        ids = [group.prompt.id for part in plain.curriculum.parts for group in part]

        def score(shown: Sequence[Shown]) -> list[list[float]]:
            asked.append([prompt.id for prompt, _texts, _ends in shown])
            return [
                [float(number) + (prompt.id == ids[place]) * len(text) / 100 for text in texts]
                for prompt, texts, _ends in shown
                for number in [ids.index(prompt.id) if prompt.id in ids else 0]
            ]

        return score

    plain = loop(cfg, Recorder(tmp_path / "m.jsonl", "tune"))
    late = loop(cfg, Recorder(tmp_path / "m.jsonl", "tune"), score=apart_at(3))
    late.fix_scale()
    assert list(map(len, asked)) == [2, 2]
    late.ranked.reward(range(4))
    assert list(map(len, asked)) == [2, 2]  # each only once
    asked.clear()
    loop(cfg, Recorder(tmp_path / "m.jsonl", "tune"), score=apart_at(1)).fix_scale()
    assert list(map(len, asked)) == [2]


def test_ranked_answers_that_a_penalty_tells_apart_are_learnt_from(tiny_model: Path, tmp_path: Path) -> None:
    cfg = settings(tmp_path, tiny_model, tune__missing_eos_penalty=1.0, tune__steps=0)  # one of each two was cut
    found = loop(cfg, Recorder(tmp_path / "m.jsonl", "tune"), score=by_prompt)
    found.train(Checkpoint(tmp_path / "c.pt", 1e9))
    assert found.facts()["stopped_by"] == "steps"


def test_a_ranked_answer_alone_with_its_prompt_is_not_flat(tiny_model: Path, tmp_path: Path) -> None:
    changes = {"tune__algorithm": "ppo", "tune__rollouts_per_prompt": 1, "tune__reward_baseline": "none"}
    found = loop(settings(tmp_path, tiny_model, **changes), Recorder(tmp_path / "m.jsonl", "tune"), score=by_prompt)
    found.curriculum.keep_best()
    found.fix_scale()
    assert found.scale.answers == 4


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
