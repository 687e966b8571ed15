"""fit: rankings -> a K-wise reward model, with what it gets right on rankings it never saw."""

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from starling import (
    accuracy,
    data_files,
    device,
    model_card,
    models,
    packing,
    progress,
    reward_scale,
    tables,
    uncertainty,
)
from starling.checkpoint import Checkpoint
from starling.config import FitTable
from starling.errors import DataError, StopStage
from starling.examples import Example, examples_of
from starling.metrics import Recorder
from starling.models import Model
from starling.objective import Objective, num_places
from starling.records import Ranking
from starling.store import Run, replace_folder


def run(run: Run) -> dict[str, Any]:
    """Write the reward model to `fit/model`."""
    rankings = tables.rankings_of(run, tables.prompts_of(run, "train"))
    held_out = tables.rankings_of(run, tables.prompts_of(run, "validation"))
    folder = run.folder("fit")
    recorder = Recorder(run.metrics_path, "fit")
    return fit(run.config.fit, run.config.run.model, rankings, held_out, folder, recorder, seed=run.config.run.seed)


def fit(
    cfg: FitTable,
    base: str,
    rankings: Sequence[Ranking],
    held_out: Sequence[Ranking],
    folder: Path,
    recorder: Recorder,
    *,
    seed: int,
) -> dict[str, Any]:
    """Train on `rankings`, report on `held_out`, write `folder/model`; returns the facts."""
    model = models.new_reward_model(base)
    examples, unusable = examples_of(model, rankings)
    tests, unusable_tests = examples_of(model, held_out)
    if unusable or unusable_tests:
        data_files.write_jsonl(folder / "unusable.jsonl", [*unusable, *unusable_tests])
    if not examples:
        reasons = ", ".join(sorted({row["reason"] for row in unusable})) or "there are none"
        raise DataError(f"fit: none of {len(rankings)} rankings can be used: {reasons}")
    plan = plan_steps(cfg, examples, seed)
    if not plan:
        raise StopStage(f"fit: fit.token_budget = {cfg.token_budget:,} does not cover one step; raise it")
    objective = Objective(cfg, model.network, examples, seed)
    _train(cfg, model, objective, (examples, tests), plan, folder, recorder)
    scored = accuracy.score(model, tests, cfg.microbatch_tokens)
    facts = {
        "rankings": len(examples),
        "unusable": dict(Counter(row["reason"] for row in [*unusable, *unusable_tests])),
        "steps": len(plan),
        "tokens": sum(examples[index].size for step in plan for index in step),
        "held_out": accuracy.figures(tests, scored) if tests else None,
        "weights": objective.weight_facts(examples),
        "reward_scale": reward_scale.store(model.network.config, scored),
    }
    partial = folder / "model.partial"
    shutil.rmtree(partial, ignore_errors=True)
    models.save(model, partial)
    if cfg.laplace_prior:
        uncertainty.save(uncertainty.fit(model, examples, cfg.laplace_prior, cfg.microbatch_tokens), partial)
    model_card.write(partial, cfg, base, rankings, held_out, facts, seed=seed)
    replace_folder(partial, folder / "model")
    Checkpoint(folder / "checkpoint.pt", 0).remove()
    return facts


def plan_steps(cfg: FitTable, examples: Sequence[Example], seed: int) -> list[list[int]]:
    """Which examples each optimiser step takes: every epoch in an order of its own, up to the token budget."""
    plan: list[list[int]] = []
    tokens = 0
    for epoch in range(cfg.epochs):
        order = torch.randperm(len(examples), generator=device.generator(seed, "fit", epoch)).tolist()
        for start in range(0, len(order), cfg.prompts_per_step):
            step = order[start : start + cfg.prompts_per_step]
            tokens += sum(examples[index].size for index in step)
            if cfg.token_budget and tokens > cfg.token_budget:
                return plan
            plan.append(step)
    return plan


def _train(
    cfg: FitTable,
    model: Model,
    objective: Objective,
    rankings: tuple[Sequence[Example], Sequence[Example]],
    plan: Sequence[Sequence[int]],
    folder: Path,
    recorder: Recorder,
) -> None:
    network, (examples, tests) = model.network, rankings
    _freeze(network, cfg.layers)
    trained = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    trained |= objective.weights
    optimiser = torch.optim.AdamW(trained.values(), lr=cfg.learning_rate, weight_decay=cfg.weight_decay, fused=True)
    checkpoint = Checkpoint(folder / "checkpoint.pt", cfg.checkpoint_seconds)
    state = checkpoint.load()
    first = 0
    if state is not None:
        first = state["step"]
        with torch.no_grad():
            for name, weight in trained.items():
                weight.copy_(state["weights"][name])
        optimiser.load_state_dict(state["optimiser"])
    recorder.rewind(first)
    total = sum(examples[index].size for step in plan for index in step)
    with progress.track("fit", total, "tokens") as advance:
        advance(sum(examples[index].size for step in plan[:first] for index in step))
        for number, step in enumerate(plan[first:], first + 1):
            for group in optimiser.param_groups:
                group["lr"] = cfg.learning_rate * _schedule(number, len(plan), cfg.warmup)
            metrics = _step(cfg, objective, network, optimiser, [examples[index] for index in step])
            if tests and (number % max(1, len(plan) // 4) == 0 or number == len(plan)):
                metrics |= _validate(model, tests, cfg.microbatch_tokens)
            recorder.log(number, metrics | {"learning_rate": optimiser.param_groups[0]["lr"]})
            advance(sum(examples[index].size for index in step), note=f"nll {metrics['nll']:.3f}")
            if checkpoint.due and number < len(plan):
                weights = {name: weight.detach() for name, weight in trained.items()}
                checkpoint.save({"step": number, "weights": weights, "optimiser": optimiser.state_dict()})
    network.eval()


def _step(
    cfg: FitTable,
    objective: Objective,
    network: Any,
    optimiser: torch.optim.Optimizer,
    examples: Sequence[Example],
) -> dict[str, float]:
    """One optimiser step on these examples; the gradient does not depend on how they fall into microbatches."""
    places = num_places(examples)
    optimiser.zero_grad(set_to_none=True)
    sums, right, pairs = Counter[str](), 0.0, 0
    for batch in packing.microbatches([example.size for example in examples], cfg.microbatch_tokens):
        chosen = [examples[index] for index in batch]
        packed = packing.pack([(example.shared, example.endings) for example in chosen])
        with device.autocast(network.device):
            hidden_NH = models.answer_states(network, packed)
            reward_N = models.rewards_of(network, hidden_NH)
        found = objective(reward_N, hidden_NH, chosen)
        (found.loss / places).backward()
        sums.update(found.report)
        rows = reward_N.detach().split([len(example.endings) for example in chosen])
        for example, row in zip(chosen, rows, strict=True):
            judged = accuracy.pairs_of(example.ranking, row.tolist())
            right += sum(pair.right for pair in judged)
            pairs += len(judged)
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimiser.step()
    reported = {name: value / places for name, value in sums.items()}
    return {**reported, "pair_accuracy": right / max(pairs, 1), "grad_norm": float(norm)}


def _validate(model: Model, tests: Sequence[Example], microbatch_tokens: int) -> dict[str, float]:
    model.network.eval()
    scored = accuracy.score(model, tests, microbatch_tokens)
    pairs = [
        pair
        for example, rewards in zip(tests, scored, strict=True)
        for pair in accuracy.pairs_of(example.ranking, rewards)
    ]
    model.network.train()
    return {"held_out_pair_accuracy": sum(pair.right for pair in pairs) / max(len(pairs), 1)}


def _freeze(network: Any, layers: int) -> None:
    """Train all weights, or only the last `layers` blocks with final norm and head."""
    network.train()
    if layers == 0:
        return
    decoder = network.base_model
    for weight in network.parameters():
        weight.requires_grad_(False)
    for part in [*decoder.layers[-layers:], decoder.norm, network.score]:
        part.requires_grad_(True)


def _schedule(step: int, steps: int, warmup: float) -> float:
    """Linear rise over the first `warmup` of the steps, then linear fall to 0 after the last."""
    rise = max(1, round(warmup * steps))
    return step / rise if step <= rise else (steps + 1 - step) / (steps + 1 - rise)
