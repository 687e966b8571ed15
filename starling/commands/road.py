"""The commands of the road: `run`, `plan`, each stage alone, `report`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from starling import config, drive, progress
from starling.agreeing import stages_that_agree
from starling.at_work import alone
from starling.borrowing import borrow as take_over
from starling.command import command
from starling.commands.options import ConfigArgument, EstimateOption, RunOption, SetOption
from starling.errors import UsageError
from starling.store import ROAD, Run


@command("run")
def run_road(
    recipe: ConfigArgument = "",
    run: RunOption = None,
    until: Annotated[str, typer.Option(metavar="STAGE", help=f"Last stage: {', '.join(ROAD)}.")] = ROAD[-1],
    overrides: SetOption = None,
    borrow: Annotated[
        Path | None, typer.Option("--from", metavar="RUN", help="Take finished stages with the same settings over.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved settings and stop.")] = False,
    estimate: EstimateOption = False,
) -> dict[str, Any]:
    """The whole road, from prompts to the report; goes on where an earlier call stopped."""
    if until not in ROAD:
        raise UsageError(f"run: there is no stage {until!r}; stages: {', '.join(ROAD)}")
    from starling import summary

    root, settings = drive.settings(recipe, run, overrides)
    if dry_run:
        progress.say(config.dump(settings).rstrip("\n"))
        return settings.model_dump(mode="json")
    if estimate:
        summary.print_plan(settings)
        return {"plan": summary.plan(settings)} | _estimate(settings, root, ROAD[: ROAD.index(until) + 1], borrow)
    other = None if borrow is None else Run.read(borrow)
    with alone(root):
        opened = Run.open(root, settings)
        if other is not None:
            agreeing = stages_that_agree(settings, other.config)
            take_over(opened, other, agreeing)
            progress.say(drive.taken_over(agreeing, opened, other))
        stages = list(ROAD[: ROAD.index(until) + 1])
        if not all(map(opened.is_done, stages)):
            summary.print_plan(settings)
        drive.drive(opened, stages)
    summary.print_summary(opened)
    return {stage: opened.facts(stage) for stage in ROAD if opened.is_done(stage)}


@command("plan")
def plan(
    recipe: ConfigArgument = "",
    run: RunOption = None,
    overrides: SetOption = None,
    borrow: Annotated[
        Path | None, typer.Option("--from", metavar="RUN", help="A run whose finished stages would be taken over.")
    ] = None,
) -> dict[str, Any]:
    """What `run` would do, ask and cost, and nothing else; the same as `run --estimate`."""
    return run_road(recipe, run, overrides=overrides, borrow=borrow, estimate=True)


def _stage_command(stage: str) -> Callable[..., dict[str, Any]]:
    def one_stage(recipe: ConfigArgument = "", run: RunOption = None, overrides: SetOption = None) -> dict[str, Any]:
        root, settings = drive.settings(recipe, run, overrides)
        before = ROAD[: ROAD.index(stage)]
        if before:
            Run.read(root)  # a run that is not there is not begun in the middle
        with alone(root):
            opened = Run.open(root, settings)
            for needed in before:
                opened.facts(needed)
            drive.drive(opened, [stage])
        return {stage: opened.facts(stage)}

    return one_stage


def _register(stage: str, about: str) -> None:
    command(stage, f"{about} One stage of the road; needs the stages before it.")(_stage_command(stage))


def _estimate(settings: config.Config, root: Path, stages: Sequence[str], borrow: Path | None = None) -> dict[str, Any]:
    """Print and return what the stages would ask of endpoints."""
    from starling import estimate, estimate_text

    asked = [stage for stage in estimate.STAGES if stage in stages]
    found = estimate.estimate(settings, root, asked, taken_from=borrow)
    for line in estimate_text.lines(found):
        progress.say(line, "dim" if line.startswith(" ") else "")
    return found


def _register_with_estimate(stage: str, about: str) -> None:
    """As `_register`, for the stages whose calls may cost money."""

    def one_stage(
        recipe: ConfigArgument = "",
        run: RunOption = None,
        overrides: SetOption = None,
        estimate: EstimateOption = False,
    ) -> dict[str, Any]:
        if estimate:
            root, settings = drive.settings(recipe, run, overrides)
            return _estimate(settings, root, [stage])
        return _stage_command(stage)(recipe, run, overrides)

    command(stage, f"{about} One stage of the road; needs the stages before it.")(one_stage)


_register("prompts", "Read the prompt files and draw evenly over families.")


_register_with_estimate("sample", "Let every generator answer every prompt.")
_register_with_estimate("rank", "Let the judge rank the answers.")


@command("fit")
def fit(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="CONFIG", help="As for `run`; with --rankings its \\[fit] table, and more FILEs."),
    ] = None,
    run: RunOption = None,
    rankings: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE...", help="FILEs, folders or Hub names of your own: docs/rankings.md has the forms."
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="MODEL to start from, with --rankings.")] = "smollm2",
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the reward model, with --rankings.")
    ] = None,
    held_out: Annotated[
        float, typer.Option(metavar="SHARE", help="Share of the prompts kept for testing, 0 to 1, with --rankings.")
    ] = 0.1,
    overrides: SetOption = None,
) -> dict[str, Any]:
    """Fit the K-wise reward model: a stage of the road, or on rankings of your own."""
    configs = [name for name in files or [] if rankings is None or config.is_recipe(name)]
    if len(configs) > 1:
        raise UsageError(f"fit: one CONFIG, not {len(configs)}; your own files go after --rankings")
    recipe = configs[0] if configs else ""
    if rankings is None:
        if out is not None:
            raise UsageError("fit: --out goes with --rankings; a stage of the road writes into its --run folder")
        return _stage_command("fit")(recipe, run, overrides)
    if out is None or run is not None:
        raise UsageError("fit: --rankings needs --out DIR for the reward model, and no --run")
    keys = [given.partition("=")[0].strip() for given in overrides or []]  # a value may be nobody's business
    unread = [key for key in keys if not key.startswith("fit.") and key not in ("run.seed", "run.threads")]
    if unread:
        raise UsageError(
            f"fit: --rankings reads fit.*, run.seed and run.threads of the settings, so --set {unread[0]} would do "
            "nothing; the model is --model"
        )
    from starling import own_files, unusable

    settings = config.load(
        config.find_recipe(recipe or config.DEFAULT_RECIPE), overrides, leave_out="" if recipe else "fit"
    )
    more = [Path(name) for name in files or [] if name not in configs]
    facts = own_files.fit(settings, [*rankings, *more], model, out, held_out)
    right = f", what it gets right in {out / 'fit.json'}" if facts["held_out"] else ""
    listed = out / unusable.FILE
    left_out = f", what was left out in {listed}" if listed.is_file() else ""
    progress.say(f"fit: reward model in {out}{right}{left_out}")
    return facts


_register("tune", "Tune the policy against the reward model.")
_register_with_estimate("evaluate", "Compare base and tuned policy on the test prompts.")


@command("report")
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders.")],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Page for two or more RUNs (default compare.html); its numbers go beside it."
        ),
    ] = None,
    live: Annotated[bool, typer.Option("--live", help="Serve the page of one RUN while it goes on.")] = False,
    port: Annotated[
        int | None,
        typer.Option(metavar="PORT", min=0, max=65535, help="Of this machine, with --live; none: a free one."),
    ] = None,
) -> dict[str, Any]:
    """Write the HTML report of a run anew, one page that compares several runs, or serve a run's while it goes on."""
    if port is not None and not live:
        raise UsageError("report: --port goes with --live")
    if live and (len(runs) > 1 or out is not None):
        raise UsageError("report: --live serves one RUN and takes no --out; start it once for each")
    if len(runs) > 1:
        return _compare(runs, out)
    if out is not None:
        raise UsageError("report: --out is for two or more RUNs; the report of one is report.html in its folder")
    from starling.stages import report as stage

    if live:
        from starling import live as server

        return server.serve(runs[0], stage.gather, stage.live, port or 0)
    opened = Run.read(runs[0])
    facts = stage.run(opened)
    progress.say(f"report: {opened.report_path}")
    return {str(runs[0]): facts}


def _compare(folders: Sequence[Path], out: Path | None) -> dict[str, Any]:
    """Write the page that compares these runs, and print what it says first."""
    from starling import comparison, comparison_page, summary

    path = out or comparison_page.DEFAULT
    comparison_page.refuse_others(path)
    found = comparison.compare([Run.read(folder) for folder in folders])
    facts = comparison_page.write(path, found)
    summary.print_comparison(found.numbers)
    progress.say(f"report: {path}")
    return facts | {key: value for key, value in found.numbers.items() if key != "cases"}
