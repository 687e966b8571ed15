"""Blind battles of two models: who meets whom on which side, what was said, who won; what the page shows is apart.

Pairs and sides are drawn evenly. Both models are asked at the same time and shown together, so that speed tells
nothing. Names stay here until the vote is kept.
"""

import random
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from threading import Event
from typing import Any

from starling import votes
from starling.benches import duels, ratings
from starling.errors import DataError, GivenUp, UsageError
from starling.records import Message, Reply
from starling.speakers import Contestant
from starling.votes import Vote, Votes, Winner

TURNS = 2
LONGEST = 8_000  # characters of a message
LIVE_RESAMPLES = 200  # the page's ratings are made anew after each vote


@dataclass(frozen=True, slots=True, kw_only=True)
class Battle:
    """Two models, given by their places among the contestants, left and right, and the conversation of each so far."""

    sides: tuple[int, int]
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    conversations: tuple[Sequence[Message], Sequence[Message]] = ((), ())
    finished: tuple[bool, bool] = (True, True)
    winner: Winner | None = None

    @property
    def turns(self) -> int:
        """How many messages both have answered."""
        return len(self.conversations[0]) // 2


class Arena:
    """The contestants and the votes on them."""

    def __init__(self, contestants: Sequence[Contestant], kept: Votes, rng: random.Random | None = None) -> None:
        self.contestants = contestants
        self._votes = kept
        self._rng = rng or random.SystemRandom()
        self._rated: tuple[int, dict[str, Any]] = (-1, {})

    def begin(self) -> Battle:
        """A battle of two models that nobody can guess."""
        left, right = self._rng.sample(range(len(self.contestants)), 2)
        return Battle(sides=(left, right))

    def say(self, battle: Battle, text: str, given_up: Event | None = None) -> Battle:
        """The battle with a message of the person and the answers of both; if one fails, neither is taken.

        Once the event is set, which it also is when one fails, neither is written to its end.
        """
        if battle.winner or battle.turns >= TURNS:
            raise UsageError(f"arena: a battle has {TURNS} turns and ends with the vote")
        if not text.strip() or len(text) > LONGEST:
            raise UsageError(f"arena: a message has 1 to {LONGEST:,} characters; this has {len(text.strip()):,}")
        asked = [[*said, Message(role="user", content=text.strip())] for said in battle.conversations]
        models = [self.contestants[side] for side in battle.sides]
        draw, stopped = secrets.randbelow(2**31), given_up or Event()

        def answer(model: Contestant, messages: Sequence[Message]) -> Reply:
            try:
                return model.answer(messages, draw, stopped)
            except BaseException:
                stopped.set()
                raise

        with ThreadPoolExecutor(2) as pool:
            answers = [pool.submit(answer, *one) for one in zip(models, asked, strict=True)]
        failed = [error for one in answers if (error := one.exception())]
        if failed:  # the failure of one has the other given up
            raise next((error for error in failed if not isinstance(error, GivenUp)), failed[0])
        left, right = (one.result() for one in answers)
        ends = [[Message(role="assistant", content=reply.text)] for reply in (left, right)]
        return replace(
            battle, conversations=(asked[0] + ends[0], asked[1] + ends[1]), finished=(left.finished, right.finished)
        )

    def vote(self, battle: Battle, winner: Winner, voter: str) -> Battle:
        """The battle as won, after the vote is kept; the first vote on a battle stays."""
        if battle.winner or not battle.turns:
            raise UsageError("arena: a battle is voted on once, after the answers")
        name_a, name_b = self.names(battle)
        vote = Vote(
            battle=battle.id, time=votes.now(), voter=voter, prompt=battle.conversations[0][0]["content"],
            model_a=name_a, model_b=name_b, conversation_a=battle.conversations[0],
            conversation_b=battle.conversations[1], finished_a=battle.finished[0], finished_b=battle.finished[1],
            winner=winner,
        )  # fmt: skip
        self._votes.add(vote)
        return replace(battle, winner=winner)

    def names(self, battle: Battle) -> tuple[str, str]:
        """Who stands left and right."""
        left, right = battle.sides
        return self.contestants[left].name, self.contestants[right].name

    def ratings(self) -> dict[str, Any]:
        """The ratings by all votes of the file so far; where there are none, `reason` says why."""
        count = self._votes.count()
        if self._rated[0] != count:
            self._rated = count, self._rate() | {"votes": count}
        return self._rated[1]

    def _rate(self) -> dict[str, Any]:
        try:
            return ratings.rate(duels.read(self._votes.path)[0], resamples=LIVE_RESAMPLES)
        except DataError as error:
            return {"ratings": [], "reason": str(error).removeprefix("ratings: ")}
