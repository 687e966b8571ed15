"""Fit reward models on real GPT-4 preferences with each ranking loss and compare them on data none of them has seen.

    python benchmarks/fit_alpaca.py DATA [--variants kwise all_pairs ...] [--seeds 1 2 3] [--rankings 300] [--out DIR]

DATA is a folder with `alpaca_rankings.jsonl.gz` (an instruction and many models' answers, each with the probability
that a judge prefers it to one fixed rival) and `rm_benchmarks/` (the sets of `starling bench starling_rm`). Each seed
draws seven answers to each of so many instructions, of those that fit the window, and where `--rankings` are more than
instructions, other seven of the same ones; variants of a seed see the same rankings. A fit that is finished is not made
again; one that was made with other settings, data or weights is refused. `--held-out-only` leaves the test sets to a
later call without it, and keeps the weights till then. `--choose` tells learning rates apart by instructions that are
neither trained on nor held out, and tests nothing else. Prints every fit's figures; what stands behind them stays in
DIR, in a folder for each.
"""

import argparse
import gzip
import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from starling import accuracy, bench, chat, device, models, reward, stats
from starling.benches.asked import Asked
from starling.config import FitTable
from starling.metrics import Recorder
from starling.records import Candidate, Message, Ranking
from starling.reward import Question
from starling.stages import fit
from starling.writing import write_atomically

MODEL = "smollm2"
K = 7
DRAWS = 3  # of seven answers each, none of them twice, at most; no instruction has more than 24
HELD_OUT = 100  # instructions that no seed trains on
VALIDATION = 60  # more of them while settings are chosen
FOR_SCALE = 10  # of the held-out ones, from which `fit` sets the scale of the reward; all are scored after it
MARGIN = 1.0  # answers whose log-odds differ by less from the best of a level are tied with it
TABLE = FitTable(learning_rate=1e-4, prompts_per_step=4, max_tokens=512, too_long="drop", validate_every=1000)
# What a variant changes, and how many answers it is shown of each instruction.
VARIANTS: dict[str, tuple[dict[str, Any], int]] = {
    "kwise": ({}, K),
    "all_pairs": ({"loss": "all_pairs"}, K),
    "adjacent_pairs": ({"loss": "adjacent_pairs"}, K),
    "best_against_rest": ({"loss": "best_against_rest"}, K),
    "one_pair": ({}, 2),  # as if the judge had been shown two answers that it tells apart: Bradley-Terry
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--rankings", type=int, default=300)
    parser.add_argument(
        "--choose", action="store_true", help="to choose settings: look at other instructions than the held-out ones"
    )
    parser.add_argument("--learning-rate", type=float, help="only to choose one")
    parser.add_argument("--layers", type=int, default=TABLE.layers, help="last blocks to train; 0 for all weights")
    parser.add_argument("--held-out-only", action="store_true", help="leave the test sets for later")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", action="store_true", help="keep the weights of every fit")
    parser.add_argument("--out", type=Path, default=Path("runs/fit_alpaca"))
    options = parser.parse_args()
    if options.learning_rate and not options.choose:
        parser.error("--learning-rate goes with --choose; what is tested has the rate that was chosen")
    rate = options.learning_rate or TABLE.learning_rate
    rows = read(options.data / "alpaca_rankings.jsonl.gz", models.new_reward_model(MODEL).tokenizer)
    for seed in options.seeds:
        for variant in options.variants:
            folder = options.out / f"{variant}-{options.rankings}-seed-{seed}"
            if options.choose:
                folder = options.out / "choose" / f"{folder.name}-rate-{rate:g}"
            found = _one(options, rate, rows, variant, seed, folder)
            print(folder.name, json.dumps(brief(found)), flush=True)


def read(path: Path, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
    """Instructions to which at least `K` answers fit the window whole, with those answers."""
    with gzip.open(path, "rt") as file:
        rows = [json.loads(line) for line in file]
    kept = []
    for row in rows:
        messages = [Message(role="user", content=row["prompt"])]
        given = [answer for answer in row["answers"] if answer["answer"].strip()]
        texts = [answer["answer"] for answer in given]
        shared, endings = chat.conversation_ids(tokenizer, messages, texts, [True] * len(texts))
        room = TABLE.max_tokens - len(shared)
        fitting = [answer for answer, ending in zip(given, endings, strict=True) if len(ending) <= room]
        if len(fitting) >= K:
            kept.append({**row, "answers": fitting})
    print(f"{len(kept)} of {len(rows)} instructions have {K} answers or more that fit {TABLE.max_tokens} tokens")
    return kept


def rankings(
    rows: Sequence[dict[str, Any]], seed: int, shown: int, draws: int = 1, margin: float = MARGIN
) -> tuple[list[Ranking], list[Ranking]]:
    """Rankings to train on, in an order of the seed's own, and the held-out ones, the same for every seed.

    Every instruction's first draw comes before the second ones. `margin` is that of the held-out ones.
    """
    order = torch.randperm(len(rows), generator=device.generator(0, "alpaca", "split")).tolist()
    held_out = [_ranking(rows[index], index, 0, K, margin=margin) for index in order[:HELD_OUT]]
    mixed = torch.randperm(len(order) - HELD_OUT, generator=device.generator(seed, "alpaca", "order")).tolist()
    numbers = [order[HELD_OUT + at] for at in mixed]
    train = [
        _ranking(rows[number], number, seed, shown, draw)
        for draw in range(draws)
        for number in numbers
        if len(rows[number]["answers"]) >= (draw + 1) * K
    ]
    return train, held_out


def _ranking(row: dict[str, Any], number: int, seed: int, shown: int, draw: int = 0, margin: float = MARGIN) -> Ranking:
    answers = row["answers"]
    order = torch.randperm(len(answers), generator=device.generator(seed, "alpaca", number)).tolist()
    drawn = order[draw * K :]
    drawn = _told_apart(answers, drawn) if shown == 2 else drawn[:shown]
    chosen = [answers[index] for index in drawn]
    name = f"alpaca-{number}" + (f"-draw-{draw + 1}" if draw else "")
    return Ranking(
        prompt_id=name,
        messages=[Message(role="user", content=row["prompt"])],
        answers=[
            Candidate(prompt_id=name, model=answer["model"], draw=at, answer=answer["answer"], finished=True)
            for at, answer in zip(drawn, chosen, strict=True)
        ],
        ranks=ranks([log_odds(answer["score"]) for answer in chosen], margin),
        judge="gpt-4-turbo, against a fixed rival",
    )


def _told_apart(answers: Sequence[dict[str, Any]], drawn: Sequence[int]) -> list[int]:
    """The first of the drawn answers and the first that is not tied with it; two tied ones where all are."""
    strength = [log_odds(answers[index]["score"]) for index in drawn]
    other = next((at for at in range(1, len(drawn)) if len(set(ranks([strength[0], strength[at]]))) == 2), 1)
    return [drawn[0], drawn[other]]


def log_odds(probability: float) -> float:
    clipped = min(max(probability, 1e-6), 1 - 1e-6)
    return math.log(clipped) - math.log1p(-clipped)


def ranks(strength: Sequence[float], margin: float = MARGIN) -> list[float]:
    """Competition ranks; what is closer than `margin` to the best of a level is tied with it."""
    order = sorted(range(len(strength)), key=lambda at: -strength[at])
    found = [0.0] * len(strength)
    best, rank = math.inf, 0
    for place, at in enumerate(order, 1):
        if place == 1 or best - strength[at] >= margin:
            best, rank = strength[at], place
        found[at] = float(rank)
    return found


def _one(
    options: argparse.Namespace, rate: float, rows: Sequence[dict[str, Any]], variant: str, seed: int, folder: Path
) -> dict[str, Any]:
    """Fit one reward model and test it; what is there already is read."""
    changes, shown = VARIANTS[variant]
    looks = {"validate_every": 0} if options.choose else {}
    cfg = FitTable(**(TABLE.model_dump() | changes | looks | {"learning_rate": rate, "layers": options.layers}))
    made_with = _made_with(options.data, cfg, seed, shown)
    done = folder / "figures.json"
    if done.exists():
        figures = json.loads(done.read_text())
        if other := [name for name, value in made_with.items() if figures.get("made_with", {}).get(name) != value]:
            raise SystemExit(f"{folder}: was made with other {' and '.join(other)}; give another --out")
    else:
        figures = {"variant": variant, "seed": seed, "made_with": made_with, "starling_rm": []}
        figures["fit"] = _fitted(options, cfg, rows, seed, shown, folder)
        write_atomically(done, json.dumps(figures, indent=1) + "\n")
        (folder / "checkpoint.pt").unlink(missing_ok=True)
    if not (options.held_out_only or options.choose or figures["starling_rm"]):
        figures["starling_rm"] = _tested(options, folder)
        write_atomically(done, json.dumps(figures, indent=1) + "\n")
    if not (options.held_out_only or options.keep):
        shutil.rmtree(folder / "model", ignore_errors=True)
    return figures


def _fitted(
    options: argparse.Namespace, cfg: FitTable, rows: Sequence[dict[str, Any]], seed: int, shown: int, folder: Path
) -> dict[str, Any]:
    """What a fit tells of itself; the rewards of the held-out answers are kept in `folder` beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    train, held_out = rankings(rows, seed, shown, 1 if options.choose else DRAWS)
    if options.choose:
        train, held_out = train[:-VALIDATION], rankings(rows, seed, K)[0][-VALIDATION:]
    device.setup(options.threads, seed)
    recorder = Recorder(folder / "metrics.jsonl", "fit")
    if len(train) < options.rankings:
        print(f"{folder.name}: {len(train)} rankings are all there are")
    looked_at = held_out if options.choose else held_out[:FOR_SCALE]
    facts = fit.fit(cfg, MODEL, train[: options.rankings], looked_at, folder, recorder, seed=seed)
    if not options.choose:
        rewards = _rewards(folder / "model", held_out)
        write_atomically(folder / "held_out.json", json.dumps(rewards) + "\n")
        facts["held_out"]["scores"] = _pair_accuracy(held_out, rewards)
    return facts


def _pair_accuracy(held_out: Sequence[Ranking], rewards: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    pairs = [pair for ranking in held_out for pair in accuracy.pairs_of(ranking, rewards[ranking.prompt_id])]
    prompts = [pair.prompt for pair in pairs]
    found = {"pair_accuracy": [pair.right for pair in pairs], "length_only": [pair.longer for pair in pairs]}
    return [asdict(stats.cluster_mean(name, values, prompts)) for name, values in found.items()]


def _made_with(data: Path, cfg: FitTable, seed: int, shown: int) -> dict[str, Any]:
    """What a fit follows from, beside its number of rankings and its seed."""
    network: Any = models.new_reward_model(MODEL, seed=device.seed_for(seed, "fit", "head")).network
    with (data / "alpaca_rankings.jsonl.gz").open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "settings": cfg.model_dump(mode="json"),
        "rankings": {"answers": shown, "of": K, "draws": DRAWS, "margin": MARGIN, "held out": HELD_OUT},
        "data": sha256,
        "base weights": models.weights_hash(network.parameters()),
    }


def _tested(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """The figures of the test sets; the scores behind them are kept in `folder`."""
    asked = Asked(
        model=str(folder / "model"),
        data=str(options.data / "rm_benchmarks"),
        out=folder / "starling_rm.json",
        dtype=device.dtype_name(device.product_dtype()),
    )
    return bench.run("starling_rm", asked)["rows"]


def _rewards(model: Path, held_out: Sequence[Ranking]) -> dict[str, list[float]]:
    """The reward of each answer to each held-out instruction, to compare fits pair by pair."""
    questions = [
        Question(
            messages=ranking.messages,
            answers=[answer.answer for answer in ranking.answers],
            finished=[answer.finished for answer in ranking.answers],
            where=ranking.prompt_id,
        )
        for ranking in held_out
    ]
    scored = reward.load_reward_model(str(model), device.dtype_name(device.product_dtype())).score_questions(questions)
    return {ranking.prompt_id: rewards for ranking, rewards in zip(held_out, scored, strict=True)}


def brief(figures: dict[str, Any]) -> dict[str, str]:
    """The figures of one fit with their intervals."""
    scores = figures["fit"]["held_out"]["scores"] + figures["starling_rm"]
    return {"tokens": figures["fit"]["tokens"]} | {
        score["name"]: f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f}), n = {score['n']}"
        for score in scores
        if score["value"] is not None
    }


if __name__ == "__main__":
    main()
