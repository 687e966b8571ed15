"""fit: rankings -> a K-wise reward model."""

import math
from pathlib import Path

import pytest
import torch
from killed import Killed
from made_rankings import example, ranking, rankings
from tolerances import CLOSE

from starling import metrics, models
from starling.config import FitTable
from starling.errors import DataError, StopStage
from starling.examples import examples_of
from starling.metrics import Recorder
from starling.models import Model
from starling.objective import Objective
from starling.records import Ranking
from starling.stages import fit


def test_every_epoch_takes_every_example_once_in_an_order_of_its_own() -> None:
    examples = [example(told) for told in rankings(20)]
    plan = fit.plan_steps(FitTable(epochs=2, prompts_per_step=8), examples, 1)
    assert [len(step) for step in plan] == [8, 8, 4, 8, 8, 4]
    first, second = ([index for step in plan[start : start + 3] for index in step] for start in (0, 3))
    assert sorted(first) == sorted(second) == list(range(20))
    assert first != second
    assert plan == fit.plan_steps(FitTable(epochs=2, prompts_per_step=8), examples, 1)
    assert plan != fit.plan_steps(FitTable(epochs=2, prompts_per_step=8), examples, 2)


@pytest.mark.parametrize(("budget", "steps"), [(0, 6), (19, 0), (20, 1), (39, 1), (40, 2), (100, 6), (99, 5)])
def test_no_step_is_begun_that_would_pass_the_token_budget(budget: int, steps: int) -> None:
    # 5 examples of 7 + 3 = 10 tokens, two to a step: 20 + 20 + 10 tokens an epoch, two epochs
    examples = [example(told, size=7) for told in rankings(5)]
    plan = fit.plan_steps(FitTable(epochs=2, prompts_per_step=2, token_budget=budget), examples, 1)
    assert len(plan) == steps


@pytest.mark.parametrize(
    ("warmup", "expected"),
    [(0.0, [1, 3 / 4, 2 / 4, 1 / 4]), (0.5, [1 / 2, 1, 2 / 3, 1 / 3]), (0.1, [1, 3 / 4, 2 / 4, 1 / 4])],
)
def test_the_rate_rises_to_one_and_falls_to_zero_after_the_last_step(warmup: float, expected: list[float]) -> None:
    assert [fit._schedule(step, 4, warmup) for step in (1, 2, 3, 4)] == pytest.approx(expected)


def gradient(tiny_model: Path, told: list[Ranking], tokens: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    model = models.new_reward_model(str(tiny_model))
    torch.nn.init.normal_(model.network.score.weight)
    examples, _ = examples_of(model, told)
    optimiser = torch.optim.SGD(model.network.parameters(), lr=0.0)
    table = FitTable(microbatch_tokens=tokens, centring_coef=0.01)
    fit._step(table, Objective(table, model.network, examples, 1), model.network, optimiser, examples)
    return {name: weight.grad for name, weight in model.network.named_parameters()}


def test_the_gradient_does_not_depend_on_the_microbatches(tiny_model: Path) -> None:
    told = [*rankings(5), ranking("pair", ["wet", "dry"], [1, 2])]
    whole, parted = gradient(tiny_model, told, 100_000), gradient(tiny_model, told, 64)
    assert sum(float(grad.square().sum()) for grad in whole.values()) > 0.1
    for name, grad in whole.items():
        assert torch.allclose(parted[name], grad, atol=0.02 * float(grad.abs().max()), rtol=0), name  # bfloat16


def test_nll_of_the_first_step_is_that_of_equal_rewards(tiny_model: Path) -> None:
    model = models.new_reward_model(str(tiny_model))
    examples, _ = examples_of(model, [*rankings(3), ranking("pair", ["wet", "dry"], [1, 2])])
    objective = Objective(FitTable(), model.network, examples, 1)
    optimiser = torch.optim.SGD(model.network.parameters(), lr=0.0)
    found = fit._step(FitTable(), objective, model.network, optimiser, examples)
    # the head is zero: log 3! for each of three, log 2! for one, over 2 + 2 + 2 + 1 places; every pair is half right
    assert found["nll"] == pytest.approx((3 * math.log(6) + math.log(2)) / 7, abs=CLOSE)
    assert found["pair_accuracy"] == 0.5


def test_only_the_last_layers_are_trained_if_so_wanted(reward_model: Model) -> None:
    fit._freeze(reward_model.network, 1)
    trained = {name for name, weight in reward_model.network.named_parameters() if weight.requires_grad}
    assert {name.split(".")[2] for name in trained if ".layers." in name} == {"3"}
    assert {name for name in trained if ".layers." not in name} == {"model.norm.weight", "score.weight"}


SMALL = FitTable(learning_rate=3e-3, epochs=2, prompts_per_step=2, weight_decay=0.01, checkpoint_seconds=1e-9)


def run_fit(tiny_model: Path, folder: Path, recorder: Recorder) -> dict:
    folder.mkdir(exist_ok=True)
    return fit.fit(SMALL, str(tiny_model), rankings(7), rankings(9)[7:], folder, recorder, seed=1)


def test_a_run_that_was_killed_goes_on_bit_for_bit(tiny_model: Path, tmp_path: Path) -> None:
    facts = run_fit(tiny_model, tmp_path / "whole", Recorder(tmp_path / "whole.jsonl", "fit"))
    with pytest.raises(KeyboardInterrupt):
        run_fit(tiny_model, tmp_path / "cut", Killed(tmp_path / "cut.jsonl", "fit", 6))
    assert (tmp_path / "cut" / "checkpoint.pt").exists()
    assert not (tmp_path / "cut" / "model").exists()
    again = run_fit(tiny_model, tmp_path / "cut", Recorder(tmp_path / "cut.jsonl", "fit"))
    assert (again, again["steps"]) == (facts, 8)
    assert metrics.read(tmp_path / "cut.jsonl") == metrics.read(tmp_path / "whole.jsonl")
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]
    assert not (tmp_path / "cut" / "checkpoint.pt").exists()


def test_fit_learns_what_the_rankings_have_in_common(tiny_model: Path, tmp_path: Path) -> None:
    table = SMALL.model_copy(update={"epochs": 8})
    recorder = Recorder(tmp_path / "metrics.jsonl", "fit")
    fit.fit(table, str(tiny_model), rankings(7), rankings(9)[7:], tmp_path, recorder, seed=1)
    lines = metrics.read(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 33))
    assert lines[0]["fit/nll"] == pytest.approx(math.log(6) / 2, abs=1e-5)
    assert lines[-1]["fit/nll"] < 0.5 * lines[0]["fit/nll"]
    assert lines[-1]["fit/held_out_pair_accuracy"] > 0.6


@pytest.mark.parametrize(
    ("told", "message"),
    [([], "none of 0 rankings can be used: there are none"), (["tied"], "none of 1 .*: all answers are tied")],
    ids=["none", "tied"],
)
def test_nothing_to_learn_from_is_a_plain_error(tiny_model: Path, tmp_path: Path, told: list, message: str) -> None:
    told = [ranking(name, ["wet", "dry"], [1, 1]) for name in told]
    with pytest.raises(DataError, match=message):
        fit.fit(SMALL, str(tiny_model), told, [], tmp_path, Recorder(tmp_path / "metrics.jsonl", "fit"), seed=1)


def test_a_budget_below_one_step_is_a_plain_error(tiny_model: Path, tmp_path: Path) -> None:
    table = SMALL.model_copy(update={"token_budget": 5})
    with pytest.raises(StopStage, match=r"fit\.token_budget = 5 does not cover one step"):
        fit.fit(table, str(tiny_model), rankings(3), [], tmp_path, Recorder(tmp_path / "m.jsonl", "fit"), seed=1)
