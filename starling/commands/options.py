"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from starling import config

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
LearntFromOption = Annotated[
    Path | None,
    typer.Option("--run", metavar="RUN", show_default="none", help="Hold its training prompts against the test's."),
]
OutputOption = Annotated[
    Literal["text", "json"],
    typer.Option(help="How a judge replies; json asks the endpoint to hold its verdict to a JSON schema."),
]
AnnotationsOption = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE",
        show_default="none",
        help="alpaca_eval: score annotations that are there, or such of other models beside; may be given again.",
    ),
]
TasksFromOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", show_default="none", help="lm_eval: tasks of yours; code that they name is run."),
]
TasksOption = Annotated[
    str, typer.Option(metavar="TASK,...", show_default="none", help="lm_eval: the harness's names of its tasks.")
]
