"""A reward model for people's own answers: scaled rewards and spreads."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from made_rankings import rankings
from small_road import write_lines
from tolerances import CLOSE

import starling
from starling import data_files, models, own_files, reward_scale, uncertainty
from starling.config import FitTable
from starling.errors import ModelError
from starling.metrics import Recorder
from starling.records import Message
from starling.reward import LONG, Question
from starling.stages import fit
from starling.uncertainty import Uncertainty

PROMPTS, ANSWERS = ["what?", "rain?"], [["the rain", "no", "town"], ["yes"]]


@pytest.fixture(scope="module")
def fitted(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model from `fit` with a scale and an uncertainty."""
    folder = tmp_path_factory.mktemp("fitted")
    table = FitTable(learning_rate=3e-3, prompts_per_step=2, laplace_prior=1.0)
    facts = fit.fit(
        table, str(tiny_model), rankings(8), rankings(12)[8:], folder, Recorder(folder / "m", "fit"), seed=1
    )
    assert facts["reward_scale"]["answers"] == 12
    return folder / "model"


@pytest.fixture
def plain(fitted: Path, tmp_path: Path) -> Path:
    """The same without either."""
    folder = tmp_path / "plain"
    shutil.copytree(fitted, folder)
    (folder / uncertainty.FILE).unlink()
    config = json.loads((folder / "config.json").read_text())
    del config[reward_scale.KEY]
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_raw_rewards_stay_as_they_are_unless_asked(fitted: Path, plain: Path) -> None:
    raw = starling.load_reward_model(fitted).score(PROMPTS, ANSWERS)
    assert raw == starling.load_reward_model(plain).score(PROMPTS, ANSWERS)
    assert [len(row) for row in raw] == [3, 1]


def test_scaled_rewards_are_less_the_offset_over_the_scale(fitted: Path) -> None:
    judge = starling.load_reward_model(fitted)
    saved = json.loads((fitted / "config.json").read_text())[reward_scale.KEY]
    offset, scale = saved["offset"], saved["scale"]
    raw, scaled = judge.score(PROMPTS, ANSWERS), judge.score(PROMPTS, ANSWERS, scaled=True)
    assert scaled == [pytest.approx([(r - offset) / scale for r in row], abs=CLOSE) for row in raw]
    assert scaled != raw


def test_offset_and_scale_are_mean_and_deviation_of_the_held_out_rewards(fitted: Path) -> None:
    held_out = rankings(12)[8:]
    texts = [[answer.answer for answer in one.answers] for one in held_out]
    found = starling.load_reward_model(fitted).score([one.messages for one in held_out], texts)
    rewards = torch.tensor([reward for row in found for reward in row], dtype=torch.float64)
    saved = json.loads((fitted / "config.json").read_text())[reward_scale.KEY]
    assert saved["offset"] == pytest.approx(rewards.mean().item(), abs=CLOSE)
    assert saved["scale"] == pytest.approx(rewards.std().item(), rel=1e-4)


def test_spreads_are_those_of_the_saved_posterior(fitted: Path) -> None:
    judge = starling.load_reward_model(fitted)
    found = judge.score_with_spread(PROMPTS, ANSWERS)
    assert [[scored.reward for scored in row] for row in found] == judge.score(PROMPTS, ANSWERS)
    spreads = [scored.spread for row in found for scored in row]
    assert all(0 < spread < 100 for spread in spreads)
    assert len(set(spreads)) == 4
    alone = judge.score_with_spread(PROMPTS[:1], [["no"]])
    assert alone[0][0].spread == pytest.approx(found[0][1].spread, abs=CLOSE)


def test_a_damaged_scale_is_told(fitted: Path, tmp_path: Path) -> None:
    shutil.copytree(fitted, tmp_path / "damaged")
    config = json.loads((fitted / "config.json").read_text())
    (tmp_path / "damaged" / "config.json").write_text(json.dumps(config | {reward_scale.KEY: {"offset": "x"}}))
    judge = starling.load_reward_model(tmp_path / "damaged")
    assert judge.score(PROMPTS, ANSWERS)
    with pytest.raises(ModelError, match=r"damaged: starling_reward_scale in its config.json is damaged"):
        judge.score(PROMPTS, ANSWERS, scaled=True)


def test_a_scaled_spread_has_the_scaled_rewards_unit(fitted: Path) -> None:
    judge = starling.load_reward_model(fitted)
    scale = json.loads((fitted / "config.json").read_text())[reward_scale.KEY]["scale"]
    raw, scaled = (judge.score_with_spread(PROMPTS, ANSWERS, scaled=by) for by in (False, True))
    assert scaled[0][1].spread == pytest.approx(raw[0][1].spread / scale, rel=1e-5)


def test_what_a_model_does_not_have_is_a_plain_error(plain: Path) -> None:
    judge = starling.load_reward_model(plain)
    with pytest.raises(ModelError, match=r"has no uncertainty\.safetensors; fit it with fit\.laplace_prior"):
        judge.score_with_spread(PROMPTS, ANSWERS)
    with pytest.raises(ModelError, match=r"has no starling_reward_scale in its config\.json"):
        judge.score(PROMPTS, ANSWERS, scaled=True)


def test_an_uncertainty_of_other_weights_is_refused(fitted: Path, plain: Path) -> None:
    head = models.load_reward_model(str(plain)).network.score.weight[0].detach()
    uncertainty.save(Uncertainty(torch.eye(32), torch.zeros(32), head + 1), plain)
    with pytest.raises(ModelError, match="belongs to other weights"):
        starling.load_reward_model(plain)


def test_the_file_of_scores_has_spreads_where_there_are_any(fitted: Path, plain: Path, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [{"prompt": "what?", "answers": ["the rain", "no"]}])
    rows = {}
    for model, scaled in ((fitted, False), (fitted, True), (plain, False)):
        own_files.score(str(model), source, tmp_path / "out.jsonl", scaled=scaled)
        rows[model, scaled] = data_files.read_rows(tmp_path / "out.jsonl")[0]
    assert rows[fitted, False]["rewards"] == rows[plain, False]["rewards"]
    assert "spreads" not in rows[plain, False]
    expected = starling.load_reward_model(fitted).score_with_spread(["what?"], [["the rain", "no"]], scaled=True)[0]
    assert rows[fitted, True]["rewards"] == [scored.reward for scored in expected]
    assert rows[fitted, True]["spreads"] == [scored.spread for scored in expected]
    assert rows[fitted, False]["spreads"] != rows[fitted, True]["spreads"]


def test_bfloat16_scores_nearly_the_same(plain: Path) -> None:
    exact = starling.load_reward_model(plain).score(PROMPTS, ANSWERS)
    rough = starling.load_reward_model(plain, "bfloat16").score(PROMPTS, ANSWERS)
    spread = max(map(max, exact)) - min(map(min, exact))
    assert rough != exact
    assert all(row == pytest.approx(other, abs=0.05 * spread) for row, other in zip(rough, exact, strict=True))


def test_a_conversation_may_take_the_whole_window_and_no_more(fitted: Path) -> None:
    found = starling.load_reward_model(str(fitted))
    question = Question(messages=[Message(role="user", content="what?")], answers=["rain"], finished=[True], where="p")
    shared, (answer,) = found._pack(question)
    config = found._model.network.config
    config.max_position_embeddings = len(shared) + len(answer)
    assert found.refusal(question) is None
    config.max_position_embeddings -= 1
    refused = found.refusal(question)
    assert refused is not None and refused.reason == LONG
