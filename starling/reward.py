"""A reward model for people's own answers: text in, rewards out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from starling import chat, models, packing, tables
from starling.errors import DataError, StarlingError
from starling.models import Model
from starling.records import Message

MICROBATCH_TOKENS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A conversation with the answers to score; `where` names it in errors, `finished` is False for cut answers."""

    messages: Sequence[Message]
    answers: Sequence[str]
    finished: Sequence[bool]
    where: str


class RewardModel:
    """Scores answers in float32, as every other tool that loads the model does; answers to a prompt run packed."""

    def __init__(self, model: Model) -> None:
        self._model = model

    def score(self, prompts: Sequence[str | Sequence[Any]], answers: Sequence[Sequence[str]]) -> list[list[float]]:
        """The reward of each answer to each prompt; a prompt is a text or a message list that ends on the user's."""
        if len(prompts) != len(answers):
            raise DataError(
                f"score: {len(prompts)} prompts, but answers to {len(answers)}; give a list of answers for each"
            )
        questions = [
            Question(
                messages=conversation(prompt, f"prompt {number}"),
                answers=texts,
                finished=[True] * len(texts),
                where=f"prompt {number}",
            )
            for number, (prompt, texts) in enumerate(zip(prompts, answers, strict=True))
        ]
        return self.score_questions(questions)

    @torch.inference_mode()
    def score_questions(
        self, questions: Sequence[Question], on_answers: Callable[[int], None] = lambda count: None
    ) -> list[list[float]]:
        """The rewards of each question's answers; all are looked at before the first is scored."""
        packs = [self._pack(question) for question in questions]
        found: list[list[float]] = []
        for batch in packing.microbatches([packing.size(pack) for pack in packs], MICROBATCH_TOKENS):
            sizes = [len(packs[index][1]) for index in batch]
            rewards = models.rewards(self._model.network, packing.pack([packs[index] for index in batch]))
            if not torch.isfinite(rewards).all():
                raise StarlingError(
                    f"{questions[batch[0]].where}: the reward model gives a reward that is not a number; refit it"
                )
            found.extend(part.tolist() for part in rewards.split(sizes))
            on_answers(sum(sizes))
        return found

    def refusal(self, question: Question) -> str:
        """Why the question cannot be scored (a blank answer, too long), in a line; empty where it can."""
        try:
            self._pack(question)
        except DataError as error:
            return str(error)
        return ""

    def _pack(self, question: Question) -> tuple[list[int], list[list[int]]]:
        if not question.answers:
            raise DataError(f"{question.where}: no answers to score")
        empty = [number for number, answer in enumerate(question.answers) if not answer.strip()]
        if empty:
            raise DataError(f"{question.where}: answer {empty[0]} is empty, so it has no reward; leave it out")
        pack = chat.conversation_ids(self._model.tokenizer, question.messages, question.answers, question.finished)
        longest = len(pack[0]) + max(map(len, pack[1]))
        window = packing.window(self._model.network.config)
        if longest > window:
            raise DataError(
                f"{question.where}: takes {longest} tokens, the reward model's window is {window}; shorten it"
            )
        return pack


def conversation(prompt: Any, where: str) -> Sequence[Message]:
    """The messages of a prompt that is a text, in Nectar's form or plain, or a message list."""
    row = {"prompt": prompt} if isinstance(prompt, str) else {"messages": prompt}
    return tables.prompt_from_row({"id": where, **row}, where).messages


def load_reward_model(path: str) -> RewardModel:
    """The reward model in a folder or under a Hub name."""
    return RewardModel(models.load_reward_model(str(path)))
