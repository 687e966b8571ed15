"""A judge whose replies a test writes, for every strategy and both forms of reply."""

import json
import re

from servers import ranking_judge, shown_answers

from starling.config import JudgeTable
from starling.judges.llm import LlmJudge
from starling.records import Candidate, Failure, Prompt, Reply


class ScriptedChat:
    """A chat model that answers with a function of the prompt; None stands for a failed call."""

    name = "scripted"

    def __init__(self, *writers):
        self._writers = list(writers)
        self.calls = []

    def chat(self, calls):
        write = self._writers.pop(0) if len(self._writers) > 1 else self._writers[0]
        self.calls += calls
        texts = [write(call.messages[-1]["content"]) for call in calls]
        return [
            text
            if isinstance(text, Reply)
            else Failure(reason="dead")
            if text is None
            else Reply(text=text, finished=True)
            for text in texts
        ]


def item(identity, *answers, ask="Name a colour."):
    prompt = Prompt(id=identity, messages=[{"role": "user", "content": ask}])
    return prompt, [
        Candidate(prompt_id=identity, model=f"m{i}", draw=0, answer=a, finished=True) for i, a in enumerate(answers)
    ]


def judge(chat, **changes):
    return LlmJudge(chat, JudgeTable(**({"max_new_tokens": 300} | changes)), seed=1)


def honest(quality, strategy="kwise", output="text"):
    """A writer of replies that are right about `quality` in the form that the strategy asks for."""

    def text(prompt):
        if strategy == "kwise":
            return ranking_judge(quality)(prompt)
        shown = shown_answers(prompt)
        best_first = sorted(shown, key=lambda letter: -quality(shown[letter]))
        if strategy == "direct":
            return f"Ranking: [[{', '.join(best_first)}]]"
        if strategy == "pairwise":
            return f"Winner: [[{winner(shown)}]]"
        return f"Rating: [[{quality(shown['A'])}]]"

    def winner(shown):
        gap = quality(shown["A"]) - quality(shown["B"])
        return "A" if gap > 0 else "B" if gap < 0 else "tie"

    def as_json(prompt):
        shown = shown_answers(prompt)
        best_first = sorted(shown, key=lambda letter: -quality(shown[letter]))
        pairs = [
            {"pair": f"{one} vs {other}", "winner": min(one, other, key=best_first.index)}
            for one, other in re.findall(r"^(\w) vs (\w):$", prompt, re.MULTILINE)
        ]
        found = {
            "kwise": lambda: {"good_natured": True, "pairs": pairs, "ranking": best_first},
            "direct": lambda: {"ranking": best_first},
            "pairwise": lambda: {"winner": winner(shown)},
            "pointwise": lambda: {"rating": quality(shown["A"])},
        }
        return json.dumps(found[strategy]())

    return text if output == "text" else as_json
