"""A reward model as the judge of pairs: the answer with the higher reward wins, whatever the order."""

from collections.abc import Sequence

from starling import models, progress, reward
from starling.account import Account
from starling.benches import panel
from starling.benches.asked import Asked
from starling.benches.verdicts import Heard
from starling.errors import UsageError
from starling.judge_settings import RUBRIC
from starling.judges.parse import Ranked, Tied, Unparsed, Verdict
from starling.records import Message
from starling.reward import Question
from starling.speakers import endpoint_of
from starling.store import is_run

Shown = tuple[Sequence[Message], str]  # a conversation that waits for an answer, and the answer


def is_reward_model(name: str, account: Account | None = None) -> bool:
    """Whether MODEL is a folder or Hub name with a head that gives rewards, rather than one that writes."""
    if endpoint_of(name, account) or is_run(name):
        return False
    return models.is_reward_model(name)


def refuse_judges(asked: Asked, name: str, shown: str) -> None:
    """Refuse judges that cannot judge what is shown, or that are one twice."""
    if RUBRIC in asked.judge:
        raise UsageError(f"bench: the rubric needs checks that the {shown} of {name} have not; give --judge MODEL")
    panel.names(asked.judge, asked.account)
    if asked.output == "json" and asked.judge:
        refuse_json(asked.judge, asked.account)


def refuse_json(judges: Sequence[str], account: Account | None = None) -> None:
    """Refuse replies in JSON of judges that nothing holds to a schema; a reward model beside others replies nothing."""
    free = [one for one in judges if endpoint_of(one, account) is None]
    if len(free) == len(judges) or not all(is_reward_model(one, account) for one in free):
        raise UsageError(
            f"bench: --output json needs an endpoint as judge, openai:NAME@URL; nothing holds {free[0]} to a schema"
        )


def compare(name: str, pairs: Sequence[tuple[Shown, Shown]]) -> list[Heard]:
    """The verdict on each pair; Unparsed where the model cannot read one of the answers (blank, too long)."""
    judge = reward.load_reward_model(name)
    questions = [
        Question(messages=messages, answers=[answer], finished=[True], where=f"pair {at}")
        for at, pair in enumerate(pairs, 1)
        for messages, answer in pair
    ]
    refusals = [judge.refusal(question) for question in questions]
    readable = [question for question, refusal in zip(questions, refusals, strict=True) if refusal is None]
    with progress.track("verdicts", len(readable), "answers") as advance:
        scored = iter(judge.score_questions(readable, advance))
    rewards = [next(scored)[0] if refusal is None else None for refusal in refusals]
    heard = []
    for at in range(len(pairs)):
        one, other = rewards[2 * at : 2 * at + 2]
        why = next((refusal.detail for refusal in refusals[2 * at : 2 * at + 2] if refusal), "")
        verdict = Unparsed(why) if one is None or other is None else _verdict(one, other)
        heard.append(Heard(id=f"pair {at + 1}", verdict=verdict, reply=f"rewards {one} and {other}"))
    return heard


def _verdict(one: float, other: float) -> Verdict:
    if one == other:
        return Tied([[0, 1]])
    return Ranked([0, 1] if one > other else [1, 0])
