"""The command line: runs one command; the only place that prints errors."""

import errno
import io
import os
import signal
import sys
import traceback
import warnings
from typing import Any

import typer
from rich.markup import escape

from starling import progress, texts
from starling.commands import app
from starling.errors import StarlingError

INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code; every foreseen error is one line on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads crawl where other work wants a core too
    signal.signal(signal.SIGTERM, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # where letters are written that it does not know
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
    progress.error_console.print(f"[red]error[/red]: {escape(texts.visible(' '.join(text.split())))}")
    return code


if __name__ == "__main__":
    sys.exit(main())
