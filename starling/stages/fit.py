"""fit: rankings -> a K-wise reward model, with what it gets right on rankings it never saw."""

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from starling import chat, data_files, device, models, packing, progress, stats, tables
from starling.checkpoint import Checkpoint
from starling.config import FitTable
from starling.errors import DataError, StopStage
from starling.losses.ranking import centring_penalty, plackett_luce_nll
from starling.metrics import Recorder
from starling.models import Model
from starling.records import Ranking
from starling.store import Run, replace_folder

LOSSES = {"plackett_luce": plackett_luce_nll}


@dataclass(frozen=True, slots=True)
class Example:
    """A ranking as token ids: what its conversations share, what each adds, and its ranks."""

    ranking: Ranking
    shared: list[int]
    endings: list[list[int]]

    @property
    def size(self) -> int:
        return packing.size((self.shared, self.endings))

    @property
    def num_places(self) -> int:
        """Places that the ranking decides: K - 1."""
        return len(self.endings) - 1


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
    _train(cfg, model, examples, tests, plan, folder, recorder)
    facts = {
        "rankings": len(examples),
        "unusable": dict(Counter(row["reason"] for row in [*unusable, *unusable_tests])),
        "steps": len(plan),
        "tokens": sum(examples[index].size for step in plan for index in step),
        "held_out": evaluate(model, tests, cfg.microbatch_tokens) if tests else None,
    }
    partial = folder / "model.partial"
    shutil.rmtree(partial, ignore_errors=True)
    models.save(model, partial)
    replace_folder(partial, folder / "model")
    Checkpoint(folder / "checkpoint.pt", 0).remove()
    return facts


def examples_of(model: Model, rankings: Sequence[Ranking]) -> tuple[list[Example], list[dict[str, str]]]:
    """Tokenise the rankings; empty answers and rankings that cannot train are left out and listed with the reason."""
    examples: list[Example] = []
    unusable: list[dict[str, str]] = []
    for whole in rankings:
        ranking = _without_empty_answers(whole)
        left_out = len(whole.answers) - len(ranking.answers)
        unusable += [{"prompt_id": whole.prompt_id, "reason": "an empty answer was left out"}] * left_out
        reason = _why_unusable(ranking)
        if reason:
            unusable.append({"prompt_id": ranking.prompt_id, "reason": reason})
            continue
        answers = [answer.answer for answer in ranking.answers]
        finished = [answer.finished for answer in ranking.answers]
        shared, endings = chat.conversation_ids(model.tokenizer, ranking.messages, answers, finished)
        longest = len(shared) + max(map(len, endings))
        if longest > model.network.config.max_position_embeddings:
            window = model.network.config.max_position_embeddings
            raise DataError(
                f"fit: {ranking.prompt_id} takes {longest} tokens, the model's window is {window}; shorten it"
            )
        examples.append(Example(ranking, shared, endings))
    return examples, unusable


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


def evaluate(model: Model, examples: Sequence[Example], microbatch_tokens: int) -> dict[str, Any]:
    """Agreement with held-out rankings, beside a judge that only counts characters."""
    scored = score(model, examples, microbatch_tokens)
    pairs = [
        pair for example, rewards in zip(examples, scored, strict=True) for pair in _pairs(example.ranking, rewards)
    ]
    fair = [pair for pair in pairs if not pair.weakened]
    top1 = [
        float(example.ranking.ranks[max(range(len(rewards)), key=rewards.__getitem__)] == min(example.ranking.ranks))
        for example, rewards in zip(examples, scored, strict=True)
    ]
    prompts = [example.ranking.prompt_id for example in examples]
    probability = [pair.probability for pair in pairs] + [1 - pair.probability for pair in pairs]
    outcome = [1.0] * len(pairs) + [0.0] * len(pairs)
    figures = [
        stats.cluster_mean("pair_accuracy", [p.right for p in pairs], [p.prompt_id for p in pairs]),
        stats.cluster_mean("pair_accuracy_length_only", [p.longer for p in pairs], [p.prompt_id for p in pairs]),
        stats.cluster_mean("pair_accuracy_not_weakened", [p.right for p in fair], [p.prompt_id for p in fair]),
        stats.cluster_mean(
            "pair_accuracy_not_weakened_length_only", [p.longer for p in fair], [p.prompt_id for p in fair]
        ),
        stats.cluster_mean("top1_agreement", top1, prompts),
    ]
    return {
        "scores": [asdict(figure) for figure in figures],
        "calibration_error": stats.calibration_error(probability, outcome),
        "reliability": stats.reliability(probability, outcome),
    }


@torch.inference_mode()
def score(model: Model, examples: Sequence[Example], microbatch_tokens: int) -> list[list[float]]:
    """The reward of every answer of every example."""
    found: list[list[float]] = []
    for batch in packing.microbatches([example.size for example in examples], microbatch_tokens):
        chosen = [examples[index] for index in batch]
        packed = packing.pack([(example.shared, example.endings) for example in chosen])
        with device.autocast(model.network.device):
            rewards = models.rewards(model.network, packed)
        found.extend(part.tolist() for part in rewards.split([len(example.endings) for example in chosen]))
    return found


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
            judged = _pairs(example.ranking, row)
            right += sum(pair.right for pair in judged)
            pairs += len(judged)
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimiser.step()
    return {"nll": total / places, "pair_accuracy": right / max(pairs, 1), "grad_norm": float(norm)}


def ragged(reward_N: Tensor, examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards in packed order -> padded (B, K) rewards, ranks and mask."""
    sizes = [len(example.endings) for example in examples]
    width = max(sizes)
    pieces = [torch.nn.functional.pad(part, (0, width - len(part))) for part in reward_N.split(sizes)]
    ranks = [
        torch.tensor([*example.ranking.ranks, *[0.0] * (width - size)])
        for example, size in zip(examples, sizes, strict=True)
    ]
    mask_BK = torch.arange(width) < torch.tensor(sizes)[:, None]
    return torch.stack(pieces), torch.stack(ranks).to(reward_N.device), mask_BK.to(reward_N.device)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers that the judge ranks apart: is the better one scored higher, and is it the longer one?"""

    prompt_id: str
    right: float
    longer: float
    probability: float
    weakened: bool


def _pairs(ranking: Ranking, rewards: Sequence[float]) -> list[Pair]:
    found = []
    for i, j in combinations(range(len(ranking.answers)), 2):
        if ranking.ranks[i] == ranking.ranks[j]:
            continue
        better, worse = (i, j) if ranking.ranks[i] < ranking.ranks[j] else (j, i)
        margin = rewards[better] - rewards[worse]
        lengths = len(ranking.answers[better].answer), len(ranking.answers[worse].answer)
        found.append(
            Pair(
                prompt_id=ranking.prompt_id,
                right=_half_if_equal(margin),
                longer=_half_if_equal(lengths[0] - lengths[1]),
                probability=float(torch.sigmoid(torch.tensor(margin))),
                weakened=ranking.answers[i].weakened or ranking.answers[j].weakened,
            )
        )
    return found


def _half_if_equal(difference: float) -> float:
    return 0.5 if difference == 0 else float(difference > 0)


def _validate(model: Model, tests: Sequence[Example], microbatch_tokens: int) -> dict[str, float]:
    model.network.eval()
    scored = score(model, tests, microbatch_tokens)
    pairs = [pair for example, rewards in zip(tests, scored, strict=True) for pair in _pairs(example.ranking, rewards)]
    model.network.train()
    return {"held_out_pair_accuracy": sum(pair.right for pair in pairs) / max(len(pairs), 1)}


def _without_empty_answers(ranking: Ranking) -> Ranking:
    """The ranking of the answers that say something; their ranks keep their order."""
    kept = [at for at, answer in enumerate(ranking.answers) if answer.answer.strip()]
    if len(kept) == len(ranking.answers):
        return ranking
    answers, ranks = [ranking.answers[at] for at in kept], [ranking.ranks[at] for at in kept]
    return replace(ranking, answers=answers, ranks=ranks, orders=())


def _why_unusable(ranking: Ranking) -> str:
    if len(ranking.answers) < 2:
        return "fewer than two answers"
    if len(set(ranking.ranks)) < 2:
        return "all answers are tied"
    return ""


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
