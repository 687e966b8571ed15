"""`starling chat`: a conversation on the terminal with one model, or with two side by side."""

import signal
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from io import TextIOWrapper
from threading import Event
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from starling import device, figures, progress
from starling.errors import CallError, DataError, ModelError
from starling.records import Message
from starling.speakers import Voice, open_voice
from starling.texts import terminal, visible

HELP = "/reset begins anew, /system TEXT gives a system prompt and begins anew, /quit ends"

_FRAME_ROWS = 8  # of a table of answers, its notes among them, and one below it
_ECHO = 2  # columns beside it for the ^C that a terminal writes there: on a line of its own it would move the table


@dataclass(slots=True)
class Course:
    """One voice with its own course of the conversation, and the answer that it is giving."""

    voice: Voice
    messages: list[Message] = field(default_factory=list)
    text: str = ""
    seconds: float = 0.0
    error: str = ""

    @property
    def note(self) -> str:
        """Length and speed of the answer, and what else there is to know of it."""
        rate = self.voice.tokens / self.seconds if self.seconds else 0.0
        counted = f"{self.voice.tokens:,} tokens, {figures.rate(rate)}"
        return self.error or "; ".join(filter(None, (counted, self.voice.remark)))


class Conversation:
    """Turns of a person, each answered by every voice."""

    def __init__(self, courses: Sequence[Course], system: str, console: Console) -> None:
        self._courses = courses
        self._console = console
        self.system = system
        self.turns = 0
        self._reset()

    def take(self, line: str) -> bool:
        """Answer a line or obey it; False where it ends the conversation."""
        word, _, rest = line.partition(" ")
        if word == "/quit":
            return False
        if word in ("/reset", "/system"):
            self.system = rest.strip() if word == "/system" else self.system
            self._reset()
            self._say("begun anew" + (f", system prompt: {self.system}" if self.system else ", without system prompt"))
        elif word.startswith("/"):
            self._say(f"{word} is not known; {HELP}")
        else:
            self._ask(line)
        return True

    def _reset(self) -> None:
        for course in self._courses:
            course.messages = [Message(role="system", content=self.system)] if self.system else []

    def _ask(self, line: str) -> None:
        self.turns += 1
        for course in self._courses:
            course.messages.append(Message(role="user", content=line))
        with _held_back() as interrupted:
            if len(self._courses) == 1:
                for piece in self._pieces(interrupted):
                    self._console.out(visible(piece), end="", highlight=False)
                self._console.out("")
                self._say(self._courses[0].note)
            else:
                self._show_beside(interrupted)
        for course in self._courses:
            if course.error:
                course.messages.pop()  # a turn without an answer would spoil the next one
            else:
                course.messages.append(Message(role="assistant", content=course.text.strip()))
        if interrupted.is_set():
            raise KeyboardInterrupt

    def _show_beside(self, interrupted: Event) -> None:
        if self._console.is_terminal:
            with Live(console=self._console, transient=True, vertical_overflow="ellipsis") as live:
                for _piece in self._pieces(interrupted):
                    live.update(self._beside(self._ends()))
        else:
            for _piece in self._pieces(interrupted):
                pass
        self._console.print(self._beside([terminal(course.text.strip()) for course in self._courses]))

    def _ends(self) -> list[Text]:
        """What each answer ends in so far, as much as the screen has room for."""
        count = len(self._courses)
        width = max((self._console.width - _ECHO - 3 * count - 1) // count, 1)
        room = max(self._console.height - _FRAME_ROWS, 1)
        texts = (terminal(course.text.strip()) for course in self._courses)
        return [Text("\n").join(text.wrap(self._console, width, overflow="fold")[-room:]) for text in texts]

    def _beside(self, texts: Sequence[Text]) -> Table:
        table = Table(width=max(self._console.width - _ECHO, 1), show_lines=False)
        for course in self._courses:
            table.add_column(terminal(course.voice.name), ratio=1, overflow="fold")
        table.add_row(*texts)
        table.add_row(*(Text(visible(course.note), style="red" if course.error else "dim") for course in self._courses))
        return table

    def _pieces(self, interrupted: Event) -> Iterator[str]:
        """The pieces of the answers as they come, the voices taking turns; no more of them once it is set."""
        with ExitStack() as stack:
            begun = time.monotonic()
            under_way = []
            for course in self._courses:
                course.text, course.error, course.seconds = "", "", 0.0
                under_way.append((course, stack.enter_context(closing(_guarded(course)))))
            while under_way and not interrupted.is_set():
                for course, answer in list(under_way):
                    piece = next(answer, None)
                    if piece is None:
                        under_way.remove((course, answer))
                        continue
                    course.seconds = time.monotonic() - begun
                    course.text += piece
                    yield piece
            for course, _ in under_way:
                course.voice.remark = "; ".join(filter(None, (course.voice.remark, "broken off")))

    def _say(self, text: str) -> None:
        self._console.print(Text(visible(text), style="dim"), soft_wrap=True)


def talk(model: str, against: str, system: str) -> dict[str, Any]:
    """Talk until /quit, the end of the input or Ctrl-C; returns what was said."""
    device.setup(0, 0)
    courses = [Course(open_voice(name)) for name in (model, against) if name]
    if len({course.voice.name for course in courses}) < len(courses):
        for number, course in enumerate(courses, 1):
            course.voice.name += f" ({number})"
    console = Console(highlight=False, stderr=progress.console.stderr)
    conversation = Conversation(courses, _whole(system), console)
    with suppress(KeyboardInterrupt):
        for line in _lines(console):
            if line.strip() and not conversation.take(line.strip()):
                break
    return {
        "turns": conversation.turns,
        "conversations": [{"model": course.voice.name, "messages": course.messages} for course in courses],
    }


@contextmanager
def _held_back() -> Iterator[Event]:
    """Ctrl-C sets the event, for the next piece to see: in the middle of drawing it would leave half a table."""
    interrupted = Event()
    before = signal.signal(signal.SIGINT, lambda *_: interrupted.set())
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def _guarded(course: Course) -> Generator[str, None, None]:
    """The pieces of a voice's answer; what goes wrong ends its answer and is told, the conversation goes on."""
    try:
        yield from course.voice.answer(course.messages)
    except (CallError, DataError, ModelError) as error:
        course.error = str(error)


def _lines(console: Console) -> Iterator[str]:
    """What a person types, or what comes through a pipe: one line, one turn; bytes that are no character replaced."""
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    if not sys.stdin.isatty():
        for line in sys.stdin:
            yield _whole(line)
        return
    with suppress(ImportError):
        import readline  # noqa: F401  # gives `input` its keys
    console.print(Text(HELP, style="dim"))
    while True:
        try:
            yield _whole(console.input("[bold]>[/bold] "))
        except EOFError:
            console.out("")
            return


def _whole(line: str) -> str:
    """The line with what is no character replaced, since it could not be sent on."""
    return line.encode("utf-8", "replace").decode()
