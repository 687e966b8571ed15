"""What answers are rewarded by: the reward model, the judge, the rubric, a function of the user's, or a sum of them."""

import importlib
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starling import progress
from starling.errors import StarlingError, UsageError
from starling.judges import rubric
from starling.judges.protocol import Judge
from starling.models import Model
from starling.records import Candidate, Prompt
from starling.rollout import Group, score_texts
from starling.tune_settings import Reward

Shown = tuple[Prompt, Sequence[str], Sequence[bool]]
"""A prompt, its answers' texts, and whether each came to its end."""
Scorer = Callable[[Sequence[Shown]], list[list[float]]]
"""Rewards of the answers to each of several prompts."""


class Rewards:
    """The weighted sum of what several scorers give; each by its name, with its weight."""

    def __init__(self, scorers: Mapping[str, tuple[float, Scorer]]) -> None:
        self._scorers = scorers

    @property
    def differ_from_judge(self) -> bool:
        """Whether there are any, and none of them is the judge, who is asked at every look already."""
        return bool(self._scorers) and "judge" not in self._scorers

    def __call__(self, groups: Sequence[Group]) -> tuple[list[list[float]], dict[str, float]]:
        """The raw reward of each group's answers, and each scorer's mean where there are several."""
        shown = [(group.prompt, group.texts, [answer.finished for answer in group.answers]) for group in groups]
        sums = [[0.0] * len(texts) for _prompt, texts, _finished in shown]
        means = {}
        for name, (weight, score) in self._scorers.items():
            rows = _known_or_judged(groups, shown, score) if name == "judge" else score(shown)
            _check(name, shown, rows)
            sums = [
                [total + weight * float(value) for total, value in zip(*pair, strict=True)]
                for pair in zip(sums, rows, strict=True)
            ]
            means[f"rewards/{name}/mean"] = sum(map(sum, rows)) / max(sum(map(len, rows)), 1)
        return sums, means if len(means) > 1 else {}


def _known_or_judged(groups: Sequence[Group], shown: Sequence[Shown], score: Scorer) -> list[list[float]]:
    """What the judge gives: it is asked only for answers that it has not ranked already."""
    asked = [one for group, one in zip(groups, shown, strict=True) if not group.ranks]
    fresh = iter(score(asked) if asked else ())
    return [shares_beaten(group.ranks) if group.ranks else next(fresh) for group in groups]


def make(cfg: Sequence[Reward], reward_model: Model | None, judge: Judge, microbatch_tokens: int) -> Rewards:
    """The rewards that the settings name; there is a reward model where it is one of them."""
    scorers: dict[str, tuple[float, Scorer]] = {}
    for reward in cfg:
        score: Scorer
        if reward.name == "model":
            assert reward_model is not None, "the reward model is one of the rewards"
            score = by_model(reward_model, microbatch_tokens)
        elif reward.name == "judge":
            score = by_judge(judge)
        elif reward.name == rubric.NAME:
            score = by_rubric
        else:
            score = by_function(reward.name)
        scorers[reward.name] = (reward.weight, score)
    return Rewards(scorers)


def by_model(model: Model, microbatch_tokens: int) -> Scorer:
    """What the reward model gives, which reads the text through its own template: its tokenizer may be another."""
    return lambda shown: score_texts(model, shown, microbatch_tokens)


def by_judge(judge: Judge) -> Scorer:
    """The share of the prompt's other answers that the judge ranks below an answer, ties half: in [0, 1].

    A ranking that cannot be read leaves all its answers at the mean, 0.5, so that none is preferred, and is told; where
    none can be read the stage stops.
    """

    def score(shown: Sequence[Shown]) -> list[list[float]]:
        judged = judge.rank([(prompt, _candidates(prompt, texts, ends)) for prompt, texts, ends in shown])
        unread = [verdict.reason for verdict in judged if verdict.ranks is None]
        if shown and len(unread) == len(shown):
            raise StarlingError(
                f"tune: the judge's ranking could be read for none of {len(shown)} prompts, first: {unread[0]}; "
                "use another judge, or other tune.rewards"
            )
        if unread:
            progress.say(
                f"tune: the judge's rankings of {len(unread)} of {len(shown)} prompts could not be read, so they teach "
                f"nothing; first: {unread[0]}"
            )
        return [
            [0.5] * len(texts) if verdict.ranks is None else shares_beaten(verdict.ranks)
            for (_prompt, texts, _ends), verdict in zip(shown, judged, strict=True)
        ]

    return score


def by_rubric(shown: Sequence[Shown]) -> list[list[float]]:
    """The rubric's score, in [0, 1]; held-out checks never enter it."""
    return [
        [rubric.assess(prompt, text, finished=end).score for text, end in zip(texts, ends, strict=True)]
        for prompt, texts, ends in shown
    ]


def refuse_unready(cfg: Sequence[Reward]) -> None:
    """Stop where a function of the user's cannot be imported."""
    for reward in cfg:
        if ":" in reward.name:
            by_function(reward.name)


def by_function(path: str) -> Scorer:
    """A function of the user's, `module:function`: (prompt, its answers' texts, which are finished) -> floats.

    The module is looked for in the working folder too. Whatever it raises is told in one line.
    """
    module, _, name = path.partition(":")
    folder = os.getcwd()
    sys.path.append(folder)
    try:
        function: Any = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise UsageError(f"tune: reward {path!r} cannot be imported: {_said(error)}") from error
    finally:
        sys.path.remove(folder)

    def score(shown: Sequence[Shown]) -> list[list[float]]:
        return [_called(path, function, one) for one in shown]

    return score


def _called(path: str, function: Callable[..., Any], shown: Shown) -> list[float]:
    """What the user's function gives for one prompt's answers."""
    try:
        return [float(value) for value in function(*shown)]
    except Exception as error:
        raise StarlingError(
            f"tune: reward {path!r} failed on prompt {shown[0].id}: {_said(error)}; it is called with a prompt, its "
            "answers' texts and which of them are finished, and gives a list of floats (--debug shows where it failed)"
        ) from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def shares_beaten(ranks: Sequence[float]) -> list[float]:
    """For each answer the share of the others with a worse rank, equal ranks half: 1, 1, 3 -> 0.75, 0.75, 0."""
    others = max(len(ranks) - 1, 1)
    return [(sum((rank < other) + 0.5 * (rank == other) for other in ranks) - 0.5) / others for rank in ranks]


def _candidates(prompt: Prompt, texts: Sequence[str], ends: Sequence[bool]) -> list[Candidate]:
    return [
        Candidate(prompt_id=prompt.id, model="policy", draw=draw, answer=text, finished=end)
        for draw, (text, end) in enumerate(zip(texts, ends, strict=True))
    ]


def _check(name: str, shown: Sequence[Shown], rows: Sequence[Sequence[float]]) -> None:
    for (prompt, texts, _ends), row in zip(shown, rows, strict=True):
        if len(row) != len(texts):
            raise StarlingError(
                f"tune: reward {name!r} gave {len(row)} values for {len(texts)} answers to prompt {prompt.id}; it must "
                "give one for each"
            )
        if bad := [value for value in row if not math.isfinite(value)]:
            raise StarlingError(
                f"tune: reward {name!r} gave {bad[0]} for an answer to prompt {prompt.id}; rewards must be numbers"
            )
