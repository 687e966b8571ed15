"""The commands that use a reward model: `score`."""

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
    progress.say(f"score: {count} rows -> {out}")
    return {"rows": count, "out": str(out)}
