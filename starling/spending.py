"""What a run has spent on endpoints, from its ledger; and what it may still spend."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from starling import endpoints, figures, progress
from starling.client import Client
from starling.config import Config
from starling.errors import UsageError
from starling.ledger import Ledger, Spent, read_spent
from starling.limits import Allowance

Entry = dict[str, Any]


def allowance(config: Config, ledger: Ledger) -> Allowance:
    """The money that the run has left over all its attempts, and the time of the ledger's stage."""
    deadlines = {
        "sample": config.sample.deadline_seconds,
        "rank": config.rank.deadline_seconds,
        "evaluate": config.evaluate.deadline_seconds,
    }
    root = ledger.path.parent
    if config.run.budget_usd:
        _refuse_unpriced(config, ledger.spent())
    return Allowance(
        ledger.stage,
        budget_usd=config.run.budget_usd,
        spent_usd=spent_usd(config, ledger),
        deadline_seconds=deadlines.get(ledger.stage, 0.0),
        advice=f"the same command goes on, with more money after `starling run --run {root} --set run.budget_usd=...`",
    )


def spent_usd(config: Config, ledger: Ledger) -> float:
    """Dollars that left over all stages and attempts; endpoints without a known price do not count."""
    return usd_of(config, ledger.spent())


def usd_of(config: Config, rows: Iterable[Spent]) -> float:
    """Dollars of these rows of a ledger, as the settings price them now; without a known price they do not count."""
    return sum(entry["usd"] or 0.0 for entry in _entries(config, rows))


def _refuse_unpriced(config: Config, rows: Iterable[Spent]) -> None:
    """Stop where the run has called an endpoint of which the settings no longer tell what it costs."""
    for entry in _entries(config, rows):
        if entry["usd"] is None and entry["prompt_tokens"] + entry["completion_tokens"]:
            raise UsageError(
                f"{entry['stage']}: run.budget_usd = {config.run.budget_usd:g} cannot be kept: the run has called "
                f"{entry['endpoint']}, whose price is not known; give it in an [[endpoints]] table of that name, or "
                "set run.budget_usd = 0"
            )


def of_stage(config: Config, ledger: Ledger, clients: Iterable[Client] = ()) -> list[Entry]:
    """What a stage has spent over all its attempts, an entry for each endpoint; the facts of the stage hold it.

    `failures` are attempts without a valid reply; their tokens, where the endpoint may have charged for them, are
    counted as the most that they can be. `from_ledger` are the replies that `clients` found there this time.
    """
    found = {entry["endpoint"]: entry for entry in _entries(config, ledger.spent()) if entry["stage"] == ledger.stage}
    for client in clients:
        if client.name not in found and client.counts.from_ledger:
            found[client.name] = _entry(client.name, client.endpoint.model, 0, 0, 0, 0) | {"usd": 0.0}
        if client.name in found:
            found[client.name]["from_ledger"] += client.counts.from_ledger
            found[client.name]["answered_as"] = sorted({*found[client.name]["answered_as"], *client.answered_as})
    for entry in found.values():
        entry.pop("stage", None)
    return list(found.values())


def by_stage(config: Config, path: Path) -> dict[str, float | None]:
    """Dollars of each stage that has called an endpoint, None where one has no known price.

    The ledger is only read, and only where the settings name an endpoint.
    """
    found: dict[str, float | None] = {}
    for entry in _entries(config, read_spent(path)) if _known(config) else []:
        stage = entry["stage"].partition(" ")[0]  # what a benchmark asks counts as its stage's
        before = found.get(stage, 0.0)
        found[stage] = None if before is None or entry["usd"] is None else before + entry["usd"]
    return found


def report(stage: str, spending: Iterable[Entry]) -> None:
    """Print a stage's spending, a line for each endpoint."""
    for entry in spending:
        cost = figures.money(entry["usd"])
        failed = f", {entry['failures']:,} attempts failed" if entry["failures"] else ""
        progress.say(
            f"{stage}: {entry['endpoint']}: {entry['calls']:,} calls, {entry['from_ledger']:,} replies from the "
            f"ledger{failed}, {entry['prompt_tokens']:,} tokens in, {entry['completion_tokens']:,} out, {cost}"
        )
        other = [name for name in entry["answered_as"] if not _are_alike(name, entry["model"])]
        if other:
            progress.say(f"{stage}: {entry['endpoint']} says that {', '.join(other)} answered")


def _entries(config: Config, rows: Iterable[Spent]) -> list[Entry]:
    """What every stage has spent on every endpoint, priced as the settings say now."""
    known = _known(config)
    found = []
    for spent in rows:
        if spent.in_this_process:
            continue
        endpoint = known.get(spent.name) or endpoints.of_ledger(spent.name, spent.model)
        usd = endpoint.usd(spent.prompt_tokens, spent.completion_tokens) if endpoint else None
        entry = _entry(spent.name, spent.model, *spent[3:7]) | {"usd": usd, "stage": spent.stage}
        found.append(entry)
    return found


def _known(config: Config) -> dict[str, endpoints.Endpoint]:
    return {endpoint.name: endpoint for endpoint in endpoints.named(config)}


def _entry(name: str, model: str, calls: int, failures: int, prompt_tokens: int, completion_tokens: int) -> Entry:
    return {
        "endpoint": name,
        "model": model,
        "calls": calls,
        "from_ledger": 0,
        "failures": failures,
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "answered_as": [],
    }


def _are_alike(one: str, other: str) -> bool:
    """Whether two names may mean one model: providers add dates and folders to what was asked for."""
    one, other = (name.lower().rpartition("/")[2] for name in (one, other))
    return one.startswith(other) or other.startswith(one)
