"""fit: rankings -> a K-wise reward model, with what it gets right on rankings it never saw."""

import math
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import torch

from starling import (
    accuracy,
    balance,
    began,
    device,
    heads,
    model_card,
    models,
    packing,
    progress,
    reward_scale,
    schedule,
    tables,
    trackers,
    uncertainty,
    unusable,
)
from starling.accuracy import Pair
from starling.checkpoint import Checkpoint
from starling.config import FitTable
from starling.errors import DataError, StarlingError, StopStage, explained
from starling.examples import Example, examples_of
from starling.looks import Looks
from starling.metrics import Recorder
from starling.models import Model
from starling.objective import Objective, num_places
from starling.records import Ranking
from starling.store import Run
from starling.trainable import Trainable
from starling.writing import fill_folder

_OF_TRAINING = shutil.ignore_patterns("checkpoint-*", "runs", ".*", "*.bin", "*.pt", "*.pth")  # what trainers leave


class Origin(NamedTuple):
    """The ranking files with their hashes, for the model's card, and notes of their rows that are no rankings."""

    files: Sequence[Mapping[str, str]] = ()
    unread: Sequence[Mapping[str, str]] = ()


NOWHERE = Origin()  # of a run's rankings


def run(run: Run) -> dict[str, Any]:
    """Write the reward model to `fit/model`."""
    held_out = tables.rankings_of(run, tables.prompts_of(run, "validation"))
    folder = run.folder("fit")
    if run.config.fit.reward_model:
        return take(run.config.fit, held_out, folder)
    rankings = tables.rankings_of(run, tables.prompts_of(run, "train"))
    with trackers.opened(run.root, run.config.run.trackers, "fit") as mirrors:
        recorder = Recorder(run.metrics_path, "fit", mirrors)
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
    origin: Origin = NOWHERE,
) -> dict[str, Any]:
    """Train on `rankings`, report on `held_out`, write `folder/model`; returns the facts.

    `folder/checkpoint.pt` stays, for whoever calls to remove once it has noted the facts.
    Rows of the files that are no rankings go first in the list of what is left out.
    """
    unusable.write(folder, origin.unread)  # at once: what follows may refuse the rest
    model = models.new_reward_model(base, seed=device.seed_for(seed, "fit", "head"))
    packing.tell_dropout(model.network.config, "fit")
    if models.is_reward_model(base):
        progress.say(f"fit: {base} is a reward model; its head is trained on")
    examples, tests, notes = _read(cfg, model, rankings, held_out, folder, origin)
    repeats = unusable.tell_repeats([example.ranking for example in examples])
    plan = plan_steps(cfg, examples, seed)
    if not plan:
        raise StopStage(f"fit: fit.token_budget = {cfg.token_budget:,} does not cover one step; raise it")
    _tell_parted(cfg, examples, plan)
    network: Any = model.network
    began_with = began.began_with(cfg, seed, network, examples, tests)
    checkpoint = Checkpoint(folder / "checkpoint.pt", cfg.checkpoint_seconds, began_with)
    part = Trainable(network.to(device.default()), cfg, seed)
    objective = Objective(cfg, network, examples, seed)
    part.weights.update(objective.weights)
    steps, kept_step = _train(cfg, model, part, objective, (examples, tests), plan, checkpoint, recorder)
    if part.has_adapter:
        fill_folder(folder / "adapter", lambda unfinished: part.save_adapter(unfinished, models.lasting_name(base)))
        part.merge()
    scored = accuracy.score(model, tests, cfg.microbatch_tokens)
    facts = {
        "rankings": len(examples),
        "unread": len(origin.unread),
        **unusable.tally(notes),
        "prompt_in_answers": repeats,
        "steps": steps,
        "kept_step": kept_step,
        "ended_by": _ended_by(cfg, len(examples), len(plan), steps),
        "tokens": sum(examples[index].size for step in plan[:steps] for index in step),
        "held_out": accuracy.figures(tests, scored) if tests else None,
        "weights": objective.weight_facts(examples),
        "reward_scale": reward_scale.store(model.network.config, scored),
    }
    sureness = uncertainty.fit(model, examples, cfg.laplace_prior, cfg.microbatch_tokens) if cfg.laplace_prior else None

    def write(unfinished: Path) -> None:
        models.save(model, unfinished)
        if sureness is not None:
            uncertainty.save(sureness, unfinished)
        model_card.write(unfinished, cfg, base, rankings, held_out, facts, seed=seed, files=origin.files)

    fill_folder(folder / "model", write)
    return facts


def _read(
    cfg: FitTable, model: Model, rankings: Sequence[Ranking], held_out: Sequence[Ranking], folder: Path, origin: Origin
) -> tuple[list[Example], list[Example], list[dict[str, str]]]:
    """What is trained on, what is held out, and notes of what neither could take, which are listed and told too."""
    examples, notes = examples_of(model, rankings, too_long=cfg.too_long, max_tokens=cfg.max_tokens)
    tests, of_tests = examples_of(model, held_out, too_long=cfg.too_long, max_tokens=cfg.max_tokens)
    notes += of_tests
    unusable.write_and_tell(folder, [*origin.unread, *notes])
    if not examples:
        raise DataError(f"fit: none of {len(rankings)} rankings to train on can be used: {unusable.reasons(notes)}")
    if not tests and (cfg.keep == "best" or cfg.patience):
        raise DataError(
            "fit: fit.keep = best and fit.patience look at held-out rankings, of which there are none; "
            'hold some out, or set fit.keep = "last" and fit.patience = 0'
        )
    return examples, tests, notes


def take(cfg: FitTable, held_out: Sequence[Ranking], folder: Path) -> dict[str, Any]:
    """Make a reward model that is there already the run's own, file by file, and report on `held_out`."""
    model = models.load_reward_model(cfg.reward_model)
    tests, notes = examples_of(model, held_out, too_long=cfg.too_long, max_tokens=cfg.max_tokens)
    unusable.write_and_tell(folder, notes)
    scored = accuracy.score(model, tests, cfg.microbatch_tokens)
    scale = reward_scale.read(model.network.config)

    def write(unfinished: Path) -> None:
        models.file_beside(cfg.reward_model, uncertainty.FILE)  # of a Hub name: into the cache, beside the rest
        shutil.copytree(models.folder_of(cfg.reward_model), unfinished, ignore=_OF_TRAINING)

    with explained(f"copying {cfg.reward_model}"):
        fill_folder(folder / "model", write)
    return {
        "reward_model": models.identity(cfg.reward_model),
        "rankings": 0,
        **unusable.tally(notes),
        "steps": 0,
        "tokens": 0,
        "held_out": accuracy.figures(tests, scored) if tests else None,
        "reward_scale": None if scale is None else scale._asdict(),
    }


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


def _tell_parted(cfg: FitTable, examples: Sequence[Example], plan: Sequence[Sequence[int]]) -> None:
    """Say how many steps the length terms do not see whole."""
    sizes = [[examples[index].size for index in step] for step in plan]
    parted = sum(len(balance.microbatches(step, cfg.microbatch_tokens)) > 1 for step in sizes)
    if cfg.length_head and parted:
        progress.say(
            f"fit: {parted} of {len(plan)} steps take several microbatches, and fit.length_head sees length in each "
            f"one alone; raise fit.microbatch_tokens ({cfg.microbatch_tokens:,}) to {max(map(sum, sizes)):,}"
        )


def _ended_by(cfg: FitTable, rankings: int, planned: int, steps: int) -> str:
    """The setting that ended training before all epochs were through; empty where none did."""
    if steps < planned:
        return "patience"
    return "token_budget" if planned < cfg.epochs * -(-rankings // cfg.prompts_per_step) else ""


def _train(
    cfg: FitTable,
    model: Model,
    part: Trainable,
    objective: Objective,
    rankings: tuple[Sequence[Example], Sequence[Example]],
    plan: Sequence[Sequence[int]],
    checkpoint: Checkpoint,
    recorder: Recorder,
) -> tuple[int, int]:
    """Train, with looks at `tests`; returns the steps done and the step whose weights the model has in the end."""
    examples, tests = rankings
    optimiser = torch.optim.AdamW(
        part.weights.values(), lr=cfg.learning_rate, weight_decay=cfg.weight_decay, fused=True
    )
    looks = Looks(cfg, len(plan))
    first = _resume(checkpoint, part, optimiser, looks)
    recorder.rewind(first)
    tokens = [0, *accumulate(sum(examples[index].size for index in step) for step in plan)]
    number = first
    with progress.track("fit", tokens[-1], "tokens", recorder.curves) as advance, _ready(cfg, model.network):
        advance(tokens[first], found=True)
        for number, step in enumerate(plan[first:], first + 1):
            rate = cfg.learning_rate * schedule.share(cfg.schedule, number, len(plan), cfg.warmup)
            for group in optimiser.param_groups:
                group["lr"] = rate
            metrics = _step(cfg, objective, model.network, optimiser, [examples[index] for index in step])
            if not math.isfinite(metrics["grad_norm"]):
                if number == 1 and not math.isfinite(metrics["nll"]):
                    raise StarlingError(
                        "fit: the model's rewards are no numbers before anything was learnt: its weights are broken"
                    )
                raise StarlingError(f"fit: step {number}: the gradient is not a number; lower fit.learning_rate")
            if tests and looks.is_due(number):
                found = accuracy.look(model, tests, cfg.microbatch_tokens)
                looks.note(number, found["held_out_pair_accuracy"], part.weights)
                metrics |= found
            recorder.log(number, metrics | {"learning_rate": rate, "num_tokens": tokens[number]})
            advance(tokens[number] - tokens[number - 1], note=f"nll {metrics['nll']:.3f}")
            if looks.is_enough:
                break
            if checkpoint.due and number < len(plan):
                checkpoint.save(_state(number, part, optimiser, looks))
    if looks.best_weights:
        part.load(looks.best_weights)
    return number, looks.best_step if looks.best_weights else number


@contextmanager
def _ready(cfg: FitTable, network: Any) -> Iterator[None]:
    """The network in training mode, with gradient checkpointing where it is wanted; after that as it scores."""
    network.train()
    if cfg.gradient_checkpointing:
        network.activation_checkpointing_enable()
        network.disable_input_require_grads()  # else frozen blocks below would run and keep for the way back as well
    yield
    if cfg.gradient_checkpointing:
        network.activation_checkpointing_disable()
    network.eval()


def _state(step: int, part: Trainable, optimiser: torch.optim.Optimizer, looks: Looks) -> dict[str, Any]:
    """All that the next step depends on."""
    return {
        "step": step,
        "weights": {name: weight.detach() for name, weight in part.weights.items()},
        "optimiser": optimiser.state_dict(),
        "looks": looks.state_dict(),
        "random": device.random_state(),  # a network may drop out
    }


def _resume(checkpoint: Checkpoint, part: Trainable, optimiser: torch.optim.Optimizer, looks: Looks) -> int:
    """Take up the saved state; returns its step, 0 where there is none."""
    state = checkpoint.load()
    if state is None:
        return 0
    part.load(state["weights"])
    optimiser.load_state_dict(state["optimiser"])
    looks.load_state_dict(state["looks"])
    device.set_random_state(state["random"])
    return int(state["step"])


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
    sums = Counter[str]()
    seen: list[float] = []
    pairs: list[Pair] = []
    for batch, packed in balance.batches([example.pack for example in examples], cfg.microbatch_tokens):
        chosen = [examples[index] for index in batch]
        with device.autocast(network.device):
            hidden_NH = heads.answer_states(network, packed)
            reward_N = heads.rewards_of(network, hidden_NH)
        found = objective(reward_N, hidden_NH, chosen)
        (found.loss / places).backward()
        sums.update(found.report)
        rows = reward_N.detach().split([len(example.endings) for example in chosen])
        for example, row in zip(chosen, rows, strict=True):
            seen += row.tolist()
            pairs += accuracy.pairs_of(example.ranking, row.tolist())
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(weights, cfg.grad_clip or math.inf)
    optimiser.step()
    return {
        **{name: value / places for name, value in sums.items()},
        "pair_accuracy": sum(pair.right for pair in pairs) / max(len(pairs), 1),
        "margin": sum(pair.margin for pair in pairs) / max(len(pairs), 1),
        "min_reward": min(seen),
        "mean_reward": sum(seen) / len(seen),
        "max_reward": max(seen),
        "grad_norm": float(norm),
    }
