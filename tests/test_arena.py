"""Blind battles."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event

import pytest
from arena_models import Scripted, scripted

from starling import votes
from starling.arena import LONGEST, Arena, Battle
from starling.errors import CallError, GivenUp, UsageError
from starling.records import Call, Failure, Reply
from starling.speakers import Contestant
from starling.votes import Votes


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Votes]:
    with Votes(tmp_path / "votes.sqlite") as opened:
        yield opened


def arena(kept: Votes, *names: str) -> Arena:
    return Arena([scripted(name) for name in names], kept, random.Random(5))


def test_every_pair_meets_and_every_model_stands_on_both_sides_alike(kept: Votes) -> None:
    opened = arena(kept, "x", "y", "z")
    met = Counter(opened.names(opened.begin()) for _ in range(1200))
    assert len(met) == 6
    assert min(met.values()) > 150  # 200 expected, standard deviation 13


def test_both_models_get_the_same_messages_and_their_own_answers(kept: Votes) -> None:
    models = [Scripted(name, lambda call, name=name: f"{name} {len(call.messages)}") for name in "xy"]
    opened = Arena([Contestant(m.name, m, max_tokens=8, temperature=0.5) for m in models], kept, random.Random(5))
    battle = opened.say(opened.say(opened.begin(), " hello "), "more")
    assert battle.turns == 2
    for name, said in zip(opened.names(battle), battle.conversations, strict=True):
        assert [message["content"] for message in said] == ["hello", f"{name} 1", "more", f"{name} 3"]
    assert [len(call.messages) for call in models[0].asked] == [1, 3]
    assert models[0].asked[0].draw == models[1].asked[0].draw != models[0].asked[1].draw


def test_a_battle_has_two_turns_and_one_vote_after_an_answer(kept: Votes) -> None:
    opened = arena(kept, "x", "y")
    battle = opened.begin()
    with pytest.raises(UsageError, match="voted on once"):
        opened.vote(battle, "tie", "me")
    for _ in range(2):
        battle = opened.say(battle, "hello")
    with pytest.raises(UsageError, match="2 turns"):
        opened.say(battle, "a third")
    won = opened.vote(battle, "model_b", "me")
    for late in (lambda: opened.vote(won, "tie", "me"), lambda: opened.say(won, "more")):
        with pytest.raises(UsageError):
            late()
    (vote,) = votes.read(kept.path)
    assert (vote.winner, vote.voter, vote.prompt, vote.battle) == ("model_b", "me", "hello", battle.id)
    assert (vote.model_a, vote.model_b) == opened.names(battle)
    assert vote.conversation_a[1]["content"] == f"{vote.model_a} on hello"


@pytest.mark.parametrize("text", ["", " \n", "x" * (LONGEST + 1)], ids=["empty", "blank", "long"])
def test_a_message_of_no_use_is_refused(kept: Votes, text: str) -> None:
    opened = arena(kept, "x", "y")
    with pytest.raises(UsageError, match="characters"):
        opened.say(opened.begin(), text)


@pytest.mark.parametrize("said", [Failure(reason="down"), " "], ids=["failure", "empty"])
def test_where_one_model_fails_neither_answer_is_taken(kept: Votes, said: Failure | str) -> None:
    def fails(call: Call) -> Failure | str:
        return said

    opened = Arena([scripted("x"), scripted("y", fails)], kept)
    with pytest.raises(CallError):
        opened.say(opened.begin(), "hello")


def test_where_one_model_fails_or_nobody_waits_the_other_stops_too(kept: Votes) -> None:
    stopped, left = Event(), Event()

    class Endless(Scripted):
        def chat(self, calls: Sequence[Call], given_up: Event | None = None) -> list[Reply | Failure]:
            left.set()
            assert given_up is not None and given_up.wait(5)
            stopped.set()
            raise GivenUp("gone")

    endless = Contestant("x", Endless("x", lambda call: ""), max_tokens=8, temperature=0.5)

    def fails(call: Call) -> Failure:
        left.wait(5)
        return Failure(reason="y is down")

    failing = Arena([endless, scripted("y", fails)], kept)
    with pytest.raises(CallError, match="y is down"):  # whichever side it stands on
        failing.say(failing.begin(), "hello")
    assert stopped.is_set()
    given_up = Event()
    given_up.set()
    with pytest.raises(GivenUp):
        Arena([endless, endless], kept).say(Battle(sides=(0, 1)), "hello", given_up)


def test_ratings_follow_the_votes_and_say_why_there_are_none(kept: Votes) -> None:
    opened = arena(kept, "x", "y")
    assert opened.ratings() == {
        "ratings": [],
        "reason": "verdicts on at least 2 models are needed; found 0",
        "votes": 0,
    }
    for number, winner in enumerate(("x", "x", "x", "y")):
        battle = opened.say(opened.begin(), f"hello {number}")
        side = opened.names(battle).index(winner)
        opened.vote(battle, ("model_a", "model_b")[side], "me")
    found = opened.ratings()
    assert (found["votes"], [row["model"] for row in found["ratings"]]) == (4, ["x", "y"])
    assert found["ratings"][0]["value"] == pytest.approx(1095.424, abs=1e-2)
