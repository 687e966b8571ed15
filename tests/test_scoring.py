"""A reward model as the judge of pairs."""

from pathlib import Path
from typing import Any

import pytest

from starling import builtin, models, reward
from starling.benches import scoring
from starling.judges.parse import Ranked, Tied, Unparsed

ASKED = [{"role": "user", "content": "what is the name of the river?"}]
OTHER = [*ASKED, {"role": "assistant", "content": "no"}, {"role": "user", "content": "and the town?"}]


def test_only_a_model_with_a_head_for_rewards_is_a_reward_model(
    tiny_model: Path, reward_model: Any, tmp_path: Path
) -> None:
    models.save(reward_model, tmp_path / "rm")
    assert scoring.is_reward_model(str(tmp_path / "rm")) and not scoring.is_reward_model(str(tiny_model))
    (tmp_path / "manifest.json").write_text("{}")
    assert not scoring.is_reward_model(str(tmp_path)) and not scoring.is_reward_model("openai:m@http://x/v1")


def test_nothing_is_fetched_to_know_that_the_built_in_model_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin, "path", lambda: pytest.fail("fetched"))
    assert not scoring.is_reward_model("smollm2")


def test_the_higher_reward_wins_each_answer_in_its_own_conversation(reward_model: Any, tmp_path: Path) -> None:
    models.save(reward_model, tmp_path / "rm")
    pairs = [((ASKED, "the rain"), (OTHER, "the town")), ((ASKED, "a"), (ASKED, "a")), ((ASKED, " "), (ASKED, "a"))]
    won, tied, unread = (one.verdict for one in scoring.compare(str(tmp_path / "rm"), pairs))
    scorer = reward.load_reward_model(str(tmp_path / "rm"))
    (one,), (other,) = scorer.score([ASKED, OTHER], [["the rain"], ["the town"]])
    assert one != other and won == Ranked([0, 1] if one > other else [1, 0])
    assert tied == Tied([[0, 1]]) and isinstance(unread, Unparsed)
    turned = scoring.compare(str(tmp_path / "rm"), [pairs[0][::-1]])[0].verdict
    assert isinstance(turned, Ranked) and turned.order == won.order[::-1]
