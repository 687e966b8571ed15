"""The command that tests a model: `bench`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from starling.command import command
from starling.commands.options import (
    AnnotationsOption,
    DtypeOption,
    LearntFromOption,
    OutputOption,
    TasksFromOption,
    TasksOption,
)


@command("bench")
def bench(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="starling_rm, reward_bench, reward_bench_2, mt_bench, alpaca_eval, ifeval, safety or lm_eval.",
        ),
    ],
    model: Annotated[
        str, typer.Option(show_default="none", help="MODEL to test; of a RUN its tuned policy, or a reward MODEL.")
    ] = "",
    scores: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            show_default="none",
            help="Reward models: instead of --model an earlier --out, or `stored` in the rows.",
        ),
    ] = "",
    answers: Annotated[
        Path | None,
        typer.Option(metavar="FILE", show_default="none", help="Chat models: answers that are there, none is sampled."),
    ] = None,
    judge: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", show_default="none", help="Who judges the answers; given again, a panel does."),
    ] = None,
    output: OutputOption = "text",
    against: Annotated[
        str,
        typer.Option(metavar="MODEL|FILE", show_default="none", help="Compare in pairs with another MODEL's answers."),
    ] = "",
    marks: Annotated[
        bool, typer.Option("--marks", help="mt_bench: with --against, mark both sides and compare the marks.")
    ] = False,
    judgments: Annotated[
        Path | None,
        typer.Option(metavar="FILE", show_default="none", help="Score judgments that are there; no call is made."),
    ] = None,
    annotations: AnnotationsOption = None,
    version: Annotated[
        int,
        typer.Option(min=1, max=2, help="alpaca_eval: 1 = a verdict, 2 = the probabilities of both letters."),
    ] = 1,
    one_order: Annotated[
        bool, typer.Option("--one-order", help="alpaca_eval: show a pair in one order, drawn by seed, not in both.")
    ] = False,
    data: Annotated[
        str, typer.Option(metavar="FILE", show_default="the Hub's", help="FILE, folder or data set with its rows.")
    ] = "",
    run: LearntFromOption = None,
    tasks: TasksOption = "",
    tasks_from: TasksFromOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|DIR",
            show_default="none, or runs/bench-NAME-MODEL",
            help="Where figures and scores go: FILE.json of a reward model, DIR of a chat model.",
        ),
    ] = None,
    dtype: DtypeOption = "float32",
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Print the calls, tokens and cost of a chat model's test, and stop.")
    ] = False,
) -> dict[str, Any]:
    """Test a reward model, or a chat model with a judge, on a benchmark, with intervals."""
    from starling import bench as benchmarks
    from starling.benches.asked import Asked

    return benchmarks.run(
        name,
        Asked(
            model=model, scores=scores, answers=answers, judge=tuple(judge or ()), output=output, against=against,
            marks=marks, judgments=judgments, annotations=tuple(annotations or ()), version=version,
            one_order=one_order, data=data, run=run, tasks=tasks, tasks_from=tasks_from, out=out, dtype=dtype,
            estimate=estimate,
        ),
    )  # fmt: skip
