"""The commands to try a model with: `chat`, `serve`."""

from typing import Annotated, Any, Literal

import typer

from starling.command import command


@command("chat")
def chat(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A MODEL, a run's folder, or openai:NAME@URL.")],
    against: Annotated[
        str, typer.Option(metavar="MODEL", show_default="none", help="A second one, answering beside it.")
    ] = "",
    system: Annotated[str, typer.Option(metavar="TEXT", show_default="none", help="System prompt.")] = "",
) -> dict[str, Any]:
    """Talk with a model on the terminal; a line is a turn. /reset, /system TEXT, /quit."""
    from starling import conversation

    return conversation.talk(model, against, system)


@command("serve")
def serve(
    source: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="A run with its reward model, or a MODEL.")],
    reward: Annotated[
        str, typer.Option(metavar="MODEL", show_default="the run's", help="Reward MODEL behind /v1/score.")
    ] = "",
    host: Annotated[
        str, typer.Option(help="Address to listen on; one that others reach demands a token in STARLING_API_KEY.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    engine: Annotated[
        Literal["starling", "vllm"], typer.Option(help="vllm hands over to `vllm serve`, where that is installed.")
    ] = "starling",
) -> dict[str, str]:
    """OpenAI's API of a model on this machine, until Ctrl-C; rewards of answers at /v1/score."""
    from starling import serve as serving

    return serving.serve(source, reward_model=reward, host=host, port=port, engine=engine)
