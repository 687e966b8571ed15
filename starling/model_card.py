"""The model card of a reward model: what it was made of, how well it does, where it ends, how to load it."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from starling import audit, audit_text, builtin, cards, figures, judgements, models
from starling.before_after import judge_named
from starling.config import FitTable
from starling.digest import FIT_LABELS
from starling.records import Ranking
from starling.store import versions
from starling.writing import sha256, write_atomically

CARD = "README.md"
_TASK = "text-classification"
_MOST_MODELS = 20  # that are named in the table of models
_HUB_NAMES = {builtin.NAME: "HuggingFaceTB/SmolLM2-135M-Instruct"}


def write(
    folder: Path,
    settings: FitTable,
    base: str,
    rankings: Sequence[Ranking],
    held_out: Sequence[Ranking],
    facts: Mapping[str, Any],
    *,
    seed: int,
    files: Sequence[Mapping[str, str]] = (),
) -> None:
    """Write the card of the model in `folder`, fitted on `rankings` with these `facts`, beside its weights.

    `files` are the ranking files with their hashes, where there were any.
    """
    saved = json.loads((folder / "config.json").read_text())
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    log = judgements.of_rankings("rankings", [*rankings, *held_out])
    found = {
        "base": shown(base),
        "licence": cards.licence_of_model(base),
        "pad": {"token": tokenizer["pad_token"], "id": saved["pad_token_id"]},
        "window": models.window(str(folder)),
        "loss": settings.loss,
        "settings": cards.settings(settings, settings.model_dump(mode="json")),
        "seed": seed,
        "files": files,
        "facts": facts,
        "seen": min(facts["rankings"], facts["kept_step"] * settings.prompts_per_step),
        "data": data(rankings, held_out),
        "audit": audit.audit(log),
        "say": audit_text,
        "held_out": figures_of(facts),
        "chosen_by_held_out": settings.keep == "best" or settings.patience > 0,
        "weights": weights(folder),
        "versions": versions(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    write_atomically(folder / CARD, cards.page("model_card.md.jinja", header(base, facts), found))


def header(base: str, facts: Mapping[str, Any]) -> str:
    """The YAML that the Hub reads, with the held-out figures; whoever publishes the model chooses its licence."""
    scores = (facts.get("held_out") or {}).get("scores", ())
    named = [(score["name"], FIT_LABELS.get(score["name"], score["name"]), score) for score in scores]
    return ModelCardData(
        model_name=f"Reward model on {shown(base)}",
        eval_results=[one for told in named for one in cards.measured(_TASK, "Held-out rankings", *told)] or None,
        base_model=hub_name(base),
        library_name="transformers",
        pipeline_tag=_TASK,
        tags=["reward-model", "rlaif", "preference", "starling"],
    ).to_yaml()


def data(rankings: Sequence[Ranking], held_out: Sequence[Ranking]) -> dict[str, Any]:
    """What the rankings say of themselves, counted."""
    told = [*rankings, *held_out]
    answers = [answer for ranking in told for answer in ranking.answers]
    sources = Counter(name for ranking in told for name in (ranking.source or "not named").split(", "))
    judges = Counter(ranking.judge for ranking in told if ranking.judge)
    templates = Counter(ranking.template_hash for ranking in told if ranking.template_hash)
    models = Counter(answer.model or "not named" for answer in answers)
    return {
        "sides": [
            {
                "name": name,
                "rankings": len(side),
                "answers": sum(len(ranking.answers) for ranking in side),
                "sha256": fingerprint(side),
            }
            for name, side in (("training", rankings), ("held out", held_out))
        ],
        "sizes": dict(sorted(Counter(len(ranking.answers) for ranking in told).items())),
        "sources": [
            {"name": name, "rankings": count, "licence": cards.licence_of_source(name)}
            for name, count in sources.most_common()
        ],
        "judges": [{"name": name, "named": judge_named(name), "rankings": n} for name, n in judges.most_common()],
        "templates": dict(templates.most_common()),
        "models": dict(models.most_common(_MOST_MODELS)),
        "other_models": {"models": max(0, len(models) - _MOST_MODELS), "answers": _beyond(models)},
        "answers": len(answers),
        "without_place": len(answers) - sum(ranking.num_placed for ranking in told),
        "cut": sum(not answer.finished for answer in answers),
        "weakened": sum(answer.weakened for answer in answers),
        "not_good_natured": sum(not ranking.good_natured for ranking in told),
    }


def fingerprint(rankings: Sequence[Ranking]) -> str:
    """The SHA-256 of conversations, answers and ranks in their order, whatever file they came from."""
    digest = hashlib.sha256()
    for ranking in rankings:
        turns = [[message["role"], message["content"]] for message in ranking.messages]
        answers = [
            [answer.answer, answer.finished, float(rank)]
            for answer, rank in zip(ranking.answers, ranking.ranks, strict=True)
        ]
        digest.update(json.dumps([turns, answers]).encode() + b"\n")
    return digest.hexdigest()


def weights(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file of weights in a model's folder."""
    return {path.name: sha256(path) for path in sorted(folder.glob("*.safetensors"))}


def figures_of(facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """The held-out figures in words, and whether they show more than a liking for long answers."""
    told = facts.get("held_out")
    if not told:
        return None
    scores = {score["name"]: score for score in told["scores"]}
    model, length = scores.get("pair_accuracy"), scores.get("pair_accuracy_length_only")
    return {
        "rows": [{"label": FIT_LABELS.get(name, name), "value": _in_words(score)} for name, score in scores.items()],
        "calibration_error": told.get("calibration_error"),
        "not_above_length": bool(model and length and model["n"] and not model["low"] > length["value"]),
    }


def _in_words(score: Mapping[str, Any]) -> str:
    is_share = any(part in score["name"] for part in ("accuracy", "agreement"))
    return figures.share_interval(score) if is_share else figures.number_interval(score)


def _beyond(models: Counter[str]) -> int:
    return sum(count for _, count in models.most_common()[_MOST_MODELS:])


def hub_name(base: str) -> str | None:
    """What the Hub calls MODEL; None for a folder of this machine."""
    if base in _HUB_NAMES:
        return _HUB_NAMES[base]
    return None if Path(base).exists() else base


def shown(base: str) -> str:
    """MODEL as a reader elsewhere understands it: of a folder its own name only."""
    return hub_name(base) or f"{Path(base).resolve().name} (a folder)"
