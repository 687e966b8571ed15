"""Small rankings, and what is made of them, for tests."""

from starling.examples import Example
from starling.records import Candidate, Message, Ranking

WORDS = ["rain", "spain", "plain", "river", "town", "name", "wet", "stays"]


def ranking(identity: str, answers: list[str], ranks: list[float], weakened: tuple[int, ...] = ()) -> Ranking:
    candidates = [
        Candidate(prompt_id=identity, model=f"m{at}", draw=at, answer=text, finished=True, weakened=at in weakened)
        for at, text in enumerate(answers)
    ]
    question = [Message(role="user", content=f"what is {identity}?")]
    return Ranking(prompt_id=identity, messages=question, answers=candidates, ranks=ranks, judge="by hand")


def rankings(count: int) -> list[Ranking]:
    """Of three answers the one that says `rain` is best."""
    return [
        ranking(f"p{at}", [f"{WORDS[at % 8]} {WORDS[(at + 3) % 8]}", "the rain", "no " * (at % 4 + 1)], [2, 1, 3])
        for at in range(count)
    ]


def example(told: Ranking, size: int = 1) -> Example:
    """An example of `size` tokens more than it has answers."""
    return Example(told, list(range(size)), [[7]] * len(told.answers))
