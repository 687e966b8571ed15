"""What the policy is trained to please never chooses its step, and is told where it tests."""

from pathlib import Path
from typing import Any

import known_rewards
import pytest
import runs
from scripted import item
from small_road import recipe

from starling import config, models, own_reward
from starling.config import Config
from starling.errors import UsageError
from starling.judges.by_reward import RewardJudge
from starling.judges.rubric import RubricJudge
from starling.judges.several import Panel
from starling.store import Run


def refuse(cfg: Config) -> None:
    own_reward.refuse_settings(cfg, Path("run/fit/model"))


@pytest.fixture
def other(tiny_model: Path, tmp_path: Path) -> str:
    return known_rewards.save(tiny_model, tmp_path / "other")


@pytest.fixture
def run(tmp_path: Path, reward_model: Any) -> Run:
    """A run whose reward model is a real one."""
    made = runs.make(tmp_path / "run", ("prompts", "sample", "rank", "fit"))
    models.save(reward_model, made.folder("fit") / "model")
    return made


def settings(folder: Path, tiny_model: Path, **changes: Any) -> config.Config:
    return config.load(recipe(folder / "recipe", tiny_model, **changes))


def test_a_reward_model_that_rewards_as_the_judge_may_not_choose_too(
    tiny_model: Path, tmp_path: Path, other: str
) -> None:
    with pytest.raises(UsageError, match=r"^tune: tune.rewards names the judge, and .*/other is a reward model"):
        refuse(settings(tmp_path, tiny_model, rank__judge=other, tune__rewards=["judge"]))
    refuse(settings(tmp_path, tiny_model, rank__judge="rubric", tune__rewards=["judge"]))
    refuse(settings(tmp_path, tiny_model, rank__judge=other))
    offline = {"tune__algorithm": "dpo", "tune__rewards": ["judge"]}  # which rewards nothing
    refuse(settings(tmp_path, tiny_model, rank__judge=other, **offline))


def test_a_reward_model_that_is_taken_over_may_not_choose_either_wherever_its_copy_lies(
    tiny_model: Path, tmp_path: Path, other: str
) -> None:
    copy = known_rewards.save(tiny_model, tmp_path / "copy")
    apart = known_rewards.save(tiny_model, tmp_path / "apart", sign=-1)
    for judges in ({"rank__judge": other}, {"rank__judges": ["rubric", other]}):
        for taken in (other, f"{other}/../other", copy):
            cfg = settings(tmp_path, tiny_model, fit__reward_model=taken, **judges)
            with pytest.raises(UsageError, match=r"^tune: rank's judge .*/other is fit.reward_model too: what the"):
                refuse(cfg)
        refuse(settings(tmp_path, tiny_model, fit__reward_model=apart, **judges))
        for changes in ({"tune__rewards": ["rubric"]}, {"tune__algorithm": "dpo"}):  # which it does not reward
            refuse(settings(tmp_path, tiny_model, fit__reward_model=other, **judges, **changes))


def test_where_the_source_ranks_it_is_evaluates_judge_that_may_not_choose(
    tiny_model: Path, tmp_path: Path, other: str
) -> None:
    path = recipe(tmp_path / "recipe", tiny_model, fit__reward_model=other, evaluate__judge=other)
    refuse(config.load(path))
    with pytest.raises(UsageError, match=r"^tune: evaluate's judge .*/other is fit.reward_model .*judge in evaluate$"):
        refuse(config.load(path, ["sample.generators=[]", "rank.judge=source"]))
    own = ["sample.generators=[]", "rank.judge=source", "evaluate.judge=run/fit/model"]  # which is not there yet
    with pytest.raises(UsageError, match=r"^tune: evaluate's judge run/fit/model is the run's own: what the policy"):
        refuse(config.load(path, own))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tune__rewards": ["judge"]}, True),
        ({"tune__rewards": ["model", "rubric"]}, True),
        ({"tune__rewards": ["model"]}, False),
        ({"tune__rewards": ["rubric"], "rank__judge": "OTHER"}, False),
        ({"tune__rewards": ["judge"], "tune__algorithm": "dpo"}, False),  # which reads no reward
        ({"tune__rewards": ["judge"], "tune__steps": 0}, True),  # ranked answers are rewarded too
    ],
)
def test_a_judge_that_rewards_and_chooses_is_told(
    tiny_model: Path, tmp_path: Path, other: str, capsys, changes: dict[str, Any], told: bool
) -> None:
    if "rank__judge" in changes:
        changes = changes | {"rank__judge": other}
    own_reward.tell_choosing(settings(tmp_path, tiny_model, **changes))
    assert ("the judge that rewards also chooses the step" in capsys.readouterr().out) == told


LLM = "openai:big@http://127.0.0.1:9/v1"


@pytest.mark.parametrize(
    ("changes", "pleased"),
    [
        ({"tune__rewards": ["rubric"]}, "rubric"),
        ({"tune__rewards": ["judge"]}, "rubric"),
        ({"tune__rewards": ["judge"], "rank__judge": LLM, "evaluate__judge": LLM}, LLM),
        ({"tune__rewards": ["judge"], "rank__judge": LLM, "evaluate__judge": "rubric"}, ""),
        ({"tune__rewards": ["rubric"], "evaluate__judge": LLM}, ""),
        ({"tune__rewards": ["rubric"], "tune__algorithm": "dpo"}, ""),
        ({"tune__rewards": ["model"]}, ""),
    ],
)
def test_a_test_by_a_judge_that_rewarded_is_cautioned(
    tiny_model: Path, tmp_path: Path, run: Run, capsys, changes: dict[str, Any], pleased: str
) -> None:
    run.config = settings(tmp_path, tiny_model, **changes)
    found = own_reward.tell(run, RubricJudge(tie_margin=0.0))
    assert ("caution" in found) == bool(pleased)
    printed = capsys.readouterr().out.replace("\n", "")
    assert (f"{pleased} is a judge that tune.rewards names" in printed) if pleased else printed == ""


def test_the_runs_own_reward_model_is_known_by_its_weights(run: Run, other: str, capsys) -> None:
    own = RewardJudge(str(run.folder("fit") / "model"))
    stranger = RewardJudge(other)
    panel = Panel([RubricJudge(tie_margin=0.0), stranger, own])
    for judge in (own, panel):
        assert own_reward.among(run, judge) == [own.name]
        with pytest.raises(UsageError, match=r"^tune: rank's judge reward:.* is the run's own reward model: .*--from"):
            own_reward.refuse_choosing(run, judge)
        found = own_reward.tell(run, judge)
        assert found["caution"].startswith(f"{own.name} is the run's own reward model, which the policy was trained")
        assert f"evaluate: {found['caution']}" in capsys.readouterr().out.replace("\n", "")
    assert own_reward.tell(run, stranger) == {"reward_models": [stranger.identity]}
    assert own_reward.tell(run, RubricJudge(tie_margin=0.0)) == {}
    own_reward.refuse_choosing(run, stranger)
    run.config = config.load(config.find_recipe("smollm2"), ['tune.rewards=["rubric"]'])
    own_reward.refuse_choosing(run, own)
    assert own_reward.among(run, own) == []
    assert capsys.readouterr().out == "" and own.rank([item("p", "a", "a")])[0].ranks == [1, 1]
