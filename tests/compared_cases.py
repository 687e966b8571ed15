"""Test prompts with both models' answers and what was found out about them, by hand."""

from starling.compared import MODELS, Case
from starling.judges.rubric import Assessment
from starling.records import Candidate, Message, Prompt


def assessment(held_out: float | None = None, **aspects: float) -> Assessment:
    return Assessment(
        score=0.5, aspects={"finish": 1.0, "repetition": 1.0, "refusal": 1.0} | aspects, held_out=held_out
    )


def case(
    verdict: float | None,
    *,
    answers: tuple[str, str] = ("wet", "dry"),
    assessed: tuple[Assessment, Assessment] = (assessment(), assessment()),
    rewards: tuple[float, float] = (0.0, 0.0),
    family: str = "rain",
    kind: str = "writing",
    reference: str = "",
) -> Case:
    asked = Prompt(id="p", messages=[Message(role="user", content="?")], family=family, kind=kind, reference=reference)
    base, tuned = (
        Candidate(prompt_id="p", model=name, draw=0, answer=text, finished=name == "tuned", num_tokens=len(text))
        for name, text in zip(MODELS, answers, strict=True)
    )
    return Case(prompt=asked, answers=(base, tuned), assessed=assessed, rewards=rewards, verdict=verdict)
