"""What all commands share: the app, `--json`, `--debug`, `--version`."""

import functools
import inspect
import json
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from starling import __version__, progress
from starling.errors import Unfit
from starling.writing import without_nan

ABOUT = "Align a language model with AI feedback: sample, rank, fit a reward model, tune, evaluate."
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and all else on stderr.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def command(name: str, about: str = "", group: typer.Typer = app) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as a command with `--json` and `--debug`.

    What it returns is what `--json` prints; a function that it returns is called only then.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def called(*, as_json: bool, debug: bool, **options: Any) -> None:  # `main` has seen --debug already
            progress.console.stderr = as_json  # what is for people leaves standard output to the JSON
            unfit: Unfit | None = None
            try:
                result = function(**options)
                found = without_nan(result() if callable(result) else result) if as_json else None
            except Unfit as error:
                unfit, found = error, without_nan(error.result)
            finally:
                progress.console.stderr = False
            if as_json:
                plain = (sys.stdout.encoding or "").lower() != "utf-8"  # which letters it knows is not sure
                print(json.dumps(found, ensure_ascii=plain, default=str))
            if unfit:
                raise unfit

        own = list(inspect.signature(function).parameters.values())
        common = [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
            for key, annotation in (("as_json", JsonOption), ("debug", DebugOption))
        ]
        called.__signature__ = inspect.Signature([*own, *common])  # type: ignore[attr-defined]  # for inspect
        group.command(name, help=about or None)(called)
        return function

    return register


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback(help=ABOUT)
def common(
    debug: DebugOption = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """What goes before every command; both options act before they get here."""
