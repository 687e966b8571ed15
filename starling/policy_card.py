"""The model card of a tuned policy: what it was made of and by, how it compares with its base, how to load it."""

import shlex
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from starling import cards, contamination, digest, model_card
from starling.before_after import judge_named
from starling.benches import told
from starling.config import Config
from starling.sources import BUILTIN
from starling.store import Run
from starling.tune_settings import READS, algorithm_key, is_online
from starling.writing import write_atomically

_TASK = "text-generation"


def write(run: Run, found: Mapping[str, Any]) -> None:
    """Write the card beside the weights, where they stand; it is none of the files that `tune` is held to."""
    if run.is_done("tune") and (run.policy_path / "config.json").exists():
        write_atomically(run.policy_path / model_card.CARD, text(run, found))


def text(run: Run, found: Mapping[str, Any] | None = None, *, licence: str = "", gguf: str = "") -> str:
    """The card by the run's `found` numbers; of a GGUF file by its name, with the licence that somebody chose."""
    found = found or digest.digest(run)
    config, result = run.config, found["result"]
    facts = {stage: run.facts(stage) if run.is_done(stage) else {} for stage in digest.STAGES}
    generators = cards.generators(run)
    rewards = list(config.tune.rewards) if is_online(config.tune.algorithm) else []
    taken = config.fit.reward_model
    shown = {
        **{stage: facts[stage] for stage in ("prompts", "sample", "rank", "fit", "tune")},
        "found": found,
        "result": result,
        "base": model_card.shown(config.run.model),
        "licence": cards.licence_of_model(config.run.model),
        "algorithm": config.tune.algorithm,
        "gguf": shlex.quote(gguf) if gguf else "",
        "modelfile": shlex.quote(Path(gguf).with_suffix(".Modelfile").name) if gguf else "",
        "max_new_tokens": config.evaluate.answer_tokens,
        "contamination": contamination.lines(facts["evaluate"]["contamination"] | {"found": []})
        if facts["evaluate"].get("contamination")
        else [],
        "benchmarks": list(_benchmarks(result["benchmarks"])) if result else [],
        "settings": _settings(config),
        "rewards": rewards,
        "reward_model": any(one.name == "model" for one in rewards),
        "taken": model_card.shown(taken) if taken else "",
        "loss": config.fit.loss,
        "held_out": model_card.figures_of(facts["fit"]),
        "sources": cards.sources(facts["prompts"], {}),
        "generators": generators,
        "judge": judge_named(facts["rank"]["judge"]),
        "chooser": "the judge of the rankings" if config.chooser is config.rank else "the judge of the test",
        "hosts": cards.hosts(run, generators, [facts["rank"]["judge"]], [config.rank, config.evaluate]),
        "versions": run.versions,
        "date": datetime.now(UTC).date().isoformat(),
        "seed": config.run.seed,
        "lineage": list(_lineage(run)),
        "chosen_licence": licence,
    }
    return cards.page("policy_card.md.jinja", _header(run, found, licence, gguf), shown)


def _header(run: Run, found: Mapping[str, Any], licence: str, gguf: str) -> str:
    """The YAML that the Hub reads, with the figures as its `model-index`."""
    config = run.config
    built_in = all(source.path == BUILTIN for source in config.prompts.sources)
    return ModelCardData(
        base_model=model_card.hub_name(config.run.model),
        language=config.prompts.language or ("en" if built_in else None),
        license=licence or None,
        library_name="gguf" if gguf else "transformers",
        pipeline_tag=_TASK,
        tags=["rlaif", "rlhf", "starling", config.tune.algorithm],
        model_name=found["name"],
        eval_results=list(_measured(found["result"])) if found["result"] else None,
    ).to_yaml()


def _measured(result: Mapping[str, Any]) -> Iterator[EvalResult]:
    """What was measured, each figure with interval and number of cases."""
    test = "Test prompts of the run, apart from what was learnt from"
    judged = f"Wins over the base, ties half, as judged by {result['judge_named']}"
    for rate in result["win_rates"]:
        yield from cards.measured(_TASK, test, rate["key"], f"{judged}: {rate['label']}", rate)
    for row in result["table"]:
        if row["good"]:
            yield from cards.measured(_TASK, test, row["key"], row["label"], row["tuned"])
    for entry in result["benchmarks"]:
        for row in entry["rows"]:
            if entry["kind"] != told.REWARD_MODEL and row["level"] == 0:
                yield from cards.measured(_TASK, entry["title"], entry["bench"], row["label"], row["tuned"])


def _settings(config: Config) -> list[dict[str, str]]:
    """The settings of `tune` that its algorithm reads; the card says elsewhere which that is, and what rewards."""
    others = {"algorithm", "rewards"} | (set().union(*READS.values()) - READS[algorithm_key(config.tune)])
    values = {key: value for key, value in config.tune.settled().items() if key not in others}
    return cards.settings(config.tune, values)


def _benchmarks(entries: list[told.Entry]) -> Iterator[tuple[str, ...]]:
    for entry in entries:
        for row in entry["rows"]:
            if row["level"] == 0:
                who = entry["judge"] or entry["kind"].replace("_", " ")
                yield f"{entry['title']}: {row['label']}", *told.cells(entry["kind"], row), who


def _lineage(run: Run) -> Iterator[tuple[str, str]]:
    """What went in and what came out, as the manifest has it: names without this machine's folders."""
    stages = run.manifest["stages"]
    for source, digest_of in stages["prompts"].get("inputs", {}).get("sources", {}).items():
        yield f"Source of prompts {Path(source).name}", digest_of
    read = stages["tune"].get("inputs", {})
    for model, digest_of in read.get("models", {}).items():
        yield f"Model {model_card.shown(model)}", digest_of
    for stage, digest_of in read.get("stages", {}).items():
        yield f"Outputs of {stage}", digest_of
    for name, sha256 in stages["tune"]["outputs"].items():
        if name.startswith("tune/policy/") and name.endswith(".safetensors"):
            yield Path(name).name, f"sha256:{sha256}"
