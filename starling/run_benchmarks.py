"""The benchmarks that a run asks for: refused or priced beforehand, run after the test, taken where they stand."""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starling import bench, models, own_reward, progress, spending
from starling.account import Account
from starling.benches import cost, harness, scoring, told
from starling.benches.asked import Asked
from starling.benches.cost import Part
from starling.benches.results import RESULT
from starling.benches.told import Entry
from starling.config import BenchmarkTable, Config
from starling.errors import CallError, DataError, ModelError, StarlingError, StopStage, UsageError
from starling.ledger import Ledger
from starling.limits import Allowance
from starling.store import LEDGER, Run, is_run
from starling.writing import write_atomically

STAGE, FOLDER = "evaluate", "benchmarks"
ASSUMED = f"a benchmark's reply takes {cost.SHARE_OF_CAP:.0%} of its cap, until some were seen"
_REQUEST = "asked.json"
_PLEASED = "The judge is the reward model that the policy was tuned to please, so this is no proof of quality."


def run(run: Run) -> list[Entry]:
    """Run each benchmark into a folder of its own, `evaluate/benchmarks/`; what stands and is the same is taken."""
    with Ledger(run.ledger_path, STAGE) as ledger:
        allowance = spending.allowance(run.config, ledger)
    entries = []
    for table in run.config.evaluate.benchmarks:
        folder = run.folder(STAGE) / FOLDER / table.title
        asked = _asked(run.config, run.root, table, allowance)
        request, wanted = folder / _REQUEST, json.dumps(_request(run, table), indent=1) + "\n"
        if (folder / RESULT).exists() and request.exists() and request.read_text() == wanted:
            progress.say(f"{STAGE}: {table.title}: done already")
        else:
            request.unlink(missing_ok=True)
            progress.say(f"{STAGE}: {table.title}")
            with _in_words_of_the_settings(f"{STAGE}:", table):
                bench.run(table.name, asked)
            write_atomically(request, wanted)
        entry = told.told(table.title, json.loads((folder / RESULT).read_text()))
        rewarding = [judge for judge in table.judge if scoring.is_reward_model(judge, asked.account)]
        if any(own_reward.is_own(run, models.identity(judge)) for judge in rewarding):
            entry["says"].append(_PLEASED)
        entries.append(entry)
    told.show(entries)
    return entries


def refuse_unready(config: Config, root: Path) -> None:
    """Stop before anything is sampled where a benchmark lacks a judge, its data or a package."""
    for table in config.evaluate.benchmarks:
        _planned(table, _asked(config, root, table))


def expected(config: Config, root: Path) -> list[dict[str, Any]]:
    """What the benchmarks will ask of whom, as `benches.cost` has it, less what the run has on file."""
    found = []
    for table in config.evaluate.benchmarks:
        asked = _asked(config, root, table)
        parts = cost.expected(_planned(table, asked), root / LEDGER, asked.account)
        found += [part | {"benchmark": table.title} for part in parts]
    return found


def _planned(table: BenchmarkTable, asked: Asked) -> Sequence[Part]:
    with _in_words_of_the_settings("config: [[evaluate.benchmarks]]", table):
        return bench.plan(table.name, asked)


def _asked(config: Config, root: Path, table: BenchmarkTable, allowance: Allowance | None = None) -> Asked:
    """What `starling bench` would be asked: the tuned policy against the base, or the reward model."""
    takes = bench.BENCHMARKS[table.name].takes
    folder = root / STAGE / FOLDER / table.title
    of_policy = "against" in takes
    return Asked(
        model=str(root if of_policy else root / "fit" / "model"),
        against=config.run.model if of_policy else "",
        judge=table.judge,
        output=table.output,
        marks=table.marks,
        version=table.version,
        one_order=table.one_order,
        data=table.data,
        run=root if "run" in takes else None,
        tasks=table.tasks,
        tasks_from=Path(table.tasks_from) if table.tasks_from else None,
        out=folder if of_policy else folder / RESULT,
        dtype=table.dtype,
        account=Account(config=config, ledger=root / LEDGER, name=f"{STAGE} {table.title}", allowance=allowance),
    )


def _request(run: Run, table: BenchmarkTable) -> dict[str, Any]:
    """All that a result depends on: settings, weights, and the files and endpoints that the settings name."""
    model = "tune/policy/" if "against" in bench.BENCHMARKS[table.name].takes else "fit/model/"
    written = run.manifest["stages"][model.partition("/")[0]].get("outputs", {})
    judges = [Path(one) / "tune" / "policy" if is_run(one) else Path(one) for one in table.judge]
    named = [Path(one) for one in (table.data, table.tasks_from) if one] + judges
    return {
        "settings": table.model_dump(mode="json"),
        "base": run.config.run.model,
        "weights": {name: digest for name, digest in written.items() if name.startswith(model)},
        "files": {str(path): harness.digest(path) for path in named if path.exists()},
        "endpoints": [one.settled() for one in run.config.endpoints if one.name in table.judge],
    }


@contextmanager
def _in_words_of_the_settings(where: str, table: BenchmarkTable) -> Iterator[None]:
    """Say what is wrong by the keys of the table, which are called as the options of `starling bench` are."""
    try:
        yield
    except StopStage:
        raise
    except StarlingError as error:
        said = re.sub(
            r"--([a-z][a-z_-]*)", lambda match: f"`{match[1].replace('-', '_')}`", str(error).removeprefix("bench: ")
        )
        kinds = (UsageError, DataError, ModelError, CallError, StarlingError)
        kind = next(one for one in kinds if isinstance(error, one))
        raise kind(f"{where} {table.title}: {said}") from error
