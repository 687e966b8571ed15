"""The commands that read and write tables: `show`, `audit`, `export`."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from starling import progress
from starling.command import command
from starling.errors import UsageError


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
    if pool:
        logs = [judgements.pooled([judgements.read(path) for path in files])]
    else:
        logs = [log for path in files for log in judgements.with_members(path)]
    audits, between = [audit.audit(log) for log in logs], audit.between(logs)
    audit_text.print_audits(audits, between)
    if out is not None:
        audit_page.write(out, audits, between)
        progress.say(f"audit: {out}")
    return {"logs": audits, "between": between}


@command("export")
def export(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|FILE|MODEL", help="A run, a ranking table, shards; --gguf: a MODEL; --merge: adapters."
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="What to write, with --gguf a FILE; an earlier export is replaced.")
    ],
    to: Annotated[
        str, typer.Option(metavar="FORMAT", help="nectar, trl, unpaired, ultrafeedback, nemo-rl, verl or llamafactory.")
    ] = "",
    merge: Annotated[
        bool, typer.Option("--merge", help="Instead of rankings: adapters, merged into the model they are of.")
    ] = False,
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
    """Write rankings in another tool's form, with a data card; the policy for llama.cpp; or adapters, merged."""
    if gguf and merge:
        raise UsageError("export: --gguf or --merge, not both; merge first, then export what that wrote")
    if (gguf or merge) and (to or pairs or push or public):
        kind = "--gguf" if gguf else "--merge"
        raise UsageError(f"export: {kind} writes a model; --to, --pairs, --push and --public are for rankings")
    if merge and (dtype or licence != "other"):
        raise UsageError("export: --dtype and --license go with --gguf; merged weights keep the base's")
    if merge:
        from starling import merging

        return merging.export(source, out)
    if gguf:
        from starling import gguf_file

        return gguf_file.export(source, out, dtype or "f16", licence)
    if not to or dtype:
        raise UsageError(
            "export: --dtype goes with --gguf" if to else "export: give --to FORMAT, or --gguf for the policy"
        )
    from starling import export as exports

    return exports.export_and_push(source, to, out, pairs=pairs, licence=licence, push=push, public=public)
