"""Commands to stages; the only place that prints errors."""

import errno
import functools
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape

from starling import config, drive, progress
from starling.command import app, command
from starling.errors import StarlingError, UsageError
from starling.store import ROAD, Run, alone, stages_that_agree

INTERRUPTED = 130
ConfigArgument = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG",
        show_default=f"what the run was made with, else {config.DEFAULT_RECIPE}",
        help="A TOML file, or the name of a recipe that comes with Starling.",
    ),
]
RunOption = Annotated[
    Path | None, typer.Option("--run", metavar="DIR", show_default="runs/<name of CONFIG>", help="Run folder.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Change one setting; may be given again."),
]
DtypeOption = Annotated[
    Literal["float32", "bfloat16"],
    typer.Option(help="Of the weights; bfloat16 is faster on a CPU that knows the type, its rewards less exact."),
]
EstimateOption = Annotated[
    bool, typer.Option("--estimate", help="Print what is to be done, its calls, tokens, cost and time, and stop.")
]


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
        progress.console.print(config.dump(settings), end="", markup=False)
        return settings.model_dump(mode="json")
    if estimate:
        summary.print_plan(settings)
        return {"plan": summary.plan(settings)} | _estimate(settings, root, ROAD[: ROAD.index(until) + 1])
    other = None if borrow is None else Run.read(borrow)
    with alone(root):
        opened = Run.open(root, settings)
        if other is not None:
            agreeing = stages_that_agree(settings, other.config)
            opened.borrow(other, agreeing)
            progress.console.print(drive.taken_over(agreeing, opened, other), markup=False)
        stages = list(ROAD[: ROAD.index(until) + 1])
        if not all(map(opened.is_done, stages)):
            summary.print_plan(settings)
        drive.drive(opened, stages)
    summary.print_summary(opened)
    return {stage: opened.facts(stage) for stage in ROAD if opened.is_done(stage)}


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


_register("prompts", "Read the prompt files and draw evenly over families.")


def _estimate(settings: config.Config, root: Path, stages: Sequence[str]) -> dict[str, Any]:
    """Print and return what the stages would ask of endpoints."""
    from starling import estimate

    found = estimate.estimate(settings, root, [stage for stage in estimate.STAGES if stage in stages])
    for line in estimate.lines(found):
        progress.console.print(escape(line), style="dim" if line.startswith(" ") else None)
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


_register_with_estimate("sample", "Let every generator answer every prompt.")
_register_with_estimate("rank", "Let the judge rank the answers.")


@command("fit")
def fit(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="CONFIG", help="As for `run`; with --rankings its [fit] table, and more FILEs."),
    ] = None,
    run: RunOption = None,
    rankings: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE...", help="FILEs of your own: Nectar form or prompt/chosen/rejected."),
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
    configs = [name for name in files or [] if rankings is None or name.endswith(".toml")]
    if len(configs) > 1:
        raise UsageError(f"fit: one CONFIG, not {len(configs)}; your own files go after --rankings")
    recipe = configs[0] if configs else ""
    if rankings is None:
        if out is not None:
            raise UsageError("fit: --out goes with --rankings; a stage of the road writes into its --run folder")
        return _stage_command("fit")(recipe, run, overrides)
    if out is None or run is not None:
        raise UsageError("fit: --rankings needs --out DIR for the reward model, and no --run")
    from starling import own_files

    settings = config.load(
        config.find_recipe(recipe or config.DEFAULT_RECIPE), overrides, leave_out="" if recipe else "fit"
    )
    more = [Path(name) for name in files or [] if name not in configs]
    facts = own_files.fit(settings, [*rankings, *more], model, out, held_out)
    progress.console.print(f"fit: reward model in {out}, what it gets right in {out / 'fit.json'}", markup=False)
    return facts


_register("tune", "Tune the policy against the reward model.")
_register("evaluate", "Compare base and tuned policy on the test prompts.")


@command("score")
def score(
    model: Annotated[str, typer.Option(help="Reward MODEL.")],
    source: Annotated[Path, typer.Option("--in", metavar="FILE", help="FILE with prompts and answers.")],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="JSONL file to write: each row with `rewards`, and `spreads` if there are any."
        ),
    ],
    scaled: Annotated[
        bool, typer.Option("--scaled", help="Rewards in standard deviations from the mean of the held-out answers.")
    ] = False,
    dtype: DtypeOption = "float32",
) -> dict[str, Any]:
    """Rewards of prompt/answer rows."""
    from starling import own_files

    count = own_files.score(model, source, out, scaled=scaled, dtype=dtype)
    progress.console.print(f"score: {count} rows -> {out}", markup=False)
    return {"rows": count, "out": str(out)}


@command("bench")
def bench(
    name: Annotated[str, typer.Argument(metavar="NAME", help="starling_rm, reward_bench or reward_bench_2.")],
    model: Annotated[str, typer.Option(show_default="none", help="Reward MODEL to test.")] = "",
    scores: Annotated[
        str,
        typer.Option(
            metavar="FILE", show_default="none", help="Instead of --model: an earlier --out, or `stored` in the rows."
        ),
    ] = "",
    data: Annotated[
        str, typer.Option(metavar="FILE", show_default="the Hub's", help="FILE, folder or data set with its rows.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Also write the figures and each row's scores.")
    ] = None,
    dtype: DtypeOption = "float32",
) -> dict[str, Any]:
    """Test a reward model on a benchmark, with intervals, beside length alone."""
    from starling import bench as benchmarks

    return benchmarks.run(name, model=model, scores=scores, data=data, out=out, dtype=dtype)


@command("show")
def show(
    source: Annotated[Path, typer.Argument(help="A table, a stage's folder or a run's.")],
    count: Annotated[int, typer.Option("--n", min=1, help="Rows to show.")] = 3,
    row: Annotated[str, typer.Option(metavar="ID", show_default="all", help="Only the rows of this prompt.")] = "",
) -> Callable[[], Any]:
    """Read a table, or what a run has done so far."""
    from starling import show as pages

    pages.show(source, count, row)
    return functools.partial(pages.shown, source, count, row)


@command("audit")
def audit(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Ranking tables, logs of judge's replies, folders, runs.")
    ],
    pool: Annotated[bool, typer.Option("--pool", help="Take all FILEs as one log: shards, or repeats.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Also write the figures with plots as one page.")
    ] = None,
) -> dict[str, Any]:
    """Bias and consistency of a judge: place, length, pair verdicts, repeats, models, unread replies."""
    from starling import audit, audit_page, audit_text, judgements

    if out is not None and (out.is_dir() or out.suffix != ".html"):
        raise UsageError(f"audit: --out {out} is to be an .html file")
    logs = [judgements.read(path) for path in files]
    if pool:
        logs = [judgements.pooled(logs)]
    audits, between = [audit.audit(log) for log in logs], audit.between(logs)
    audit_text.print_audits(audits, between)
    if out is not None:
        audit_page.write(out, audits, between)
        progress.console.print(f"audit: {out}", markup=False)
    return {"logs": audits, "between": between}


@command("export")
def export(
    source: Annotated[
        Path,
        typer.Argument(metavar="RUN|FILE|MODEL", help="A run, a ranking table, shards; for --gguf a MODEL."),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="What to write, with --gguf a FILE; an earlier export is replaced.")
    ],
    to: Annotated[
        str, typer.Option(metavar="FORMAT", help="nectar, trl, unpaired, ultrafeedback, nemo-rl, verl or llamafactory.")
    ] = "",
    gguf: Annotated[bool, typer.Option("--gguf", help="Instead of rankings: the tuned policy, for llama.cpp.")] = False,
    dtype: Annotated[
        Literal["f16", "bf16", "f32"] | None,
        typer.Option(show_default="f16", help="Of the weights, with --gguf; f32 is exact, and twice as large."),
    ] = None,
    pairs: Annotated[
        str,
        typer.Option(metavar="CHOICE", show_default="all", help="For formats of pairs: all, adjacent or best_worst."),
    ] = "",
    licence: Annotated[
        str, typer.Option("--license", metavar="ID", help="What the data card or the file gives as licence.")
    ] = "other",
    push: Annotated[
        str,
        typer.Option(
            metavar="OWNER/NAME",
            show_default="no",
            help="Also upload to the Hugging Face Hub, private; the token comes from HF_TOKEN.",
        ),
    ] = "",
    public: Annotated[bool, typer.Option("--public", help="With --push: open to everybody.")] = False,
) -> dict[str, Any]:
    """Write rankings in another tool's form, with a data card, or the policy as one file for llama.cpp."""
    if gguf:
        if to or pairs or push or public:
            raise UsageError("export: --gguf writes a model; --to, --pairs, --push and --public are for rankings")
        from starling import gguf_file

        return gguf_file.export(source, out, dtype or "f16", licence)
    if not to or dtype:
        raise UsageError(
            "export: --dtype goes with --gguf" if to else "export: give --to FORMAT, or --gguf for the policy"
        )
    from starling import export as exports

    return exports.export_and_push(source, to, out, pairs=pairs, licence=licence, push=push, public=public)


@command("report")
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders.")],
) -> dict[str, Any]:
    """Write the HTML report of finished runs anew."""
    from starling.stages import report as stage

    facts = {}
    for folder in runs:
        opened = Run.read(folder)
        facts[str(folder)] = stage.run(opened)
        progress.console.print(f"report: {opened.report_path}", markup=False)
    return facts


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code; every foreseen error is one line on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with warnings.catch_warnings(action=None if debug else "ignore"):
            code = app(arguments, standalone_mode=False) or 0
    except StarlingError as error:
        return _fail(str(error), error.exit_code, debug)
    except typer.TyperException as error:
        name = " ".join(["starling", *arguments[:1]]) if arguments[:1] and arguments[0] in _names() else "starling"
        return _fail(f"{error.format_message()} (see `{name} --help`)", error.exit_code, debug) if str(error) else 2
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except OSError as error:
        return _fail(_explain(error), 1, debug)
    if code == INTERRUPTED:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # an impatient second Ctrl-C must not spoil the one line
        progress.error_console.print("interrupted; what is finished is kept, the same command goes on from there")
    return code


def _names() -> list[str]:
    return [str(registered.name) for registered in app.registered_commands]


def _explain(error: OSError) -> str:
    where = f": {error.filename}" if error.filename else ""
    advice = "; free space, then the same command goes on" if error.errno == errno.ENOSPC else ""
    return f"{error.strerror or error}{where}{advice}"


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _fail(text: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    progress.error_console.print(f"[red]error[/red]: {escape(' '.join(text.split()))}")
    return code


if __name__ == "__main__":
    sys.exit(main())
