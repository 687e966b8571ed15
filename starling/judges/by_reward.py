"""A reward model as judge: the answer with the higher reward stands above, whatever the order.

A reward has no scale of its own, so no margin is borrowed from the rubric's scores: answers tie where their rewards are
equal, and nowhere else. A text that stands twice among a prompt's answers is read once, so that its places tie, since
in a packed batch the same text may otherwise differ in the last bits.
"""

from collections.abc import Callable, Sequence
from typing import Any

from starling import chat, models, reward
from starling.judges import naming
from starling.judges.protocol import Judged
from starling.judges.ranks import ranks_with_ties
from starling.records import Candidate, Prompt
from starling.reward import Question

_MARGIN = 0.0
Text = tuple[str, bool]  # an answer, and whether it came to its end


class RewardJudge:
    """Ranks answers by their rewards, in float32; implements `judges.protocol.Judge`.

    An empty answer is read as the bare end of a turn, as everywhere in a run. What the model cannot read (longer than
    its window, or refused by its chat template) leaves the prompt unread with the reason; nothing is cut.
    """

    def __init__(self, name: str, on_answers: Callable[[int], None] = lambda count: None) -> None:
        self._model = reward.load_reward_model(name)
        self.identity: dict[str, Any] = models.identity(name) | {"dtype": "float32"}
        self.name = naming.by_reward(name, self.identity["weights_sha256"])
        self.template_hash = str(self.identity["template_hash"])
        self._on_answers = on_answers

    def rank(self, items: Sequence[tuple[Prompt, Sequence[Candidate]]]) -> list[Judged]:
        """One verdict for each item, in order; a prompt runs once for all its answers."""
        distinct = [list(dict.fromkeys(map(_text, answers))) for _, answers in items]
        questions = [_question(prompt, texts) for (prompt, _), texts in zip(items, distinct, strict=True)]
        refusals = [self._refusal(question) for question in questions]
        readable = [question for question, (reason, _) in zip(questions, refusals, strict=True) if not reason]
        scored = iter(self._model.score_questions(readable, self._on_answers))
        judged = []
        for (_, answers), texts, (reason, detail) in zip(items, distinct, refusals, strict=True):
            if reason:
                judged.append(Judged(ranks=None, reason=reason, replies=[detail] if detail else ()))
                continue
            reward_of = dict(zip(texts, next(scored), strict=True))
            rewards = [reward_of[_text(answer)] for answer in answers]
            looks = [[at] for at in range(len(answers))]
            judged.append(Judged(ranks=ranks_with_ties(rewards, _MARGIN), orders=looks, marks=rewards))
        return judged

    def _refusal(self, question: Question) -> tuple[str, str]:
        """Why the model cannot read the answers, in words that can be counted, and in detail; "" where it can."""
        if not question.answers:
            return "no answers to rank", ""
        refusal = self._model.refusal(question)
        if refusal is None:
            return "", ""
        if refusal.reason == reward.TURNS:
            return refusal.detail, ""
        return f"longer than the reward model's window of {self._model.window:,} tokens", refusal.detail


def _text(answer: Candidate) -> Text:
    return (chat.or_blank(answer.answer), answer.finished)


def _question(prompt: Prompt, texts: Sequence[Text]) -> Question:
    return Question(
        messages=prompt.messages,
        answers=[text for text, _ in texts],
        finished=[finished for _, finished in texts],
        where=f"prompt {prompt.id}",
        reads_empty=True,
    )
