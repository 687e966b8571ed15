"""fit: rankings -> a K-wise reward model, with what it gets right on rankings it never saw."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from starling import accuracy, device, model_card, models, packing, progress, tables, unusable
from starling.checkpoint import Checkpoint
from starling.config import FitTable
from starling.errors import DataError, StopStage
from starling.examples import Example, examples_of, ragged
from starling.losses.ranking import centring_penalty, plackett_luce_nll
from starling.metrics import Recorder
from starling.models import Model
from starling.records import Ranking
from starling.store import Run, replace_folder

LOSSES = {"plackett_luce": plackett_luce_nll}


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
    examples, notes = examples_of(model, rankings, too_long=cfg.too_long, max_tokens=cfg.max_tokens)
    tests, of_tests = examples_of(model, held_out, too_long=cfg.too_long, max_tokens=cfg.max_tokens)
    notes += of_tests
    unusable.tell(folder, notes)
    if not examples:
        raise DataError(f"fit: none of {len(rankings)} rankings can be used: {unusable.reasons(notes)}")
    repeats = unusable.tell_repeats([example.ranking for example in examples])
    plan = plan_steps(cfg, examples, seed)
    if not plan:
        raise StopStage(f"fit: fit.token_budget = {cfg.token_budget:,} does not cover one step; raise it")
    _train(cfg, model, examples, tests, plan, folder, recorder)
    facts = {
        "rankings": len(examples),
        **unusable.tally(notes),
        "prompt_in_answers": repeats,
        "steps": len(plan),
        "tokens": sum(examples[index].size for step in plan for index in step),
        "held_out": accuracy.evaluate(model, tests, cfg.microbatch_tokens) if tests else None,
    }
    partial = folder / "model.partial"
    shutil.rmtree(partial, ignore_errors=True)
    models.save(model, partial)
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
    examples: Sequence[Example],
    tests: Sequence[Example],
    plan: Sequence[Sequence[int]],
    folder: Path,
    recorder: Recorder,
) -> None:
    network = model.network
    _freeze(network, cfg.layers)
    trained = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    optimiser = torch.optim.AdamW(trained.values(), lr=cfg.learning_rate, weight_decay=cfg.weight_decay, fused=True)
    checkpoint = Checkpoint(folder / "checkpoint.pt", cfg.checkpoint_seconds)
    state = checkpoint.load()
    first = 0
    if state is not None:
        first = state["step"]
        network.load_state_dict(state["weights"], strict=False)
        optimiser.load_state_dict(state["optimiser"])
    recorder.rewind(first)
    total = sum(examples[index].size for step in plan for index in step)
    with progress.track("fit", total, "tokens") as advance:
        advance(sum(examples[index].size for step in plan[:first] for index in step))
        for number, step in enumerate(plan[first:], first + 1):
            for group in optimiser.param_groups:
                group["lr"] = cfg.learning_rate * _schedule(number, len(plan), cfg.warmup)
            metrics = _step(cfg, network, optimiser, [examples[index] for index in step])
            if tests and (number % max(1, len(plan) // 4) == 0 or number == len(plan)):
                metrics |= _validate(model, tests, cfg.microbatch_tokens)
            recorder.log(number, metrics | {"learning_rate": optimiser.param_groups[0]["lr"]})
            advance(sum(examples[index].size for index in step), note=f"nll {metrics['nll']:.3f}")
            if checkpoint.due and number < len(plan):
                weights = {name: weight.detach() for name, weight in trained.items()}
                checkpoint.save({"step": number, "weights": weights, "optimiser": optimiser.state_dict()})
    network.eval()


def _step(
    cfg: FitTable, network: Any, optimiser: torch.optim.Optimizer, examples: Sequence[Example]
) -> dict[str, float]:
    """One optimiser step on these examples; the gradient does not depend on how they fall into microbatches."""
    places = sum(example.num_places for example in examples)
    optimiser.zero_grad(set_to_none=True)
    total, right, pairs = 0.0, 0.0, 0
    for batch in packing.microbatches([example.size for example in examples], cfg.microbatch_tokens):
        chosen = [examples[index] for index in batch]
        packed = packing.pack([(example.shared, example.endings) for example in chosen])
        with device.autocast(network.device):
            rewards = models.rewards(network, packed)
        reward_BK, rank_BK, mask_BK = ragged(rewards, chosen)
        nll_B = LOSSES[cfg.loss](reward_BK, rank_BK, mask_BK)
        loss = (nll_B.sum() + cfg.centring_coef * centring_penalty(reward_BK, mask_BK).sum()) / places
        loss.backward()
        total += float(nll_B.detach().sum())
        for example, row in zip(chosen, reward_BK.detach().tolist(), strict=True):
            judged = accuracy.pairs_of(example.ranking, row)
            right += sum(pair.right for pair in judged)
            pairs += len(judged)
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimiser.step()
    return {"nll": total / places, "pair_accuracy": right / max(pairs, 1), "grad_norm": float(norm)}


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
