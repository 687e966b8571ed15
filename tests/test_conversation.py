"""`starling chat`: what a person types, what they see."""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest
from rich.console import Console
from served import serving

from starling import cli, conversation
from starling.conversation import Conversation, Course
from starling.errors import CallError
from starling.offer import Offer
from starling.records import Message
from starling.speakers import open_voice


class Parrot:
    """Says the last message again in two pieces, and remembers what it was shown; fails where it is told to."""

    def __init__(self, name: str = "parrot") -> None:
        self.name = name
        self.tokens = 0
        self.remark = ""
        self.seen: list[list[Message]] = []

    def answer(self, messages: Sequence[Message]) -> Generator[str, None, None]:
        self.seen.append(list(messages))
        said = messages[-1]["content"]
        self.tokens = 2
        yield f"{self.name}: {said[:3]}"
        yield ""
        if said == "fail":
            raise CallError("the line is dead")
        yield said[3:]


def held(*voices: Parrot, system: str = "", terminal: bool = False) -> tuple[Conversation, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, width=100, highlight=False, force_terminal=terminal)
    return Conversation([Course(voice) for voice in voices], system, console), out


def test_each_turn_is_answered_with_all_that_was_said_before() -> None:
    parrot = Parrot()
    talk, out = held(parrot, system="Be brief.")
    assert talk.take("one")
    assert talk.take("two two")
    assert [(turn["role"], turn["content"]) for turn in parrot.seen[1]] == [
        ("system", "Be brief."), ("user", "one"), ("assistant", "parrot: one"), ("user", "two two"),
    ]  # fmt: skip
    assert "parrot: two two\n2 tokens, " in out.getvalue()


def test_reset_forgets_and_system_begins_anew_with_it() -> None:
    parrot = Parrot()
    talk, out = held(parrot)
    for line in ("one", "/reset", "two", "/system Be kind.", "three", "/reset", "four", "/system", "five"):
        assert talk.take(line)
    assert [[turn["content"] for turn in seen] for seen in parrot.seen] == [
        ["one"], ["two"], ["Be kind.", "three"], ["Be kind.", "four"], ["five"],
    ]  # fmt: skip
    assert "system prompt: Be kind." in out.getvalue()
    assert not talk.take("/quit")
    assert talk.turns == 5


def test_an_unknown_command_is_told_and_not_sent() -> None:
    parrot = Parrot()
    talk, out = held(parrot)
    assert talk.take("/help")
    assert parrot.seen == []
    assert "/help is not known; /reset begins anew" in out.getvalue()


def test_an_answer_that_fails_is_told_and_the_conversation_goes_on_without_the_turn() -> None:
    parrot = Parrot()
    talk, out = held(parrot)
    for line in ("fail", "two"):
        talk.take(line)
    assert [turn["content"] for turn in parrot.seen[1]] == ["two"]
    assert "the line is dead" in out.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_two_models_stand_side_by_side_each_with_its_own_history(terminal: bool) -> None:
    left, right = Parrot("left"), Parrot("right")
    talk, out = held(left, right, terminal=terminal)
    talk.take("hello there")
    talk.take("again")
    assert left.seen[1][1]["content"] == "left: hello there"
    assert right.seen[1][1]["content"] == "right: hello there"
    rows = [
        line for line in out.getvalue().splitlines() if "left: hello there" in line and "right: hello there" in line
    ]
    assert rows


def test_answers_longer_than_the_screen_show_their_ends_while_they_grow_and_all_of_themselves_after() -> None:
    talk, out = held(Parrot("left"), Parrot("right"))
    console = talk._console
    console.size = (80, 24)
    words = " ".join(f"word{number}" for number in range(400))
    talk._courses[0].text, talk._courses[1].text = words, "short"
    ends = talk._ends()
    assert ends[0].plain.endswith("word399") and "word0 " not in ends[0].plain
    assert ends[1].plain == "short"
    frame = console.render_lines(talk._beside(ends))
    assert 20 <= len(frame) <= 24
    assert all(f"word{number}" in ends[0].plain for number in range(390, 400)), "no line is cut at the side"
    talk.take(words)
    assert "word0 " in out.getvalue() and "word399" in out.getvalue()


@pytest.mark.parametrize("count", [1, 2])
def test_ctrl_c_breaks_an_answer_off_between_pieces_and_what_was_said_stays(count: int) -> None:
    class Impatient(Parrot):
        def answer(self, messages: Sequence[Message]) -> Generator[str, None, None]:
            yield "said before"
            signal.raise_signal(signal.SIGINT)
            yield ", and with it"
            raise AssertionError("nobody asks for more")

    talk, out = held(*[Impatient(f"p{at}") for at in range(count)], terminal=count == 2)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        talk.take("hello")
    assert "said before, and with it" in out.getvalue()
    assert out.getvalue().count("broken off") >= count
    assert signal.getsignal(signal.SIGINT) is handler
    assert talk._courses[0].messages[-1]["content"] == "said before, and with it"


def test_a_side_that_fails_leaves_the_other_its_answer() -> None:
    class Mute(Parrot):
        def answer(self, messages: Sequence[Message]) -> Generator[str, None, None]:
            raise CallError("nobody answers")
            yield ""

    talk, out = held(Parrot("left"), Mute("mute"))
    talk.take("hello")
    assert "left: hello" in out.getvalue()
    assert "nobody answers" in out.getvalue()


@pytest.mark.parametrize("count", [1, 2])
def test_what_a_model_says_cannot_steer_the_terminal(count: int) -> None:
    talk, out = held(*[Parrot(f"p{at}") for at in range(count)])
    talk.take("a\x1b[2J\x1b]0;owned\x07 [bold]b[/bold] \u202e")
    assert "\x1b" not in out.getvalue()
    assert "\\x1b[2J" in out.getvalue()
    assert "[bold]b[/bold]" in out.getvalue()


def test_a_pipe_is_a_conversation_of_a_turn_a_line(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("what is rain?\n\n/reset\nand spain?\n/quit\nnever asked\n"))
    assert cli.main(["chat", str(tiny_model), "--against", str(tiny_model), "--system", "Be brief.", "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found["turns"] == 2
    assert [side["model"] for side in found["conversations"]] == [f"{tiny_model} (1)", f"{tiny_model} (2)"]
    for side in found["conversations"]:
        assert [turn["role"] for turn in side["messages"]] == ["system", "user", "assistant"]
        assert side["messages"][1]["content"] == "and spain?"
    assert "tokens, " in printed.err


def test_what_is_no_utf8_is_replaced(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9?\nand more\n"), encoding="utf-8"))
    found = conversation.talk(str(tiny_model), "", "be br\udce9f")["conversations"][0]["messages"]
    said = [turn["content"] for turn in found if turn["role"] != "assistant"]
    assert said == ["be br?f", "caf\ufffd?", "and more"]


def test_our_own_server_is_a_model_to_chat_with(tiny_model: Path) -> None:
    with serving(Offer(policy=str(tiny_model), reward="", policy_name="tiny")) as served:
        course = Course(open_voice(f"openai:tiny@{served.url}"))
        talk = Conversation([course], "", Console(file=io.StringIO()))
        talk.take("what is rain?")
    assert course.error == ""
    assert [turn["role"] for turn in course.messages] == ["user", "assistant"]
    assert course.voice.tokens > 0


def test_bytes_that_are_no_text_do_not_end_it() -> None:
    assert conversation._whole("a\udcff\n") == "a?\n"


def test_ctrl_c_in_an_answer_ends_it_cleanly(tiny_model: Path) -> None:
    command = [sys.executable, "-u", "-m", "starling.cli", "chat", str(tiny_model)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ)
    ) as talk:
        assert talk.stdin is not None and talk.stdout is not None
        talk.stdin.write(b"what is rain?\n")
        talk.stdin.flush()
        assert talk.stdout.read(1)
        talk.send_signal(signal.SIGINT)
        _, err = talk.communicate(timeout=200)
    assert (talk.returncode, err) == (0, b"")
