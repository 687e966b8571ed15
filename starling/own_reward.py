"""Where what the policy is trained to please would judge it: refused where it would choose, told where it tests."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starling import endpoints, models, progress
from starling.config import Config
from starling.errors import UsageError
from starling.judges import rubric
from starling.judges.make import named_judges, reward_judges
from starling.judges.protocol import Judge
from starling.store import Run
from starling.tune_settings import as_read, is_online

_WHY = "what the policy is trained to please cannot also choose the step that is kept"


def refuse_settings(config: Config, own: Path) -> None:
    """Stop where the settings alone tell that `tune` would choose its step by what it is rewarded by, be it the run's
    `own` reward model, which it may still have to make."""
    for judge in [one.judge for one in endpoints.judges_of(config.chooser)]:
        if Path(judge).resolve() == own.resolve():
            raise UsageError(f"tune: {_table(config)}'s judge {judge} is the run's own: {_WHY}; {_how(config)}")
    for one in named_judges(config, config.chooser):
        if not one.by_reward:
            continue
        if _rewards_by_judge(config):
            raise UsageError(
                f"tune: tune.rewards names the judge, and {one.cfg.judge} is a reward model: {_WHY}; {_how(config)}"
            )
        if "model" in _rewards(config) and config.fit.reward_model and _are_one(one.cfg.judge, config.fit.reward_model):
            raise UsageError(
                f"tune: {_table(config)}'s judge {one.cfg.judge} is fit.reward_model too: {_WHY}; {_how(config)}"
            )


def refuse_choosing(run: Run, judge: Judge) -> None:
    """The same, once the run's reward model is there, by its weights."""
    if own := among(run, judge):
        raise UsageError(
            f"tune: {_table(run.config)}'s judge {own[0]} is the run's own reward model: {_WHY}; {_how(run.config)}, "
            f"in another run (--run) that takes the stages before it over (--from {run.root})"
        )


def tell_choosing(config: Config) -> None:
    """Say so where a judge that rewards also chooses the step: its win rate is then no second opinion."""
    if _rewarding(config) & {one.cfg.judge for one in named_judges(config, config.chooser)}:
        progress.say(
            "tune: the judge that rewards also chooses the step, so its win rate says how well it is pleased, not that "
            "answers are better"
        )


def tell(run: Run, judge: Judge) -> dict[str, Any]:
    """The reward models that judge the test, and a caution, printed too, where the policy was trained to please one of
    the judges."""
    judges = reward_judges(judge)
    found: dict[str, Any] = {"reward_models": [one.identity for one in judges]} if judges else {}
    rewarding = _rewarding(run.config)
    pleased = [f"{name} is the run's own reward model, which" for name in among(run, judge)]
    pleased += [
        f"{one.cfg.judge} is a judge that tune.rewards names, which"
        for one in named_judges(run.config, run.config.evaluate)
        if one.cfg.judge in rewarding
    ]
    if pleased:
        found["caution"] = (
            f"{pleased[0]} the policy was trained to please: its verdict shows how far that went, not that the answers "
            "are better."
        )
        progress.say(f"evaluate: {found['caution']}")
    return found


def among(run: Run, judge: Judge) -> list[str]:
    """The judges that are the run's own reward model, where the policy is trained to please that."""
    return [one.name for one in reward_judges(judge) if is_own(run, one.identity)]


def is_own(run: Run, identity: Mapping[str, Any]) -> bool:
    """Whether a model of this identity is the run's own reward model, wherever a copy of it stands, and rewards."""
    if "model" not in _rewards(run.config):
        return False
    taken = run.facts("fit").get("reward_model") or {}
    own = {models.identity(str(run.reward_model_path))["weights_sha256"], taken.get("weights_sha256")}
    return identity["weights_sha256"] in own


def _how(config: Config) -> str:
    return f"name another judge in {_table(config)}"


def _table(config: Config) -> str:
    """The table that names who chooses the step."""
    return "evaluate" if config.chooser is config.evaluate else "rank"


def _rewards_by_judge(config: Config) -> bool:
    return "judge" in _rewards(config)


def _rewarding(config: Config) -> set[str]:
    """The judges that reward the policy, as settings name them."""
    rewards = _rewards(config)
    judges = {one.cfg.judge for one in named_judges(config, config.rank)} if "judge" in rewards else set()
    return judges | ({rubric.NAME} & rewards)


def _rewards(config: Config) -> set[str]:
    tune = as_read(config.tune)
    return {reward.name for reward in tune.rewards} if is_online(tune.algorithm) else set()


def _are_one(model: str, other: str) -> bool:
    if endpoints.folder_of(model) == endpoints.folder_of(other):
        return True
    if not (Path(model).is_dir() and Path(other).is_dir()):
        return False
    return models.identity(model)["weights_sha256"] == models.identity(other)["weights_sha256"]
