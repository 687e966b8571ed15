"""What a run or a model offers to try."""

from pathlib import Path
from typing import Any

import pytest
import runs

from starling import models, offer
from starling.errors import DataError, UsageError
from starling.offer import Offer


@pytest.fixture
def scorer(reward_model: Any, tmp_path: Path) -> Path:
    models.save(reward_model, tmp_path / "scorer")
    return tmp_path / "scorer"


def test_a_model_speaks_and_a_classifier_scores(tiny_model: Path, scorer: Path) -> None:
    assert offer.find(str(tiny_model)) == Offer(policy=str(tiny_model), reward="", policy_name=tiny_model.name)
    assert offer.find(str(scorer)) == Offer(policy="", reward=str(scorer), reward_name="scorer")
    both = offer.find(str(tiny_model), str(scorer))
    assert (both.policy, both.reward) == (str(tiny_model), str(scorer))
    assert (both.policy_name, both.reward_name) == (tiny_model.name, f"{tiny_model.name}-reward")
    with pytest.raises(UsageError, match="is a reward model itself"):
        offer.find(str(scorer), str(scorer))


def test_a_run_offers_its_tuned_policy_and_its_reward_model(tmp_path: Path) -> None:
    run = runs.make(tmp_path / "mine")
    found = offer.find(str(run.root))
    assert found == Offer(
        policy=str(run.root / "tune" / "policy"), reward=str(run.root / "fit" / "model"), policy_name="mine",
        reward_name="mine-reward",
    )  # fmt: skip
    assert offer.find(str(run.root), "other").reward == "other"
    assert offer.policy_of(str(run.root)) == found.policy


def test_a_run_on_its_way_offers_what_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fitted = runs.make(tmp_path / "fitted", runs.ALL[:4])
    found = offer.find(str(fitted.root))
    assert (found.policy, found.policy_name, found.reward_name) == ("", "", "fitted-reward")
    assert "tune is not done" in capsys.readouterr().out
    with pytest.raises(UsageError, match="tune is not done in"):
        offer.policy_of(str(fitted.root))
    begun = runs.make(tmp_path / "begun", runs.ALL[:2])
    with pytest.raises(UsageError, match="neither fit nor tune is done"):
        offer.find(str(begun.root))


def test_a_run_whose_model_was_changed_is_refused(tmp_path: Path) -> None:
    run = runs.make(tmp_path / "mine")
    (run.root / "tune" / "weights").write_text("first")
    run.finished("tune", run.facts("tune"))
    (run.root / "tune" / "weights").write_text("second")
    with pytest.raises(DataError, match="missing or changed"):
        offer.find(str(run.root))


def test_a_reward_model_does_not_speak(scorer: Path) -> None:
    with pytest.raises(UsageError, match="does not speak"):
        offer.policy_of(str(scorer))
