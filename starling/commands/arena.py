"""The commands of the arena: `serve`, `ratings`, `export`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from starling.command import app, command
from starling.errors import UsageError

arena = typer.Typer(no_args_is_help=True, help="People vote blind between models; ratings from any verdicts.")
app.add_typer(arena, name="arena")

VotesOption = Annotated[Path, typer.Option("--votes", metavar="FILE", help="SQLite file of the votes.")]


@command("serve", group=arena)
def serve(
    model: Annotated[
        list[str],
        typer.Argument(metavar="MODEL MODEL...", help="smollm2, a folder, a RUN's tuned policy, or openai:NAME@URL."),
    ],
    kept: VotesOption = Path("votes.sqlite"),
    answer_tokens: Annotated[int, typer.Option(min=1, help="An answer has at most so many tokens.")] = 256,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but loopback demands a token in STARLING_API_KEY.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 7860,
) -> dict[str, Any]:
    """A local web page where people vote blind between two of the models."""
    try:
        from starling import arena_page
    except ModuleNotFoundError as error:
        raise UsageError(
            f"arena: the page needs {error.name}, which is not installed; `pip install '.[arena]'` in Starling's folder"
        ) from None
    from starling.arena import Arena
    from starling.listening import bound
    from starling.speakers import load_contestants
    from starling.votes import Votes

    arena_page.gate(host)  # this and a port in use are refused before a model is loaded
    bound("arena", host, port).close()
    with Votes(kept) as votes:
        contestants, ledgers = load_contestants(model, kept.with_name(kept.name + ".calls"), answer_tokens)
        try:
            arena_page.serve(Arena(contestants, votes), host, port)
        finally:
            for ledger in ledgers:
                ledger.close()
    return {"votes": str(kept)}


@command("ratings", group=arena)
def ratings(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...", help="Votes, a RUN, cases.jsonl, rankings, Chatbot Arena's or FastChat's verdicts."
        ),
    ],
) -> dict[str, Any]:
    """Bradley-Terry ratings with 95 % intervals, also at equal length, by all verdicts of the FILEs together."""
    from starling.benches import arena as bench

    return bench.run(files)


@command("export", group=arena)
def export(
    kept: VotesOption,
    out: Annotated[Path, typer.Option(metavar="FILE.jsonl", help="Rankings that `starling fit --rankings` reads.")],
) -> dict[str, Any]:
    """Write votes as rankings that a reward model can be fitted on."""
    from starling import votes

    return votes.export(kept, out)
