"""The command that looks before the long work begins: `doctor`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from starling import drive
from starling.command import command
from starling.commands.options import RunOption, SetOption
from starling.store import is_run


@command("doctor")
def doctor(
    source: Annotated[
        str, typer.Argument(metavar="RUN|CONFIG", show_default="smollm2", help="A run folder, a TOML file or a recipe.")
    ] = "",
    run: RunOption = None,
    overrides: SetOption = None,
) -> dict[str, Any]:
    """Look at all that tuning stands on, before it begins; exits with 1 where something must stop."""
    if run is None and source and is_run(source):
        source, run = "", Path(source)
    root, settings = drive.settings(source, run, overrides)
    from starling import doctor as checks

    return checks.report(checks.examine(settings, checks.opened(root)))
