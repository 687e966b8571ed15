"""The arena as a local web page (Gradio): blind answers side by side, votes by button or key, ratings below."""

import hashlib
import hmac
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import resources
from threading import Event
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from starling import addresses, arena_html, progress, texts
from starling.arena import LONGEST, TURNS, Arena, Battle
from starling.errors import GivenUp, StarlingError
from starling.host_check import OwnNames
from starling.records import Message
from starling.votes import Winner

KEYS: dict[Winner, str] = {"model_a": "a", "tie": "t", "tie (bothbad)": "n", "model_b": "b"}
SECONDS_BETWEEN_RATINGS = 15.0  # for the votes of others
_AT_ONCE = 8  # people who wait for answers


class Waiting:
    """Whom the models write for: each page, known by its session, until it has its answers or gives them up."""

    def __init__(self) -> None:
        self._given_up: dict[str, Event] = {}

    @contextmanager
    def of(self, session: str) -> Iterator[Event]:
        """For as long as a page waits: what is set once it gives up."""
        given_up = self._given_up[session] = Event()
        try:
            yield given_up
        finally:
            if self._given_up.get(session) is given_up:  # not that of a later message
                del self._given_up[session]

    def give_up(self, session: str) -> None:
        """The page is closed, or wants another pair."""
        if given_up := self._given_up.get(session):
            given_up.set()

    def give_up_all(self) -> None:
        for given_up in list(self._given_up.values()):
            given_up.set()


def serve(arena: Arena, host: str, port: int) -> None:
    """Serve the page until Ctrl-C, only to people with the token where there is one, as anywhere but on loopback."""
    waiting = Waiting()
    page = build(arena, waiting)
    allowed = gate(host)
    try:
        _, url, _ = page.launch(
            server_name=host, server_port=port, auth=allowed, prevent_thread_lock=True, quiet=True, share=False,
            auth_message=f"Any name; the password is what {addresses.KEY} holds.", footer_links=[], ssr_mode=False,
            app_kwargs={"middleware": [] if allowed else [Middleware(OwnNames)]}, **look(),
        )  # fmt: skip
    except OSError:
        raise StarlingError(f"arena: port {port} on {host} cannot be used, most often since another program has it; "
                            "give another --port") from None  # fmt: skip
    progress.say(f"arena: {url} (Ctrl-C ends it; votes are kept)")
    try:
        Event().wait()
    except KeyboardInterrupt:
        progress.say("arena: closed")
    finally:
        waiting.give_up_all()  # or the process would stay until the last answer is written
        page.close(verbose=False)


def gate(host: str) -> Callable[[str, str], bool] | None:
    """Who may come in: those who know the token; everybody where there is none, which only loopback may lack."""
    token = addresses.key("arena", host)
    if not token:
        return None
    return lambda _, password: hmac.compare_digest(password.encode(), token.encode())


def look() -> dict[str, Any]:
    """Theme, style and keys; no font or script from elsewhere."""
    folder = resources.files("starling") / "pages"
    return {
        "theme": gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        "css": (folder / "arena.css").read_text("utf-8"),
        "head": f"<script>{(folder / 'arena.js').read_text('utf-8')}</script>",
    }


def build(arena: Arena, waiting: Waiting) -> gr.Blocks:
    """The page; what happens stands in `start`, `asking`, `leaving` and `casting`."""
    with gr.Blocks(title="Starling arena", analytics_enabled=False) as page:
        battle = gr.State(None)
        gr.HTML('<header class="arena"><h1>Starling arena</h1></header>')
        with gr.Row(elem_id="panels"):
            panels = [gr.HTML(elem_id=f"panel-{side}", min_width=280) for side in "ab"]
        note = gr.HTML(elem_id="note")
        with gr.Row(elem_id="votes"):
            buttons = {
                winner: gr.Button(f"{arena_html.VERDICTS[winner]} ({key})", elem_id=f"vote-{key}", min_width=120)
                for winner, key in KEYS.items()
            }
        with gr.Row(elem_id="ask"):
            message = gr.Textbox(
                label="Your message", show_label=False, container=False, autofocus=True, elem_id="message", scale=8,
                max_lines=8, max_length=LONGEST,
            )  # fmt: skip
            send = gr.Button("Send", variant="primary", elem_id="send", min_width=90, scale=1)
            fresh = gr.Button("New pair", elem_id="fresh", min_width=110, scale=1)
        table = gr.HTML(elem_id="ratings")
        shown = [battle, *panels, note, *buttons.values(), message, send, fresh]
        common: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        focus, blur = "() => starlingFocus()", "() => starlingBlur()"
        page.load(partial(start, arena), None, shown, **common)
        page.load(partial(rated, arena), None, table, **common)
        gr.Timer(SECONDS_BETWEEN_RATINGS).tick(partial(rated, arena), None, table, **common)
        asked = gr.on([send.click, message.submit], asking(arena, waiting), [battle, message], shown,
                      concurrency_limit=_AT_ONCE, **common)  # fmt: skip
        asked.then(None, None, None, js="() => starlingRead()")
        leave = leaving(waiting)
        page.unload(leave)
        fresh.click(leave, None, None, queue=False, **common)
        another = fresh.click(partial(start, arena), None, shown, cancels=[asked], **common)
        another.then(None, None, None, js=focus)
        for winner, button in buttons.items():
            cast = button.click(casting(arena, winner), battle, shown, **common)
            cast.then(partial(rated, arena), None, table, **common).then(None, None, None, js=blur)
    return page


def start(arena: Arena) -> list[Any]:
    """A new pair."""
    return show(arena, arena.begin())


def asking(arena: Arena, waiting: Waiting) -> Callable[[Battle | None, str, gr.Request], Iterator[list[Any]]]:
    """What a message does: it is put to both models, for as long as the page waits."""

    def ask(battle: Battle | None, text: str, request: gr.Request) -> Iterator[list[Any]]:
        with waiting.of(str(request.session_hash)) as given_up:
            yield from say(arena, battle, text, given_up)

    return ask


def leaving(waiting: Waiting) -> Callable[[gr.Request], None]:
    """What a closed page does, or one that wants another pair: nobody writes for it any more."""

    def leave(request: gr.Request) -> None:
        waiting.give_up(str(request.session_hash))

    return leave


def say(arena: Arena, battle: Battle | None, text: str, given_up: Event) -> Iterator[list[Any]]:
    """First that both models write, then what they wrote; nothing more once they are given up."""
    battle = battle or arena.begin()
    if not text.strip():
        yield show(arena, battle)
        return
    yield show(arena, battle, waiting=text)
    try:
        yield show(arena, arena.say(battle, text, given_up))
    except GivenUp:
        return
    except StarlingError as error:  # it names the model, which the person is not to know
        progress.error_console.print(texts.terminal(f"arena: {error}"))
        yield show(arena, battle, unsent=text, problem="A model did not answer, so nothing is counted; "
                                                       "send it again, or take a new pair.")  # fmt: skip


def casting(arena: Arena, winner: Winner) -> Callable[[Battle | None, gr.Request], list[Any]]:
    """What a vote for `winner` does: keep it, then show the names."""

    def cast(battle: Battle | None, request: gr.Request) -> list[Any]:  # Gradio gives what is annotated so
        if battle is None or battle.winner or not battle.turns:
            return show(arena, battle or arena.begin())
        return show(arena, arena.vote(battle, winner, voter_of(request)))

    return cast


def rated(arena: Arena) -> str:
    """The table of ratings."""
    return arena_html.ratings(arena.ratings())


def voter_of(request: gr.Request) -> str:
    """The voter: a hash of the random name that the browser session has."""
    return hashlib.sha256(str(request.session_hash).encode()).hexdigest()[:16]


def show(arena: Arena, battle: Battle, *, waiting: str = "", unsent: str = "", problem: str = "") -> list[Any]:
    """What every part of the page shows of a battle, in the order of `build`."""
    names = arena.names(battle) if battle.winner else ("", "")
    voting = battle.turns > 0 and not battle.winner and not waiting
    asking = battle.turns < TURNS and not battle.winner and not waiting
    panels = []
    for side, said, name in zip("AB", battle.conversations, names, strict=True):
        more = [Message(role="user", content=waiting)] if waiting else []
        won = battle.winner == f"model_{side.lower()}"
        panels.append(arena_html.panel(side, [*said, *more], name=name, won=won, waiting=bool(waiting)))
    hint = "Ask something" if not battle.turns else "Ask once more, or vote"
    return [
        battle, *panels, arena_html.notice(problem or _notice(battle, waiting), problem=bool(problem)),
        *(gr.update(interactive=voting, variant="primary" if battle.winner == winner else "secondary")
          for winner in KEYS),
        gr.update(value=unsent, interactive=asking, placeholder=hint if asking else ""),
        gr.update(interactive=asking),
        gr.update(variant="primary" if battle.winner else "secondary"),
    ]  # fmt: skip


def _notice(battle: Battle, waiting: str) -> str:
    if waiting:
        return "Both models write; their answers appear together. New pair breaks them off."
    if battle.winner:
        return "Kept. Enter or New pair goes on."
    if not battle.turns:
        return "Two models answer without their names. Write a message; then vote with a, b, t or n."
    left = TURNS - battle.turns
    return f"Which answer is better? Keys a, b, t, n; or / to ask once more ({left} left)." if left else (
        "Which conversation is better? Keys a, b, t, n."
    )  # fmt: skip
