"""fit: rankings -> a K-wise reward model."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from killed import Killed
from made_rankings import example, ranking, rankings
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tolerances import CLOSE

from starling import accuracy, metrics, models
from starling.checkpoint import Checkpoint
from starling.config import FitTable
from starling.errors import DataError, StarlingError, StopStage
from starling.examples import Example, examples_of
from starling.looks import Looks
from starling.metrics import Recorder
from starling.models import Model
from starling.objective import Objective
from starling.records import Ranking
from starling.stages import fit
from starling.trainable import Trainable


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
    cfg = FitTable(epochs=2, prompts_per_step=2, token_budget=budget)
    assert len(fit.plan_steps(cfg, examples, 1)) == steps
    assert fit._ended_by(cfg, 5, steps, steps) == ("token_budget" if steps < 6 else "")


def gradient(tiny_model: Path, told: list[Ranking], **settings: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    model = models.new_reward_model(str(tiny_model))
    torch.nn.init.normal_(model.network.score.weight)
    examples, _ = examples_of(model, told)
    optimiser = torch.optim.SGD(model.network.parameters(), lr=0.0)
    cfg = FitTable(centring_coef=0.01, **settings)
    with fit._ready(cfg, model.network):
        fit._step(cfg, Objective(cfg, model.network, examples, 1), model.network, optimiser, examples)
    return {name: weight.grad for name, weight in model.network.named_parameters()}


def test_the_gradient_does_not_depend_on_the_microbatches(tiny_model: Path, products: torch.dtype) -> None:
    near = 1e-5 if products == torch.float32 else 0.02  # of the largest
    told = [*rankings(5), ranking("pair", ["wet", "dry"], [1, 2])]
    whole, parted = (
        gradient(tiny_model, told, microbatch_tokens=100_000),
        gradient(tiny_model, told, microbatch_tokens=64),
    )
    assert sum(float(grad.square().sum()) for grad in whole.values()) > 0.1
    for name, grad in whole.items():
        assert torch.allclose(parted[name], grad, atol=near * float(grad.abs().max()), rtol=0), name


def test_gradient_checkpointing_gives_the_same_gradient_bit_for_bit(tiny_model: Path) -> None:
    plain, checkpointed = (gradient(tiny_model, rankings(5), gradient_checkpointing=on) for on in (False, True))
    assert all(torch.equal(checkpointed[name], grad) for name, grad in plain.items())


@pytest.mark.parametrize(("on", "runs"), [(False, [1, 1, 1, 1]), (True, [1, 1, 2, 2])])
def test_with_gradient_checkpointing_trained_blocks_run_twice_and_frozen_ones_once(
    tiny_model: Path, on: bool, runs: list[int]
) -> None:
    cfg = FitTable(layers=2, gradient_checkpointing=on)
    model = models.new_reward_model(str(tiny_model))
    weights = Trainable(model.network, cfg, 1).weights
    examples, _ = examples_of(model, rankings(3))
    counts = [0] * 4
    needs_gradient = []
    for number, block in enumerate(model.network.model.layers):

        def count(_module: Any, inputs: Any, number: int = number) -> None:
            counts[number] += 1
            if number < 2:
                needs_gradient.append(inputs[0].requires_grad)

        block.mlp.register_forward_pre_hook(count)
    with fit._ready(cfg, model.network):
        optimiser = torch.optim.SGD(weights.values(), lr=0.0)
        fit._step(cfg, Objective(cfg, model.network, examples, 1), model.network, optimiser, examples)
    assert counts == runs
    assert needs_gradient == [False, False]


def test_steps_that_the_length_terms_do_not_see_whole_are_told(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, size in (("whole", 100_000), ("parted", 64)):
        recorder = Recorder(tmp_path / f"{name}.jsonl", "fit")
        run_fit(tiny_model, tmp_path / name, recorder, length_head=1.0, microbatch_tokens=size)
    told = [line for line in " ".join(capsys.readouterr().out.split()).split("fit: ") if "fit.length_head sees" in line]
    assert len(told) == 1
    assert told[0].startswith("6 of 8 steps take several microbatches")
    assert "raise fit.microbatch_tokens (64) to 89" in told[0]


def test_weights_and_gradients_are_float32_whatever_products_are(products: torch.dtype, reward_model: Model) -> None:
    dtypes = set()
    layer = reward_model.network.model.layers[0].mlp.up_proj
    layer.register_forward_hook(lambda module, inputs, output: dtypes.add(output.dtype))
    optimiser = torch.optim.AdamW(reward_model.network.parameters(), lr=1e-3, fused=True)
    examples, _ = examples_of(reward_model, rankings(3))
    objective = Objective(FitTable(), reward_model.network, examples, 1)
    fit._step(FitTable(), objective, reward_model.network, optimiser, examples)
    assert dtypes == {products}
    held = list(reward_model.network.parameters())
    held += [weight.grad for weight in held]
    held += [value for state in optimiser.state.values() for value in state.values()]
    assert {tensor.dtype for tensor in held} == {torch.float32}


class Told(torch.nn.Module):
    """A network whose reward for an answer stands in a list, at the place of the answer's last token."""

    device = torch.device("cpu")
    config = SimpleNamespace(max_position_embeddings=512)

    def __init__(self, rewards: list[float]) -> None:
        super().__init__()
        self.rewards = torch.nn.Parameter(torch.tensor(rewards))
        self.score = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.ones_(self.score.weight)

    @property
    def base_model(self) -> "Told":
        return self

    def get_input_embeddings(self) -> torch.nn.Embedding:
        return torch.nn.Embedding(512, 1)

    def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.rewards[input_ids][..., None])


def test_figures_of_a_step_by_hand() -> None:
    # Rewards 1, 4, -2 under ranks 2, 1, 3: margins 4 - 1, 1 + 2, 4 + 2. Rewards 0, 1 under ranks 1, 2: margin -1.
    # Pairs: 3 of 4 right, mean margin (3 + 3 + 6 - 1) / 4. Sums of rewards 3 and 1, squared 9 + 1, over 2 + 1 places.
    # nll: log(e^4 + e^1 + e^-2) - 4 = 0.0509458, log(e^1 + e^-2) - 1 = 0.0485874, log(e^0 + e^1) - 0 = 1.3132617
    network = Told([9.0, 1.0, 4.0, -2.0, 0.0, 1.0])
    told = [ranking("a", ["x", "y", "z"], [2, 1, 3]), ranking("b", ["x", "y"], [1, 2])]
    examples = [Example(told[0], [0], [[1], [2], [3]]), Example(told[1], [0], [[4], [5]])]
    optimiser = torch.optim.SGD(network.parameters(), lr=0.0)
    table = FitTable(centring_coef=0.5)
    found = fit._step(table, Objective(table, network, examples, 1), network, optimiser, examples)
    nll = (0.0509458 + 0.0485874 + 1.3132617) / 3
    assert found.pop("grad_norm") > 0
    assert found == pytest.approx({
        "nll": nll, "loss": nll + 0.5 * (9 + 1) / 3, "pair_accuracy": 3 / 4, "margin": 11 / 4,
        "min_reward": -2, "mean_reward": 4 / 5, "max_reward": 4,
    }, abs=CLOSE)  # fmt: skip


@pytest.mark.parametrize("clip", [0.5, 0.0])
def test_a_step_is_as_long_as_its_gradient_or_the_clip(clip: float) -> None:
    network = Told([9.0, 1.0, 4.0])
    examples = [Example(ranking("a", ["x", "y"], [1, 2]), [0], [[1], [2]])]  # the worse answer 3 ahead: a steep loss
    before = [weight.detach().clone() for weight in network.parameters()]
    table = FitTable(grad_clip=clip)
    optimiser = torch.optim.SGD(network.parameters(), lr=1.0)
    norm = fit._step(table, Objective(table, network, examples, 1), network, optimiser, examples)["grad_norm"]
    moves = [weight.detach() - old for weight, old in zip(network.parameters(), before, strict=True)]
    length = math.sqrt(sum(float(move.square().sum()) for move in moves))
    assert norm > 1
    assert length == pytest.approx(clip or norm, rel=1e-4)


def test_nll_of_the_first_step_is_that_of_equal_rewards(tiny_model: Path) -> None:
    model = models.new_reward_model(str(tiny_model))
    torch.nn.init.zeros_(model.network.score.weight)
    examples, _ = examples_of(model, [*rankings(3), ranking("pair", ["wet", "dry"], [1, 2])])
    objective = Objective(FitTable(), model.network, examples, 1)
    optimiser = torch.optim.SGD(model.network.parameters(), lr=0.0)
    found = fit._step(FitTable(), objective, model.network, optimiser, examples)
    # the head is zero: log 3! for each of three, log 2! for one, over 2 + 2 + 2 + 1 places; every pair is half right
    assert found["nll"] == pytest.approx((3 * math.log(6) + math.log(2)) / 7, abs=CLOSE)
    assert found["pair_accuracy"] == 0.5


SMALL = FitTable(learning_rate=3e-3, epochs=2, prompts_per_step=2, weight_decay=0.01, checkpoint_seconds=1e-9)
TOLD = rankings(7)
HELD_OUT = rankings(9)[7:]


def run_fit(tiny_model: Path, folder: Path, recorder: Recorder, held_out: Any = HELD_OUT, **settings: Any) -> dict:
    folder.mkdir(exist_ok=True)
    table = SMALL.model_copy(update=settings)
    return fit.fit(table, str(tiny_model), TOLD, held_out, folder, recorder, seed=1)


@pytest.mark.parametrize(
    ("step", "settings"),  # two epochs of four steps: killed before the edge, on it, after it
    [
        (2, {}),
        (5, {"lora_rank": 2, "keep": "best", "validate_every": 1}),
        (6, {"layers": 1, "gradient_checkpointing": True, "schedule": "cosine", "keep": "best", "validate_every": 2}),
    ],
    ids=["all", "lora", "last"],
)
def test_a_run_that_was_killed_goes_on_bit_for_bit(tiny_model: Path, tmp_path: Path, step: int, settings) -> None:
    facts = run_fit(tiny_model, tmp_path / "whole", Recorder(tmp_path / "whole.jsonl", "fit"), **settings)
    with pytest.raises(KeyboardInterrupt):
        run_fit(tiny_model, tmp_path / "cut", Killed(tmp_path / "cut.jsonl", "fit", step), **settings)
    assert (tmp_path / "cut" / "checkpoint.pt").exists()
    assert not (tmp_path / "cut" / "model").exists()
    torch.manual_seed(99)  # another process has another random state
    again = run_fit(tiny_model, tmp_path / "cut", Recorder(tmp_path / "cut.jsonl", "fit"), **settings)
    assert (again, again["steps"]) == (facts, 8)
    assert metrics.read(tmp_path / "cut.jsonl") == metrics.read(tmp_path / "whole.jsonl")
    files = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*.safetensors"))
    assert len(files) == (2 if "lora_rank" in settings else 1)
    for file in files:
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def other_base(tiny_model: Path, folder: Path) -> Path:
    """The same model with one weight changed."""
    shutil.copytree(tiny_model, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("other", ["settings", "rankings", "held-out rankings", "base weights"])
def test_another_fit_does_not_go_on_from_what_an_interrupted_one_left(
    tiny_model: Path, tmp_path: Path, other: str
) -> None:
    folder, seen = tmp_path / "run", tmp_path / "run.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run_fit(tiny_model, folder, Killed(seen, "fit", 3))
    before = seen.read_text()
    table = SMALL.model_copy(update={"learning_rate": 1e-3} if other == "settings" else {"checkpoint_seconds": 60})
    base = other_base(tiny_model, tmp_path / "base") if other == "base weights" else tiny_model
    told = [*TOLD[:-1], replace(TOLD[-1], ranks=[1, 2, 3])] if other == "rankings" else TOLD
    held_out = HELD_OUT[:1] if other == "held-out rankings" else HELD_OUT
    with pytest.raises(DataError, match=rf"checkpoint\.pt: was saved with other {other}; bring them back, or"):
        fit.fit(table, str(base), told, held_out, folder, Recorder(seen, "fit"), seed=1)
    assert (folder / "checkpoint.pt").exists() and seen.read_text() == before


def test_a_resumed_fit_draws_the_random_numbers_that_it_would_have_drawn(reward_model: Model, tmp_path: Path) -> None:
    cfg, checkpoint = FitTable(layers=1), Checkpoint(tmp_path / "checkpoint.pt", 0)
    part = Trainable(reward_model.network, cfg, 1)
    optimiser = torch.optim.AdamW(part.weights.values(), fused=True)
    checkpoint.save(fit._state(3, part, optimiser, Looks(cfg, 4)))
    expected = torch.rand(3)
    torch.manual_seed(99)
    assert fit._resume(checkpoint, part, optimiser, Looks(cfg, 4)) == 3
    assert torch.equal(torch.rand(3), expected)


def test_after_a_look_the_network_trains_on(reward_model: Model) -> None:
    tests, _ = examples_of(reward_model, HELD_OUT)
    with fit._ready(FitTable(), reward_model.network):
        accuracy.look(reward_model, tests, 2048)
        assert reward_model.network.training
    assert not reward_model.network.training


def looks(path: Path) -> dict[int, float]:
    lines = metrics.read(path)
    return {line["step"]: line["fit/held_out_pair_accuracy"] for line in lines if "fit/held_out_nll" in line}


def test_the_weights_of_the_best_look_are_saved(tiny_model: Path, tmp_path: Path) -> None:
    against = [replace(told, ranks=[2, 3, 1]) for told in HELD_OUT]  # what is learnt makes it worse
    settings = {"held_out": against, "validate_every": 1, "keep": "best"}
    facts = run_fit(tiny_model, tmp_path / "best", Recorder(tmp_path / "best.jsonl", "fit"), **settings)
    found = looks(tmp_path / "best.jsonl")
    best = max(found, key=lambda step: (found[step], -step))
    assert (facts["kept_step"], facts["steps"], facts["ended_by"]) == (best, 8, "")
    assert best < 8
    assert found[best] > found[8]
    assert facts["held_out"]["scores"][0]["value"] == pytest.approx(found[best], abs=CLOSE)
    # a run that is told to end there, at the same rates, ends with the same weights
    with pytest.raises(KeyboardInterrupt):
        run_fit(tiny_model, tmp_path / "cut", Killed(tmp_path / "cut.jsonl", "fit", best + 1), **settings)
    state = torch.load(tmp_path / "cut" / "checkpoint.pt", weights_only=True)["state"]
    saved = load_file(tmp_path / "best" / "model" / "model.safetensors")
    assert state["step"] == best
    assert all(torch.equal(saved[name], weight) for name, weight in state["weights"].items())


def test_training_ends_after_so_many_looks_without_gain(tiny_model: Path, tmp_path: Path) -> None:
    settings = {"learning_rate": 0.05, "epochs": 8, "validate_every": 2, "patience": 2}
    facts = run_fit(tiny_model, tmp_path / "run", Recorder(tmp_path / "run.jsonl", "fit"), **settings)
    found = looks(tmp_path / "run.jsonl")
    best = max(found, key=lambda step: (found[step], -step))
    assert facts["steps"] == facts["kept_step"] == max(found) == best + 2 * 2 < 32
    assert facts["ended_by"] == "patience"
    assert [line["step"] for line in metrics.read(tmp_path / "run.jsonl")] == list(range(1, facts["steps"] + 1))
    assert facts["tokens"] == metrics.read(tmp_path / "run.jsonl")[-1]["fit/num_tokens"]


@pytest.mark.parametrize("settings", [{"keep": "best"}, {"patience": 1}], ids=["best", "patience"])
def test_a_choice_by_held_out_rankings_without_any_is_a_plain_error(tiny_model: Path, tmp_path: Path, settings) -> None:
    table, recorder = SMALL.model_copy(update=settings), Recorder(tmp_path / "metrics.jsonl", "fit")
    with pytest.raises(DataError, match="look at held-out rankings, of which there are none; hold some out"):
        fit.fit(table, str(tiny_model), TOLD, [], tmp_path, recorder, seed=1)


def test_a_gradient_that_is_not_a_number_stops_the_fit(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(StarlingError, match=r"fit: step \d+: the gradient is not a number; lower fit\.learning_rate"):
        run_fit(tiny_model, tmp_path, Recorder(tmp_path / "metrics.jsonl", "fit"), learning_rate=1e30)


def test_lora_leaves_a_merged_model_and_an_adapter_that_agree(tiny_model: Path, tmp_path: Path) -> None:
    settings = {"lora_rank": 4, "learning_rate": 1e-2, "epochs": 3}
    run_fit(tiny_model, tmp_path, Recorder(tmp_path / "metrics.jsonl", "fit"), **settings)
    lines = metrics.read(tmp_path / "metrics.jsonl")
    assert lines[-1]["fit/nll"] < 0.7 * lines[0]["fit/nll"]
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    merged = models.load_reward_model(str(tmp_path / "model"))
    base = models.new_reward_model(str(tiny_model))
    adapted = PeftModel.from_pretrained(base.network, str(tmp_path / "adapter")).merge_and_unload()
    for name, weight in merged.network.state_dict().items():
        assert torch.allclose(adapted.state_dict()[name], weight, atol=CLOSE, rtol=0), name


def test_adapters_are_the_same_bit_for_bit_with_gradient_checkpointing(tiny_model: Path, tmp_path: Path) -> None:
    saved = []
    for on in (False, True):
        folder = tmp_path / str(on)
        recorder = Recorder(tmp_path / f"{on}.jsonl", "fit")
        run_fit(tiny_model, folder, recorder, lora_rank=4, learning_rate=1e-2, gradient_checkpointing=on)
        saved.append((folder / "adapter" / "adapter_model.safetensors").read_bytes())
    assert saved[0] == saved[1]


def test_fit_learns_what_the_rankings_have_in_common(tiny_model: Path, tmp_path: Path) -> None:
    table = SMALL.model_copy(update={"epochs": 8})
    recorder = Recorder(tmp_path / "metrics.jsonl", "fit")
    fit.fit(table, str(tiny_model), rankings(7), rankings(9)[7:], tmp_path, recorder, seed=1)
    lines = metrics.read(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 33))
    assert lines[0]["fit/nll"] == pytest.approx(math.log(6) / 2, abs=0.3)  # that of equal rewards, and a drawn head
    assert lines[-1]["fit/nll"] < 0.5 * lines[0]["fit/nll"]
    assert lines[-1]["fit/held_out_pair_accuracy"] > 0.6


def test_dropout_of_attention_is_left_off_and_told(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dropping = tmp_path / "dropping"
    shutil.copytree(tiny_model, dropping)
    told = json.loads((dropping / "config.json").read_text())
    (dropping / "config.json").write_text(json.dumps(told | {"attention_dropout": 0.5}))
    weights = []
    for model, lines in ((tiny_model, 0), (dropping, 1)):
        run_fit(model, tmp_path / "run", Recorder(tmp_path / "run.jsonl", "fit"))
        assert capsys.readouterr().out.count("fit: attention_dropout = 0.5 of the model's config.json") == lines
        weights.append((tmp_path / "run" / "model" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ([], "none of 0 rankings to train on can be used: there are none"),
        (["tied"], "none of 1 .*: all answers are tied"),
    ],
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
