"""The data card of an export: what a run's lineage and the rankings themselves say, as Markdown that the Hub reads."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import DatasetCardData, EvalResult
from jinja2 import Environment, PackageLoader, StrictUndefined

from starling import audit, audit_text, endpoints, figures, judgements
from starling.before_after import judge_named
from starling.config import PanelTable, Table
from starling.endpoints import Endpoint
from starling.judges.naming import is_by_reward
from starling.judges.several import members_named
from starling.layouts import NAME, Form
from starling.store import Run, versions
from starling.texts import markdown

_SIZES = (
    (10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
)  # fmt: skip
_OF_MODELS = {"smollm2": "SmolLM2-135M-Instruct, Apache-2.0"}
_OF_SOURCES = {
    "nectar": "Apache-2.0, on the condition that it is not used to compete with OpenAI",
    "lmsys": "has a licence agreement of its own; check whether it lets you pass the data on",
    "sharegpt": "conversations that users shared, without a licence; check",
    "ultrafeedback": "MIT; its answers are by many models, each with its own terms",
    "hh-rlhf": "MIT",
}
_CHECK = "not known to Starling: check"
HOW = {
    "nectar": "Code written for Nectar reads it as it is.",
    "trl": "`RewardTrainer`, `DPOTrainer` and others take it. `margin` is the distance of the two ranks as a share of "
    "the longest possible; `RewardTrainer` subtracts it in its loss; without the column the loss is the plain one.",
    "unpaired": "For `KTOTrainer` and the like. `label` is true for the better half of a ranking, false for the worse.",
    "ultrafeedback": "`overall_score` goes from 10 for the first place to 1 for the last, made of ranks. Aspects were "
    "not rated: `Rating` is `N/A`. A conversation of several turns stands in `instruction` as Human/Assistant text.",
    "nemo-rl": "Give a file as `train_data_path` or `val_data_path` with `dataset_type: rank`. Rank 0 is preferred.",
    "verl": "Give a file as `data.train_files`, with a reward model or a reward function of your own: `ground_truth` "
    "is the best-ranked answer, not a checked one.",
    "llamafactory": f"Give this folder as `dataset_dir` and `{NAME}_train` as `dataset`, for stage `rm` or `dpo`.",
}


def data_card(run: Run | None, rankings: Path, form: Form, facts: Mapping[str, Any], licence: str) -> str:
    """The text of `README.md`: a header for the Hub, then what a reader has to know."""
    is_own = run is not None and rankings.exists() and rankings.samefile(run.root / "rank")
    log = judgements.read(run.root if run is not None and is_own else rankings)
    found = lineage(run, facts) | {"form": form, "facts": facts, "audit": audit.audit(log), "say": audit_text}
    return page("card.md.jinja", header(facts, licence), found | {"how": HOW[facts["format"]]})


def page(template: str, front: str, found: Mapping[str, Any]) -> str:
    """A card: the YAML that the Hub reads, then one of our pages, in which `md` makes foreign text harmless."""
    environment = Environment(
        loader=PackageLoader("starling", "pages"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"md": markdown, **figures.FORMATS, "written": _written, "changed": _changed}
    return f"---\n{front}\n---\n\n{environment.get_template(template).render(found)}"


def _written(score: Mapping[str, Any] | None, kind: str) -> str:
    return figures.FORMATS[f"{kind}_interval"](score) if score else ""


def _changed(score: Mapping[str, Any] | None, kind: str) -> str:
    return figures.FORMATS[f"{kind}_change"](score) if score else ""


def header(facts: Mapping[str, Any], licence: str) -> str:
    """The YAML that the Hub reads."""
    rows = sum(facts["rows"].values())
    files = [{"split": split, "path": name} for split, name in facts["files"].items()]
    return DatasetCardData(
        license=licence,
        task_categories=["text-generation"],
        tags=["rlaif", "preference", "reward-model", "synthetic", "starling", facts["format"]],
        size_categories=[next((name for most, name in _SIZES if rows < most), "n>1T")],
        configs=[{"config_name": "default", "data_files": files}],
    ).to_yaml()


def lineage(run: Run | None, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Where prompts, answers and ranks came from; of a file alone only what its rows say."""
    stages = {
        stage: run.facts(stage) if run is not None and run.is_done(stage) else {}
        for stage in ("prompts", "sample", "rank")
    }
    found = [] if run is None else generators(run)
    known = {one["name"]: one["licence"] for one in found}
    models = [
        {"name": name, "answers": count, "licence": known.get(name, _CHECK)} for name, count in facts["models"].items()
    ]
    return {
        "run": run,
        "prompts": stages["prompts"],
        "sample": stages["sample"],
        "rank": stages["rank"],
        "sources": sources(stages["prompts"], facts["sources"]),
        "generators": found,
        "models": models,
        "hosts": hosts(run, found, facts["judges"], [run.config.rank] if run else ()),
        "judges": [{"name": name, "named": judge_named(name), "count": n} for name, n in facts["judges"].items()],
        "spending": [
            {"stage": stage} | dict(entry)
            for stage in ("sample", "rank")
            for entry in stages[stage].get("spending") or []
        ],
        "versions": versions() if run is None else run.versions,
    }  # fmt: skip


def licence_of_model(name: str) -> str:
    """The licence of a model that Starling knows."""
    return _OF_MODELS.get(name, _CHECK)


def licence_of_source(name: str) -> str:
    """The licence of a source of prompts, where its name tells it."""
    if name == "starling":
        return "the built-in prompts, Apache-2.0"
    return next((known for part, known in _OF_SOURCES.items() if part in name.lower()), _CHECK)


def generators(run: Run) -> list[dict[str, Any]]:
    """Who answered in a run, with settings, host and licence."""
    told = run.facts("sample") if run.is_done("sample") else {}
    return [_generator(run, one) for one in told.get("generators", [])]


def hosts(
    run: Run | None, answering: Iterable[Mapping[str, Any]], judges: Iterable[str], tables: Sequence[PanelTable] = ()
) -> list[str]:
    """Where these generators and judges were asked, the judges by name and by the tables of the run that name them."""
    found = {one["host"] for one in answering} | _hosts(judges)
    if run is not None:
        found |= {_host(one) for table in tables for _, one in endpoints.of_judges(run.config, table)}
    return sorted(host for host in found if host)


def settings(table: Table, values: Mapping[str, Any]) -> list[dict[str, str]]:
    """These values of a table's settings, each with what it means."""
    fields = type(table).model_fields
    return [{"key": key, "value": str(value), "about": fields[key].description or ""} for key, value in values.items()]


def measured(task: str, data: str, key: str, label: str, score: Mapping[str, Any] | None) -> list[EvalResult]:
    """A figure with interval and n as the Hub's `model-index` takes it; none where there is no figure."""
    told = {name: value for name, value in (score or {}).items() if isinstance(value, int | float) and value == value}
    if "value" not in told:
        return []
    return [
        EvalResult(
            task_type=task,
            dataset_type="starling",
            dataset_name=data,
            metric_type=key,
            metric_name=label,
            metric_value=told["value"],
            metric_args={name: told[name] for name in ("low", "high", "n") if name in told},
        )
    ]


def _generator(run: Run, told: Mapping[str, Any]) -> dict[str, Any]:
    name, host = _behind(run, told.get("model") or run.config.run.model)
    return {
        "name": told["name"],
        "model": name,
        "host": host,
        "system": told.get("system", ""),
        "examples": len(told.get("examples", ())),
        "temperature": told.get("temperature"),
        "top_p": told.get("top_p"),
        "weakened": told.get("weakened", False),
        "licence": licence_of_model(name),
    }


def _behind(run: Run, name: str) -> tuple[str, str | None]:
    """What a MODEL is called where it runs, and the host; none for one in process."""
    endpoint = endpoints.find(run.config, name)
    return endpoint.model if endpoint else name, _host(endpoint)


def _host(endpoint: Endpoint | None) -> str | None:
    return urlsplit(endpoint.urls[0]).hostname if endpoint else None


def sources(prompts: Mapping[str, Any], counted: Mapping[str, int]) -> list[dict[str, Any]]:
    """Each source with what was read and kept, as far as it was recorded, and its rankings in this export."""
    told = {entry["name"]: entry for entry in prompts.get("sources") or []}
    names: Sequence[str] = list(dict.fromkeys([*told, *counted]))
    return [
        {
            "name": name,
            "read": told.get(name, {}).get("read"),
            "kept": told.get(name, {}).get("kept"),
            "rankings": counted.get(name, 0),
            "licence": licence_of_source(name),
        }
        for name in names
    ]


def _hosts(judges: Iterable[str]) -> set[str]:
    """Where hosted judges were asked: their names end in @host."""
    alone = {one for name in judges for one in members_named(name)}
    asked = {name for name in alone if not is_by_reward(name)}  # a folder's name may hold an @
    return {name.rpartition("@")[2].partition(":")[0] for name in asked if "@" in name}
