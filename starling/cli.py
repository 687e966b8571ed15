"""Commands to stages; the only place that prints errors."""

import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from starling import __version__, config, progress
from starling.config import Config
from starling.errors import StarlingError, UsageError
from starling.store import ROAD, Run, stages_that_agree, timed

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Align a language model with AI feedback: sample, rank, fit a reward model, tune, evaluate.",
)

ConfigArgument = Annotated[str, typer.Argument(help="A TOML file, or the name of a recipe that comes with Starling.")]
RunOption = Annotated[Path | None, typer.Option("--run", help="Run folder. [default: runs/<name of the TOML file>]")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Change one setting.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.callback()
def common(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit
    if debug:
        os.environ["STARLING_DEBUG"] = "1"


@app.command("run")
def run_road(
    recipe: ConfigArgument = config.DEFAULT_RECIPE,
    run: RunOption = None,
    until: Annotated[str, typer.Option(help=f"Last stage: {', '.join(ROAD)}.")] = ROAD[-1],
    overrides: SetOption = None,
    borrow: Annotated[Path | None, typer.Option("--from", help="Take finished stages with the same settings over.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved settings and stop.")] = False,
    as_json: JsonOption = False,
) -> None:
    """The whole road, from prompts to the report; goes on where an earlier call stopped."""
    if until not in ROAD:
        raise UsageError(f"run: there is no stage {until!r}; stages: {', '.join(ROAD)}")
    path = config.find_recipe(recipe)
    settings = config.load(path, overrides)
    if dry_run:
        print(config.dump(settings), end="")
        return
    opened = Run.open(run or Path("runs") / path.stem, settings)
    if borrow is not None:
        other = Run.read(borrow)
        opened.borrow(other, stages_that_agree(settings, other.config))
    _drive(opened, list(ROAD[: ROAD.index(until) + 1]))
    _print_result(opened, as_json)


def _stage_command(stage: str) -> Callable[..., None]:
    def command(
        recipe: ConfigArgument = config.DEFAULT_RECIPE, run: RunOption = None, overrides: SetOption = None
    ) -> None:
        path = config.find_recipe(recipe)
        opened = Run.open(run or Path("runs") / path.stem, config.load(path, overrides))
        before = ROAD[: ROAD.index(stage)]
        for needed in before:
            opened.facts(needed)
        _drive(opened, [stage])

    return command


for _stage, _help in {
    "prompts": "Read the prompt files and draw evenly over families.",
    "sample": "Let every generator answer every prompt.",
    "rank": "Let the judge rank the answers.",
    "tune": "Tune the policy against the reward model.",
    "evaluate": "Compare base and tuned policy on the test prompts.",
}.items():
    app.command(_stage, help=f"{_help} One stage of the road; needs the stages before it.")(_stage_command(_stage))


@app.command()
def fit(
    recipe: ConfigArgument = config.DEFAULT_RECIPE,
    run: RunOption = None,
    rankings: Annotated[list[Path] | None, typer.Option(help="FILE of your own: Nectar form or prompt/chosen/rejected.")] = None,
    model: Annotated[str, typer.Option(help="MODEL to start from, with --rankings.")] = "smollm2",
    out: Annotated[Path | None, typer.Option(help="Folder for the reward model, with --rankings.")] = None,
    held_out: Annotated[float, typer.Option(help="Share of the rankings kept for testing, with --rankings.")] = 0.1,
    overrides: SetOption = None,
) -> None:
    """Fit the K-wise reward model: a stage of the road, or on rankings of your own."""
    if rankings is None:
        _stage_command("fit")(recipe, run, overrides)
        return
    if out is None:
        raise UsageError("fit: --rankings needs --out FOLDER for the reward model")
    from starling import own_files

    settings = config.load(config.find_recipe(recipe), overrides)
    facts = own_files.fit(settings, rankings, model, out, held_out)
    print(json.dumps(facts, indent=1))


@app.command()
def score(
    model: Annotated[str, typer.Option(help="Reward MODEL.")],
    source: Annotated[Path, typer.Option("--in", help="FILE with prompts and answers.")],
    out: Annotated[Path, typer.Option(help="JSONL file to write: each row with `rewards`.")],
) -> None:
    """Rewards of prompt/answer rows."""
    from starling import own_files

    count = own_files.score(model, source, out)
    progress.console.print(f"score: {count} rows -> {out}")


@app.command()
def show(
    source: Annotated[Path, typer.Argument(help="A table or a run folder.")],
    count: Annotated[int, typer.Option("--n", min=1, help="Rows to show.")] = 3,
    row: Annotated[str, typer.Option(help="Only the rows of this prompt id.")] = "",
) -> None:
    """Read a table, or what a run has done so far."""
    from starling import show as pages

    pages.show(source, count, row)


@app.command()
def report(runs: Annotated[list[Path], typer.Argument(help="Run folder.")]) -> None:
    """Write the HTML report of finished runs anew."""
    from starling.stages import report as stage

    for folder in runs:
        stage.run(Run.read(folder))
        progress.console.print(f"report: {folder / 'report.html'}")


def main() -> None:
    """Run a command; every foreseen error is one line on stderr."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app(standalone_mode=True)
    except StarlingError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted; what is finished is kept, the same command goes on from there", 130)
    except OSError as error:
        _fail(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), 1)


def _drive(run: Run, stages: list[str]) -> None:
    """Do the stages that are not done yet, in road order."""
    from starling import device

    threads = device.setup(run.config.run.threads, run.config.run.seed)
    progress.console.print(f"run {run.root}, {threads} threads, seed {run.config.run.seed}")
    for stage in stages:
        if run.is_done(stage):
            progress.console.print(f"{stage}: done already ({run.manifest['stages'][stage]['seconds']:.0f} s)")
            continue
        module = importlib.import_module(f"starling.stages.{stage}")
        run.started(stage)
        with timed(run, stage):
            facts = module.run(run)
        run.finished(stage, facts)
        progress.console.print(f"{stage}: done in {run.manifest['stages'][stage]['seconds']:.0f} s")


def _print_result(run: Run, as_json: bool) -> None:
    facts = {stage: run.facts(stage) for stage in ROAD if run.is_done(stage)}
    if as_json:
        print(json.dumps(facts))


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _fail(text: str, code: int) -> None:
    if os.environ.get("STARLING_DEBUG"):
        traceback.print_exc()
    progress.error_console.print(f"[red]error[/red]: {escape(text)}")
    sys.exit(code)


if __name__ == "__main__":
    main()
