"""The reward's offset and scale in the reward model's config."""

import math
from pathlib import Path

import pytest
from tolerances import EXACT
from transformers import AutoModelForSequenceClassification, LlamaConfig

from starling import models, reward_scale
from starling.models import Model


def test_mean_and_deviation_over_all_held_out_answers_by_hand() -> None:
    # mean 3; squared distances 4 + 1 + 0 + 9, over 4 - 1
    config = LlamaConfig()
    found = reward_scale.store(config, [[1.0, 2.0], [3.0, 6.0]])
    assert found == {"offset": 3.0, "scale": pytest.approx(math.sqrt(14 / 3), abs=EXACT), "answers": 4}
    assert reward_scale.read(config) == (3.0, pytest.approx(math.sqrt(14 / 3), abs=EXACT), 4)


@pytest.mark.parametrize("rewards", [[], [[2.0]], [[2.0, 2.0], [2.0]], [[math.nan, 1.0]]], ids=str)
def test_where_rewards_do_not_vary_there_is_no_scale_and_an_old_one_goes(rewards) -> None:
    config = LlamaConfig()
    reward_scale.store(config, [[1.0, 2.0]])
    assert reward_scale.store(config, rewards) is None
    assert reward_scale.read(config) is None
    assert reward_scale.store(config, rewards) is None


def test_it_survives_saving_and_loading_here_and_elsewhere(reward_model: Model, tmp_path: Path) -> None:
    reward_scale.store(reward_model.network.config, [[1.0, 2.0], [3.0, 6.0]])
    models.save(reward_model, tmp_path / "ours")
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    expected = reward_scale.read(reward_model.network.config)
    assert expected is not None
    for name in ("ours", "theirs"):
        config = AutoModelForSequenceClassification.from_pretrained(tmp_path / name).config
        assert reward_scale.read(config) == expected
