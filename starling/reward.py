"""A reward model for people's own answers: text in, rewards out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch

from starling import chat, models, packed_rewards, packing, reward_scale, tables, uncertainty
from starling.errors import DataError, ModelError
from starling.models import Model
from starling.records import Message
from starling.uncertainty import Uncertainty

MICROBATCH_TOKENS = 1024  # more leave the cache: 4096 took a tenth longer on two cores
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A conversation with the answers to score; `where` names it in errors, `finished` is False for cut answers.

    `reads_empty` is whether an empty answer is read as the bare end of a turn, where it is refused otherwise.
    """

    messages: Sequence[Message]
    answers: Sequence[str]
    finished: Sequence[bool]
    where: str
    reads_empty: bool = False


class Scored(NamedTuple):
    """A reward, and the standard deviation of how far it lies from the mean reward of the training answers."""

    reward: float
    spread: float


BLANK, LONG, TURNS = "a blank answer", "too long for the model", "refused by the chat template"


class Refusal(NamedTuple):
    """Why a question cannot be scored: one of the three reasons, and in a line."""

    reason: str
    detail: str


class RewardModel:
    """Scores answers as every other tool that loads the model does; answers to a prompt run packed."""

    def __init__(self, model: Model, uncertainty: Uncertainty | None = None) -> None:
        self._model = model
        self._uncertainty = uncertainty

    @property
    def has_spreads(self) -> bool:
        """Whether the model was fitted with `fit.laplace_prior`, so that `score_with_spread` can be asked."""
        return self._uncertainty is not None

    @property
    def window(self) -> int:
        """The longest conversation in tokens, prompt and answer, that it reads."""
        return packing.window(self._model.network.config)

    def score(
        self, prompts: Sequence[str | Sequence[Any]], answers: Sequence[Sequence[str]], *, scaled: bool = False
    ) -> list[list[float]]:
        """The reward of each answer to each prompt; a prompt is a text or a message list that ends on the user's.

        A difference of two rewards to one prompt is the log-odds by which the better answer is preferred; across
        prompts they say nothing. `scaled` rewards are 0 at the mean of the held-out answers and 1 a standard deviation
        above it; a model without a stored scale raises ModelError. Nothing is cut: an answer that is empty or does not
        fit `window` raises DataError.
        """
        return self.score_questions(_questions(prompts, answers), scaled=scaled)

    def score_with_spread(
        self, prompts: Sequence[str | Sequence[Any]], answers: Sequence[Sequence[str]], *, scaled: bool = False
    ) -> list[list[Scored]]:
        """As `score`, each reward with its standard deviation (`uncertainty.py` says of what), in the same unit."""
        return self.score_questions_with_spread(_questions(prompts, answers), scaled=scaled)

    def score_questions(
        self,
        questions: Sequence[Question],
        on_answers: Callable[[int], None] = lambda count: None,
        *,
        scaled: bool = False,
    ) -> list[list[float]]:
        """The rewards of each question's answers; all are looked at before the first is scored."""
        return [[found.reward for found in row] for row in self._score(questions, on_answers, None, scaled)]

    def score_questions_with_spread(
        self,
        questions: Sequence[Question],
        on_answers: Callable[[int], None] = lambda count: None,
        *,
        scaled: bool = False,
    ) -> list[list[Scored]]:
        """The same, each with its spread."""
        if self._uncertainty is None:
            raise ModelError(
                f"score: the reward model has no {uncertainty.FILE}; fit it with fit.laplace_prior above 0"
            )
        return self._score(questions, on_answers, self._uncertainty, scaled)

    @torch.inference_mode()
    def _score(
        self,
        questions: Sequence[Question],
        on_answers: Callable[[int], None],
        head: Uncertainty | None,
        scaled: bool,
    ) -> list[list[Scored]]:
        network = self._model.network
        offset, scale = self._scale() if scaled else (0.0, 1.0)
        packs = self._packs(questions)
        found: list[list[Scored]] = [[]] * len(packs)
        names = [question.where for question in questions]
        for indices, sizes, hidden_NH, reward_N in packed_rewards.passes(network, packs, MICROBATCH_TOKENS, names):
            spread_N = torch.full_like(reward_N, torch.nan) if head is None else head.spread(hidden_NH)
            scored_N = list(map(Scored, ((reward_N - offset) / scale).tolist(), (spread_N / scale).tolist()))
            for index, size in zip(indices, sizes, strict=True):
                found[index], scored_N = scored_N[:size], scored_N[size:]
            on_answers(len(reward_N))
        return found

    def refusal(self, question: Question) -> Refusal | None:
        """Why the question cannot be scored; None where it can."""
        try:
            self._pack(question)
        except ModelError as error:
            return Refusal(TURNS, str(error))
        except DataError as error:
            lacks = not question.reads_empty and not all(answer.strip() for answer in question.answers)
            return Refusal(BLANK if lacks else LONG, str(error))
        return None

    def _scale(self) -> tuple[float, float]:
        found = reward_scale.read(self._model.network.config)
        if found is None:
            raise ModelError(
                f"score: the reward model has no {reward_scale.KEY} in its config.json, since it was fitted without "
                "held-out rankings; fit it with some, or score without scaling"
            )
        return found.offset, found.scale

    def _packs(self, questions: Sequence[Question]) -> list[tuple[list[int], list[list[int]]]]:
        """All of them, or the first that cannot be scored, and how many others cannot."""
        packs, refused = [], []
        for question in questions:
            try:
                packs.append(self._pack(question))
            except (DataError, ModelError) as error:
                refused.append(error)
        if refused:
            others = f" (and {len(refused) - 1:,} others of {len(questions):,} cannot be scored either)"
            raise type(refused[0])(f"{refused[0]}{others if len(refused) > 1 else ''}")
        return packs

    def _pack(self, question: Question) -> tuple[list[int], list[list[int]]]:
        if not question.answers:
            raise DataError(f"{question.where}: no answers to score")
        empty = [number for number, answer in enumerate(question.answers) if not answer.strip()]
        if empty and not question.reads_empty:
            raise DataError(f"{question.where}: answer {empty[0]} is empty, so it has no reward; leave it out")
        texts = list(map(chat.or_blank, question.answers))
        pack = chat.conversation_ids(self._model.tokenizer, question.messages, texts, question.finished)
        longest = len(pack[0]) + max(map(len, pack[1]))
        if longest > self.window:
            raise DataError(
                f"{question.where}: takes {longest} tokens, the reward model's window is {self.window}; shorten it"
            )
        return pack


def _questions(prompts: Sequence[str | Sequence[Any]], answers: Sequence[Sequence[str]]) -> list[Question]:
    if len(prompts) != len(answers):
        raise DataError(
            f"score: {len(prompts)} prompts, but answers to {len(answers)}; give a list of answers for each"
        )
    for number, texts in enumerate(answers):
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise DataError(f"score: prompt {number}: its answers must be a list of texts, not {texts!r:.40}")
    return [
        Question(
            messages=conversation(prompt, f"prompt {number}"),
            answers=texts,
            finished=[True] * len(texts),
            where=f"prompt {number}",
        )
        for number, (prompt, texts) in enumerate(zip(prompts, answers, strict=True))
    ]


def conversation(prompt: Any, where: str) -> Sequence[Message]:
    """The messages of a prompt that is a text, in Nectar's form or plain, or a message list."""
    row = {"prompt": prompt} if isinstance(prompt, str) else {"messages": prompt}
    return tables.prompt_from_row({"id": where, **row}, where).messages


def load_reward_model(path: str, dtype: Precision = "float32") -> RewardModel:
    """The reward model in a folder or under a Hub name, with its uncertainty where it has one.

    It runs on a GPU where there is one. In bfloat16 it took two thirds of the time on a CPU that knows the type
    (docs/results.md); rewards are less exact.
    """
    model = models.load_reward_model(str(path), getattr(torch, dtype))
    file = models.file_beside(str(path), uncertainty.FILE)
    network: Any = model.network
    return RewardModel(model, uncertainty.load(file, network.score.weight[0]) if file else None)
