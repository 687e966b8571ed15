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
        Path | None,
        typer.Option(
            metavar="DIR",
            show_default="none, with --push alone",
            help="What to write, with --gguf a FILE; an earlier export is replaced.",
        ),
    ] = None,
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
        str, typer.Option("--license", metavar="ID", help="What the card or the file gives as licence.")
    ] = "other",
    push: Annotated[
        str,
        typer.Option(
            metavar="OWNER/NAME",
            show_default="no",
            help="Also upload to the Hugging Face Hub, private; alone: the tuned policy, or a MODEL's folder, as it "
            "stands. The token comes from HF_TOKEN.",
        ),
    ] = "",
    public: Annotated[bool, typer.Option("--public", help="With --push: open to everybody.")] = False,
) -> dict[str, Any]:
    """Write rankings in another tool's form, or a model for llama.cpp or merged; with a card, and to the Hub."""
    how = _how(to, pairs, gguf=gguf, merge=merge, dtype=dtype, push=push)
    if public and not push:
        raise UsageError("export: --public goes with --push")
    if (out is None) is not (how == "as it stands"):
        raise UsageError("export: give --out" if out is None else "export: --out goes with --to, --gguf or --merge")
    if push:
        from starling import hub

        hub.token(push)
    if how == "rankings":
        from starling import export as exports

        assert out is not None, "it was asked for above"
        return exports.export_and_push(source, to, out, pairs=pairs, licence=licence, push=push, public=public)
    from starling import model_export

    facts = model_export.export(source, out, how, dtype or "f16", licence) if out else {}
    return facts | (model_export.push(source, out, how, push, licence=licence, public=public) if push else {})


def _how(
    to: str, pairs: str, *, gguf: bool, merge: bool, dtype: str | None, push: str
) -> Literal["rankings", "gguf", "merged", "as it stands"]:
    """What leaves: rankings, or a model and how; refuses options that do not go together."""
    if gguf and merge:
        raise UsageError("export: --gguf or --merge, not both; merge first, then export what that wrote")
    if dtype and not gguf:
        raise UsageError("export: --dtype goes with --gguf")
    if (gguf or merge) and (to or pairs):
        kind = "--gguf" if gguf else "--merge"
        raise UsageError(f"export: {kind} writes a model; --to and --pairs are for rankings")
    if to:
        return "rankings"
    if not (gguf or merge or push) or pairs:
        raise UsageError("export: give --to FORMAT, --gguf or --merge, or --push alone for a model as it stands")
    return "gguf" if gguf else "merged" if merge else "as it stands"
