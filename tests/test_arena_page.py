"""The arena's page, through its own functions and a client of its own making."""

import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from arena_models import scripted

from starling import cli, votes
from starling.arena import Arena
from starling.errors import UsageError
from starling.listening import bound
from starling.records import Call, Failure
from starling.votes import Votes

pytest.importorskip("gradio", reason="the page needs Gradio: pip install 'starling-rlaif[arena]'")

from starling import arena_page


@pytest.fixture
def arena(tmp_path: Path) -> Iterator[Arena]:
    with Votes(tmp_path / "votes.sqlite") as kept:
        yield Arena([scripted("secret-x"), scripted("secret-y")], kept, random.Random(5))


REQUEST: Any = SimpleNamespace(session_hash="abc")  # what of Gradio's request is read


def without_battle(shown: list[Any]) -> str:
    """All that leaves for the browser: the battle itself stays here."""
    return repr(shown[1:])


def test_names_are_shown_only_after_the_vote_is_kept(arena: Arena) -> None:
    first = arena_page.start(arena)
    waiting, answered = arena_page.say(arena, first[0], "hello")
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
    *_, answered = arena_page.say(arena, battle, "hello")
    voted = cast(answered[0], REQUEST)
    cast(voted[0], REQUEST)
    assert arena._votes.count() == 1
    assert "Ratings" in arena_page.rated(arena)


def test_buttons_and_message_are_open_when_they_mean_something(arena: Arena) -> None:
    def is_open(shown: list[Any]) -> tuple[bool, bool]:
        return shown[4]["interactive"], shown[8]["interactive"]  # a vote's button, the message

    first = arena_page.start(arena)
    waiting, once = arena_page.say(arena, first[0], "hello")
    *_, twice = arena_page.say(arena, once[0], "more")
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
        *_, shown = arena_page.say(failing, failing.begin(), "hello")
    assert "did not answer" in without_battle(shown)
    assert "secret" not in without_battle(shown)
    assert shown[8]["value"] == "hello"
    assert "secret-y: down" in capsys.readouterr().err


def test_other_addresses_demand_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(arena_page.TOKEN, raising=False)
    assert [arena_page.gate(host) for host in ("127.0.0.1", "localhost", "::1")] == [None] * 3
    for host in ("0.0.0.0", "192.168.0.7", "example.org"):
        with pytest.raises(UsageError, match="STARLING_API_KEY"):
            arena_page.gate(host)
    monkeypatch.setenv(arena_page.TOKEN, "s3cret\u00e9")
    allowed = arena_page.gate("0.0.0.0")
    assert allowed is not None
    assert [allowed("anyone", word) for word in ("s3cret\u00e9", "s3cret", "")] == [True, False, False]


def test_the_page_is_built_without_telling_the_models(arena: Arena) -> None:
    page = arena_page.build(arena)
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
