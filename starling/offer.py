"""RUN|MODEL -> what there is to try: a policy, a reward model, or both."""

from dataclasses import dataclass
from pathlib import Path

from starling import models, progress
from starling.errors import UsageError
from starling.store import Run, is_run


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """MODELs to load, "" where there is none, and the names by which a client asks for them."""

    policy: str
    reward: str
    policy_name: str = ""
    reward_name: str = ""


def find(source: str, reward: str = "") -> Offer:
    """What a run or a MODEL offers: a run its tuned policy and reward model, a classifier its rewards.

    `reward` names a reward model beside it, in place of the run's own.
    """
    policy = source
    name = Path(source).resolve().name if Path(source).is_dir() else source
    if is_run(source):
        policy, found = _of_run(Run.read(Path(source)))
        reward = reward or found
        if not policy:
            progress.say(f"{source}: tune is not done, so only its reward model is there")
    elif models.is_reward_model(source):
        if reward:
            raise UsageError(f"serve: {source} is a reward model itself; --reward goes beside a policy or a run")
        policy, reward = "", source
    if not reward:
        return Offer(policy=policy, reward="", policy_name=name)
    reward_name = name if reward == source else f"{name}-reward"
    return Offer(policy=policy, reward=reward, policy_name=name if policy else "", reward_name=reward_name)


def policy_of(source: str) -> str:
    """The MODEL that a person talks to: the tuned policy of a run, or the MODEL itself."""
    if not is_run(source):
        if models.is_reward_model(source):
            raise UsageError(f"{source} is a reward model, which does not speak; give a policy")
        return source
    policy, _reward = _of_run(Run.read(Path(source)))
    if not policy:
        raise UsageError(f"tune is not done in {source}; run `starling run --run {source} --until tune`")
    return policy


def _of_run(run: Run) -> tuple[str, str]:
    """The tuned policy and the reward model of a run, as far as it has come; damaged ones are refused."""
    done = [stage for stage in ("fit", "tune") if run.is_done(stage)]
    if not done:
        raise UsageError(
            f"run: neither fit nor tune is done in {run.root}, so there is nothing to try; "
            f"run `starling run --run {run.root}`"
        )
    run.refuse_damage(done)
    policy = str(run.policy_path) if "tune" in done else ""
    return policy, str(run.reward_model_path) if "fit" in done else ""
