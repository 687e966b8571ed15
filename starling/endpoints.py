"""Endpoint: a model behind URLs with its limits and price, from a name in the recipe or from `openai:NAME@URL`."""

import difflib
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starling import keys
from starling.config import Config, JudgeTable, PanelTable
from starling.errors import UsageError
from starling.judge_settings import NO_MODEL
from starling.settings import URL

_LEAST = {"concurrency": 1, "attempts": 1, "requests_per_minute": 0, "tokens_per_minute": 0, "timeout_seconds": 1e-3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One model behind one URL or several alike, with what may be asked of it; a limit of 0 is none.

    `name` stands in the ledger's keys, so that URLs may change; `key_env` is the environment variable with the key
    ("" = none). `timeout_seconds` is for one attempt. Prices are dollars per million tokens, None where unknown. The
    text below the fields of `[[endpoints]]` in settings.py says what each one means.
    """

    name: str
    urls: Sequence[str]
    model: str
    key_env: str = ""
    concurrency: int = 8
    requests_per_minute: float = 0.0
    tokens_per_minute: float = 0.0
    timeout_seconds: float = 120.0
    attempts: int = 6
    patience_seconds: float = 3600.0
    backoff_seconds: float = 0.5
    price_in: float | None = None
    price_out: float | None = None
    token_parameter: str = "max_tokens"
    sampling_parameters: bool = True
    strip_thinking: bool = True

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if not self.urls or isinstance(self.urls, str):
            raise UsageError(f"endpoint {self.name}: urls must be a list of at least one URL")
        for url in self.urls:
            if not re.fullmatch(URL, url):
                raise UsageError(
                    f"endpoint {self.name}: urls are http(s)://host/path, without keys or parameters in them"
                )
        for field, least in _LEAST.items():
            if getattr(self, field) < least:
                raise UsageError(f"endpoint {self.name}: {field} must be at least {least:g}")

    def usd(self, prompt_tokens: float, completion_tokens: float) -> float | None:
        """What so many tokens cost; None where a price is unknown."""
        if self.price_in is None or self.price_out is None:
            return None
        return (prompt_tokens * self.price_in + completion_tokens * self.price_out) / 1e6


def parse_endpoint(text: str, *, key_env: str = "", concurrency: int = 8) -> Endpoint:
    """The endpoint that `openai:NAME@URL` spells; further URLs of a pool follow after commas, and at the end, after a
    `#`, the environment variable that holds its key.

    Its ledger name holds the host, since two servers may call different models by one name. OPENAI_API_KEY is sent to
    OpenAI's own host only. The price is the shipped table's, where that knows host and model.
    """
    match = re.fullmatch(r"openai:(.+?)@(https?://[^\s#]+)(?:#([A-Z_][A-Z0-9_]*))?", text.strip())
    if match is None:
        raise UsageError(
            f"{text.partition('@')[0]!r} is no endpoint; write openai:NAME@URL, as in "
            "openai:qwen3@http://localhost:8000/v1, or openai:NAME@URL#VARIABLE where the environment variable "
            "VARIABLE holds the key"
        )
    urls = tuple(match[2].split(","))
    key_env = match[3] or key_env
    hosts = [urlsplit(url).netloc for url in urls]
    if not key_env and hosts == ["api.openai.com"]:
        key_env = "OPENAI_API_KEY"
    price_in, price_out = listed_price(urls, match[1])
    return Endpoint(
        name=f"{match[1]}@{hosts[0].rpartition('@')[2]}",
        urls=urls,
        model=match[1],
        key_env=key_env,
        concurrency=concurrency,
        price_in=price_in,
        price_out=price_out,
    )


def refuse_alike(one: Endpoint | None, other: Endpoint | None) -> None:
    """Refuse two models of one name in the ledger, where the replies of one would stand for the other's."""
    if one and other and one.name == other.name and one.urls != other.urls:
        raise UsageError(
            f"{one.urls[0]} and {other.urls[0]} are both {one.name} in the ledger of calls; give one of them a name of "
            "its own in an [[endpoints]] table, or ask it by another model name"
        )


def find(config: Config, model: str, *, key_env: str = "", concurrency: int = 8) -> Endpoint | None:
    """The endpoint that a MODEL of the recipe means; None for a model in this process.

    `key_env` and `concurrency` are for `openai:NAME@URL`; a named endpoint brings its own.
    """
    for table in config.endpoints:
        if table.name == model:
            listed = listed_price(table.urls, table.model)
            prices = {
                key: known if (own := getattr(table, key)) is None else own
                for key, known in zip(("price_in", "price_out"), listed, strict=True)
            }
            return Endpoint(**(table.model_dump() | prices))
    if model.startswith("openai:"):
        return parse_endpoint(model, key_env=key_env, concurrency=concurrency)
    near = difflib.get_close_matches(model, [table.name for table in config.endpoints], 1, 0.75)
    if near and "/" not in model and not Path(model).exists():
        raise UsageError(f"config: there is no endpoint {model!r}; did you mean {near[0]!r}?")
    return None


def of_judge(config: Config, cfg: JudgeTable) -> Endpoint | None:
    """The endpoint behind a stage's judge; None for what is no model and for a model in this process."""
    if cfg.judge in NO_MODEL:
        return None
    return find(config, cfg.judge, key_env=cfg.key_env, concurrency=cfg.concurrency)


def judges_of(cfg: JudgeTable) -> tuple[JudgeTable, ...]:
    """The judges that a stage names, each with its settings: one, or the members of its panel."""
    return cfg.judges if isinstance(cfg, PanelTable) and cfg.judges else (cfg,)


def of_judges(config: Config, cfg: JudgeTable) -> list[tuple[JudgeTable, Endpoint | None]]:
    """A stage's judges, each with the endpoint behind it; one that is named in two ways is refused."""
    found = [(one, of_judge(config, one)) for one in judges_of(cfg)]
    seen: dict[tuple[str, str], str] = {}
    for one, endpoint in found:
        same = endpoint.name if endpoint else folder_of(one.judge)
        before = seen.setdefault((same, "" if one.judge in NO_MODEL else one.strategy), one.judge)
        if before is not one.judge:
            raise UsageError(
                f"config: the judges {before} and {one.judge} are one, {same}, asked {one.strategy}; name it once"
            )
    return found


def local_judges(config: Config, stages: Sequence[str]) -> list[str]:
    """The MODELs in this process that judge in these stages."""
    judges = judging(config)
    asked = [one for stage in stages if stage in judges for one in of_judges(config, judges[stage])]
    return [one.judge for one, endpoint in asked if endpoint is None and one.judge not in NO_MODEL]


def judging(config: Config) -> dict[str, PanelTable]:
    """The stages in which somebody judges, and who: in `tune` at its looks."""
    return {"rank": config.rank, "tune": config.chooser, "evaluate": config.evaluate}


def folder_of(model: str) -> str:
    """A MODEL that is a folder by its one full path, however it is spelt; any other as it is."""
    path = Path(model)
    return str(path.resolve()) if path.exists() else model


def of_generators(config: Config) -> dict[str, Endpoint]:
    """The endpoints of the generators, by MODEL."""
    found: dict[str, Endpoint] = {}
    variables: dict[str, str] = {}
    for generator in config.sample.generators:
        endpoint = find(config, generator.model or config.run.model, key_env=generator.key_env)
        if endpoint is None:
            continue
        found[generator.model] = endpoint
        if variables.setdefault(generator.model, generator.key_env) != generator.key_env:
            told = ", ".join(sorted(map(repr, (variables[generator.model], generator.key_env))))
            raise UsageError(f"sample: the generators of {generator.model} name different keys: {told}")
    return found


def of_stage(config: Config, stage: str) -> list[Endpoint]:
    """The endpoints that a stage asks: `evaluate` for its benchmarks too."""
    if stage == "sample":
        return list(of_generators(config).values())
    judges = judging(config)
    asked = [endpoint for _, endpoint in of_judges(config, judges[stage])] if stage in judges else []
    if stage == "evaluate":
        asked += [find(config, judge) for one in config.evaluate.benchmarks for judge in one.judge]
    return list({endpoint.name: endpoint for endpoint in asked if endpoint}.values())


def of_ledger(name: str, model: str) -> Endpoint | None:
    """An endpoint that is asked no more, by its name in the ledger, where the shipped table has its price."""
    urls = [f"https://{name.removeprefix(f'{model}@')}"]
    price_in, price_out = listed_price(urls, model)
    if price_in is None:
        return None
    return Endpoint(name=name, urls=urls, model=model, price_in=price_in, price_out=price_out)


def named(config: Config) -> list[Endpoint]:
    """Every endpoint that the settings name, whether a stage asks it or not."""
    asked = [endpoint for stage in ("sample", "rank", "evaluate") for endpoint in of_stage(config, stage)]
    found = [*asked, *(known for table in config.endpoints if (known := find(config, table.name)))]
    first = {endpoint.name: endpoint for endpoint in reversed(found)}
    for endpoint in found:
        refuse_alike(first[endpoint.name], endpoint)
    return found


def refuse_unready(config: Config, stages: Sequence[str]) -> None:
    """Stop before the first stage where a later one would lack its key, or could not keep to the budget."""
    for stage in stages:
        for endpoint in of_stage(config, stage):
            key(endpoint, stage)
            if config.run.budget_usd and endpoint.usd(1, 1) is None:
                raise UsageError(
                    f"{stage}: run.budget_usd = {config.run.budget_usd:g} cannot be kept, since the price of "
                    f"{endpoint.name} is not known; give price_in and price_out (dollars per million tokens, 0 for a "
                    "server of your own) in an [[endpoints]] table"
                )


def key(endpoint: Endpoint, stage: str = "") -> str:
    """The endpoint's API key from the environment, "" where it needs none."""
    value = keys.read(endpoint.key_env)
    if endpoint.key_env and not value:
        where = f"{stage}: " if stage else ""
        raise UsageError(
            f"{where}{endpoint.name}: put the key into the environment variable {endpoint.key_env}; it is not set"
        )
    return value


def listed_price(urls: Sequence[str], model: str) -> tuple[float | None, float | None]:
    """Dollars per million tokens in and out by the shipped table; unknown unless all URLs are the provider's own."""
    hosts = {urlsplit(url).netloc for url in urls}
    for provider in _price_table()["providers"]:
        if hosts == {provider["host"]} and model in provider["models"]:
            price_in, price_out = provider["models"][model]
            return price_in, price_out
    return None, None


def prices_as_of() -> str:
    """The date of the shipped prices."""
    return str(_price_table()["as_of"])


@cache
def _price_table() -> dict[str, Any]:
    return tomllib.loads((resources.files("starling") / "data" / "prices.toml").read_text("utf-8"))
