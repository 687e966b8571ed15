"""The arena's page, through its own functions and a client of its own making."""

import json
import random
import time
from collections.abc import Iterator, Sequence
from http.client import HTTPConnection
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import pytest
from arena_models import Scripted, scripted

from starling import cli, votes
from starling.arena import Arena, Battle
from starling.errors import GivenUp, UsageError
from starling.listening import bound
from starling.records import Call, Failure, Reply
from starling.speakers import Contestant
from starling.votes import Votes

pytest.importorskip("gradio", reason="the page needs Gradio: pip install '.[arena]'")

from starling import addresses, arena_page
from starling.arena_page import Waiting


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Arena]:
    with Votes(tmp_path / "votes.sqlite") as kept:
        yield Arena([scripted("secret-x"), scripted("secret-y")], kept, random.Random(5))


REQUEST: Any = SimpleNamespace(session_hash="abc")  # what of Gradio's request is read


def say(arena: Arena, battle: Battle, text: str) -> Iterator[list[Any]]:
    return arena_page.say(arena, battle, text, Event())


def without_battle(shown: list[Any]) -> str:
    """All that leaves for the browser: the battle itself stays here."""
    return repr(shown[1:])


def test_names_are_shown_only_after_the_vote_is_kept(arena: Arena) -> None:
    first = arena_page.start(arena)
    waiting, answered = say(arena, first[0], "hello")
    for shown in (first, waiting):
        assert "secret" not in without_battle(shown)
    battle = answered[0]
    left, right = arena.names(battle)
    told = without_battle(answered).replace(f"{left} on hello", "").replace(f"{right} on hello", "")
    assert "secret" not in told  # but in what the scripted models themselves say
    voted = arena_page.casting(arena, "model_a")(battle, REQUEST)
    assert f"<span>{left}</span>" in voted[1]
    assert f"<span>{right}</span>" in voted[2]
    (vote,) = votes.read(arena._votes.path)
    assert (vote.model_a, vote.winner) == (left, "model_a")
    assert len(vote.voter) == 16
    assert vote.voter != "abc"


def test_votes_count_once_and_only_after_answers(arena: Arena) -> None:
    cast = arena_page.casting(arena, "tie")
    battle = arena_page.start(arena)[0]
    assert cast(battle, REQUEST)[0].winner is None
    assert cast(None, REQUEST)[0].winner is None
    *_, answered = say(arena, battle, "hello")
    voted = cast(answered[0], REQUEST)
    cast(voted[0], REQUEST)
    assert arena._votes.count() == 1
    assert "Ratings" in arena_page.rated(arena)


def test_buttons_and_message_are_open_when_they_mean_something(arena: Arena) -> None:
    def is_open(shown: list[Any]) -> tuple[bool, bool]:
        return shown[4]["interactive"], shown[8]["interactive"]  # a vote's button, the message

    first = arena_page.start(arena)
    waiting, once = say(arena, first[0], "hello")
    *_, twice = say(arena, once[0], "more")
    voted = arena_page.casting(arena, "tie")(twice[0], REQUEST)
    assert [is_open(shown) for shown in (first, waiting, once, twice, voted)] == [
        (False, True), (False, False), (True, True), (True, False), (False, False)
    ]  # fmt: skip


def test_a_model_that_fails_is_not_named_and_the_message_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(call: Call) -> Failure:
        return Failure(reason="secret-y: down")

    with Votes(tmp_path / "votes.sqlite") as kept:
        failing = Arena([scripted("secret-x"), scripted("secret-y", fails)], kept)
        *_, shown = say(failing, failing.begin(), "hello")
    assert "did not answer" in without_battle(shown)
    assert "secret" not in without_battle(shown)
    assert shown[8]["value"] == "hello"
    assert "secret-y: down" in capsys.readouterr().err


class Patient(Scripted):
    """Answers "forever" when that is given up, anything else at once."""

    def __init__(self, name: str) -> None:
        super().__init__(name, lambda call: f"{name} answers")
        self.writes, self.stopped = Event(), Event()

    def chat(self, calls: Sequence[Call], given_up: Event | None = None) -> list[Reply | Failure]:
        if calls[0].messages[-1]["content"] == "forever":
            self.writes.set()
            assert given_up is not None and given_up.wait(20)
            self.stopped.set()
            raise GivenUp("gone")
        return super().chat(calls)


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[tuple[Arena, list[Patient]]]:
    models = [Patient("secret-x"), Patient("secret-y")]
    with Votes(tmp_path / "votes.sqlite") as kept:
        yield Arena([Contestant(m.name, m, max_tokens=8, temperature=0.5) for m in models], kept), models


def test_another_pair_breaks_the_answers_off_and_shows_nothing_of_them(
    patient: tuple[Arena, list[Patient]], capsys: pytest.CaptureFixture[str]
) -> None:
    (arena, models), waiting = patient, Waiting()
    battle = arena.begin()
    asked = arena_page.asking(arena, waiting)(battle, "forever", REQUEST)
    shown = next(asked)
    assert "New pair breaks them off" in without_battle(shown)
    assert "interactive" not in shown[10] or shown[10]["interactive"]  # New pair

    def leave() -> None:
        for model in models:
            model.writes.wait(10)
        arena_page.leaving(waiting)(SimpleNamespace(session_hash="of another page"))
        assert not any(model.stopped.wait(0.05) for model in models)
        arena_page.leaving(waiting)(REQUEST)

    leaver = Thread(target=leave)
    leaver.start()
    assert list(asked) == []
    leaver.join()
    assert all(model.stopped.is_set() for model in models)
    assert capsys.readouterr().err == ""
    *_, answered = arena_page.asking(arena, waiting)(battle, "hello", REQUEST)  # the same page goes on
    assert "secret-x answers" in without_battle(answered)
    arena_page.leaving(waiting)(REQUEST)  # nobody writes: nothing happens


def test_a_closed_page_breaks_its_answers_off_and_frees_the_models_for_the_next(
    patient: tuple[Arena, list[Patient]],
) -> None:
    arena, models = patient
    page = arena_page.build(arena, Waiting())
    with bound("arena", "127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    page.launch(
        server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True, share=False, ssr_mode=False
    )
    try:
        (ask,) = (number for number, block in page.fns.items() if block.name == "ask")

        def send(session: str, text: str) -> HTTPConnection:
            """The connection that stays open for as long as the page does."""
            opened = HTTPConnection("127.0.0.1", port, timeout=20)
            opened.request("GET", f"/gradio_api/heartbeat/{session}")
            opened.getresponse().readline()
            said = json.dumps({"data": [None, text], "fn_index": ask, "session_hash": session})
            asked = HTTPConnection("127.0.0.1", port, timeout=20)
            asked.request("POST", "/gradio_api/queue/join", said, {"Content-Type": "application/json"})
            assert asked.getresponse().status == 200
            asked.close()
            return opened

        opened = send("first", "forever")
        assert all(model.writes.wait(10) for model in models)
        opened.sock.close()
        opened.close()
        assert all(model.stopped.wait(10) for model in models)
        opened = send("second", "hello")
        until = time.monotonic() + 10
        while not all(model.asked for model in models) and time.monotonic() < until:
            time.sleep(0.02)
        assert [len(model.asked) for model in models] == [1, 1]
        opened.close()
    finally:
        page.close(verbose=False)


def test_other_addresses_demand_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(addresses.KEY, raising=False)
    assert [arena_page.gate(host) for host in ("127.0.0.1", "localhost", "::1")] == [None] * 3
    for host in ("0.0.0.0", "192.168.0.7", "example.org"):
        with pytest.raises(UsageError, match="STARLING_API_KEY"):
            arena_page.gate(host)
    monkeypatch.setenv(addresses.KEY, "s3cret\u00e9")
    allowed = arena_page.gate("0.0.0.0")
    assert allowed is not None
    assert [allowed("anyone", word) for word in ("s3cret\u00e9", "s3cret", "")] == [True, False, False]
    on_loopback = arena_page.gate("127.0.0.1")
    assert on_loopback is not None
    assert [on_loopback("anyone", word) for word in ("s3cret\u00e9", "")] == [True, False]


def answered(port: int, host: str, path: str = "/config") -> int:
    """The status that a request with this Host header gets."""
    asked = HTTPConnection("127.0.0.1", port, timeout=20)
    asked.request("GET", path, headers={"Host": host})
    status = asked.getresponse().status
    asked.close()
    return status


@pytest.mark.parametrize("token", ["", "s3cret"])
def test_on_loopback_the_page_is_served_by_this_machines_names_or_to_who_has_the_token(
    token: str, arena: Arena, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(addresses.KEY, token)
    with bound("arena", "127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    found = []

    class Asked:
        """Stands for the wait until Ctrl-C: by then the page is served."""

        def wait(self) -> None:
            found.extend(answered(port, host) for host in (f"127.0.0.1:{port}", f"localhost:{port}", "evil.example"))
            raise KeyboardInterrupt

    monkeypatch.setattr(arena_page, "Event", Asked)
    arena_page.serve(arena, "127.0.0.1", port)
    assert found == ([401] * 3 if token else [200, 200, 403])
    assert capsys.readouterr().out.endswith("arena: closed\n")


def test_the_page_is_built_without_telling_the_models(arena: Arena) -> None:
    page = arena_page.build(arena, Waiting())
    config = repr(page.get_config_file())
    assert "secret" not in config
    assert "vote-n" in config
    assert "http" not in arena_page.look()["head"] + arena_page.look()["css"]


def test_a_port_in_use_is_told_in_a_line_before_a_model_is_loaded(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with bound("arena", "127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        arguments = ["arena", "serve", str(tiny_model), str(tmp_path / "none"), "--port", str(port)]
        assert cli.main([*arguments, "--votes", str(tmp_path / "votes.sqlite")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: arena: port {port} on 127.0.0.1 is in use") and said.count("\n") == 1
