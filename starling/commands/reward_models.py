"""The commands that use a reward model: `score`, `bench`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from starling import progress
from starling.command import command
from starling.commands.options import DtypeOption


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
