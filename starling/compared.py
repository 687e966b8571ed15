"""Base and tuned policy side by side: what was found out about each test prompt, and the before/after figures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from starling import polling, stats
from starling.config import Config
from starling.judges import rubric
from starling.judges.ranks import preference, ranks_with_ties
from starling.judges.rubric import Assessment
from starling.records import Candidate, Prompt, Score

MODELS = ("base", "tuned")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One test prompt with an answer of each model and all that was found out about them; pairs are (base, tuned)."""

    prompt: Prompt
    answers: tuple[Candidate, Candidate]
    assessed: tuple[Assessment, Assessment]
    rewards: tuple[float, float]
    verdict: float | None

    @property
    def words(self) -> tuple[int, int]:
        return len(rubric.words(self.answers[0].answer)), len(rubric.words(self.answers[1].answer))


def family_of(case: Case) -> str:
    """What goes together in intervals."""
    return case.prompt.cluster


def win_rate(config: Config, families: Sequence[str], votes: polling.Votes) -> Score:
    """One judge's win rate over the cases that it could read, ties half."""
    read = [(vote, family) for vote, family in zip(votes, families, strict=True) if vote is not None]
    values, clusters = [vote for vote, _ in read], [family for _, family in read]
    return stats.cluster_mean("win_rate", values, clusters, resamples=config.evaluate.resamples, seed=config.run.seed)


def scores(config: Config, cases: Sequence[Case]) -> list[Score]:
    """The before/after figures, intervals by bootstrap over prompt families."""
    judged = [case for case in cases if case.verdict is not None]
    held_out = [case for case in cases if case.assessed[0].held_out is not None]
    alike = [case for case in judged if alike_in_length(case, config.evaluate.length_band)]
    apart = [case for case in judged if not alike_in_length(case, config.evaluate.length_band)]
    shorter = [case for case in apart if case.words[1] < case.words[0]]
    longer = [case for case in apart if case.words[1] > case.words[0]]

    def figure(name: str, chosen: Sequence[Case], value: Callable[[Case], float]) -> Score:
        families = [family_of(case) for case in chosen]
        values = [value(case) for case in chosen]
        return stats.cluster_mean(name, values, families, resamples=config.evaluate.resamples, seed=config.run.seed)

    def other_aspects(case: Case) -> float:
        return preference_without_finish_and_repetition(case, config.rank.tie_margin)

    found = [
        figure("win_rate", judged, lambda case: case.verdict or 0.0),
        figure("win_rate_held_out_checks", held_out, held_out_preference),
        figure("win_rate_within_length_band", alike, lambda case: case.verdict or 0.0),
        figure("win_rate_where_shorter", shorter, lambda case: case.verdict or 0.0),
        figure("win_rate_where_longer", longer, lambda case: case.verdict or 0.0),
        figure("win_rate_without_finish_and_repetition", judged, other_aspects),
    ]
    plain: dict[str, tuple[Sequence[Case], Callable[..., float]]] = {
        "rubric_score": (cases, lambda case, side: case.assessed[side].score),
        "held_out_checks": (held_out, lambda case, side: case.assessed[side].held_out or 0.0),
        "reward": (cases, lambda case, side: case.rewards[side]),
        "tokens": (cases, lambda case, side: case.answers[side].num_tokens),
        "finished": (cases, lambda case, side: case.answers[side].finished),
    }
    for index, name in enumerate(MODELS):
        found += [
            *(figure(f"{name}/{key}", chosen, partial(value, side=index)) for key, (chosen, value) in plain.items()),
            *(_aspect(figure, cases, aspect, name, index) for aspect in rubric.WEIGHTS),
            *_refusals(figure, cases, name, index),
        ]
    kinds = sorted({case.prompt.kind for case in judged})
    for kind in kinds:
        found.append(
            figure(f"win_rate/{kind}", [c for c in judged if c.prompt.kind == kind], lambda case: case.verdict or 0.0)
        )
    return found


def explained_by_finish_and_repetition(cases: Sequence[Case], margin: float) -> float | None:
    """Of the prompts that the tuned policy wins, the share it would not win if finish and repetition did not count."""
    wins = [case for case in cases if case.verdict == 1.0]
    lost = sum(preference_without_finish_and_repetition(case, margin) < 1.0 for case in wins)
    return lost / len(wins) if wins else None


def held_out_preference(case: Case) -> float:
    """Which answer fulfils more of the checks that nothing was ever trained or chosen on; equal is half."""
    base, tuned = case.assessed[0].held_out or 0.0, case.assessed[1].held_out or 0.0
    return 0.5 if base == tuned else float(tuned > base)


def alike_in_length(case: Case, band: float) -> bool:
    """Whether the two answers' word counts differ by at most `band` of the longer one."""
    return abs(case.words[0] - case.words[1]) <= band * max(case.words)


def preference_without_finish_and_repetition(case: Case, margin: float) -> float:
    """The rubric's verdict by the other aspects alone; scores closer than `margin` tie, as they do in rankings."""
    scores = [rubric.total(found.aspects, leave_out=("finish", "repetition")) for found in reversed(case.assessed)]
    return preference(ranks_with_ties(scores, margin))


def _aspect(figure: Any, cases: Sequence[Case], aspect: str, name: str, index: int) -> Score:
    chosen = [case for case in cases if aspect in case.assessed[index].aspects]
    return figure(f"{name}/{aspect}", chosen, lambda case: case.assessed[index].aspects[aspect])


def _refusals(figure: Any, cases: Sequence[Case], name: str, index: int) -> list[Score]:
    """How often an ill-natured request, and a harmless one that only sounds so, is refused."""
    return [
        figure(
            f"{name}/refused_{kind}",
            [case for case in cases if case.prompt.kind == kind],
            lambda case: float(rubric.refuses(case.answers[index].answer)),
        )
        for kind in ("ill_natured", "look_alike")
    ]


def row(case: Case, band: float, margin: float) -> dict[str, Any]:
    """A line of `evaluate/cases.jsonl`."""
    return {
        "prompt_id": case.prompt.id,
        "draw": case.answers[0].draw,
        "family": case.prompt.family,
        "kind": case.prompt.kind,
        "messages": list(case.prompt.messages),
        "reference": case.prompt.reference,
        "checks": [dict(check) for check in case.prompt.checks],
        "verdict": case.verdict,
        "held_out_verdict": None if case.assessed[0].held_out is None else held_out_preference(case),
        "alike_in_length": alike_in_length(case, band),
        "verdict_without_finish_and_repetition": preference_without_finish_and_repetition(case, margin),
        **{
            name: {
                "answer": case.answers[index].answer,
                "finished": case.answers[index].finished,
                "tokens": case.answers[index].num_tokens,
                "score": case.assessed[index].score,
                "aspects": dict(case.assessed[index].aspects),
                "held_out": case.assessed[index].held_out,
                "reward": case.rewards[index],
            }
            for index, name in enumerate(MODELS)
        },
    }
