"""Which K answers to a prompt are kept, of those that generators give and those that came with its source."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, NamedTuple

from starling.config import SampleTable
from starling.records import Candidate, Prompt


class LeftOut(NamedTuple):
    """An answer that is not kept, or, with `draw` None, a prompt that has none; `detail` is what an endpoint said."""

    prompt_id: str
    model: str
    draw: int | None
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """The answers from sources that are kept, whatever is left out with its reason, and how many prompts have how
    many answers."""

    from_sources: Sequence[Candidate]
    left_out: Sequence[LeftOut]
    prompts_with: Mapping[int, int]


class Sums:
    """What `sample` says of its answers, from running sums over shards."""

    def __init__(self) -> None:
        self.prompts_with: Counter[int] = Counter()
        self.left_out: Counter[str] = Counter()
        self._from_sources: Counter[str] = Counter()
        self._tokens = self._finished = 0

    def add(self, sampled: Sequence[Candidate], chosen: Choice) -> None:
        """Count what generators gave to a shard's prompts, and what was made of it."""
        lost = {(left.prompt_id, left.draw) for left in chosen.left_out}
        kept = [one for one in sampled if (one.prompt_id, one.draw) not in lost]
        self.prompts_with.update(chosen.prompts_with)
        self.left_out.update(left.reason for left in chosen.left_out)
        self._from_sources.update(one.model for one in chosen.from_sources)
        self._tokens += sum(one.num_tokens for one in sampled)
        self._finished += sum(one.finished for one in (*kept, *chosen.from_sources))

    def facts(self) -> dict[str, Any]:
        """Prompts and answers that are kept, what generators wrote in all, and what was left out."""
        answers = sum(count * prompts for count, prompts in self.prompts_with.items())
        return {
            "prompts": self.prompts_with.total(),
            "answers": answers,
            "tokens": self._tokens,
            "finished": self._finished / answers,
            "from_sources": dict(self._from_sources),
            "left_out": dict(self.left_out),
            "prompts_with_answers": {str(count): prompts for count, prompts in sorted(self.prompts_with.items())},
        }


def by_preference(
    prompts: Sequence[Prompt], brought: Iterable[Candidate], cfg: SampleTable, seed: int
) -> dict[str, list[Candidate]]:
    """Each prompt's answers from its source in the order in which they are taken.

    Models in `prefer` come first, as they stand there. The others follow in an order drawn for each prompt: that of
    the source may be its verdict, such as chosen before rejected. Draws go on from the last generator's.
    """
    wanted = {prompt.id for prompt in prompts}
    answers: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in brought:
        if candidate.prompt_id in wanted:
            answers[candidate.prompt_id].append(replace(candidate, draw=len(cfg.generators) + candidate.draw))
    places = {model: place for place, model in enumerate(cfg.prefer)}
    for prompt_id, own in answers.items():
        Random(f"{seed}:answers:{prompt_id}").shuffle(own)
        own.sort(key=lambda candidate: places.get(candidate.model, len(places)))
    return answers


def generators_asked(brought: int, cfg: SampleTable) -> int:
    """How many generators, from the first, answer a prompt that brings so many answers.

    No answer is sampled that would not be kept.
    """
    if not cfg.answers:
        return len(cfg.generators)
    taken = brought if cfg.order == "source_first" else 0
    return min(len(cfg.generators), max(0, cfg.answers - taken))


def choose(
    prompts: Sequence[Prompt],
    sampled: Iterable[Candidate],
    brought: Mapping[str, Sequence[Candidate]],
    cfg: SampleTable,
) -> Choice:
    """What is kept: what generators gave, filled up to K from the source, no text twice; see `[sample]`."""
    given: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in sampled:
        given[candidate.prompt_id].append(candidate)
    from_sources: list[Candidate] = []
    left_out: list[LeftOut] = []
    counts: Counter[int] = Counter()
    for prompt in prompts:
        kept, lost = _of_prompt(given.get(prompt.id, []), brought.get(prompt.id, ()), cfg)
        left_out += lost
        if reason := _too_few(len(kept), cfg):
            left_out += [LeftOut(prompt.id, one.model, one.draw, reason) for one in kept]
            if not kept:
                left_out.append(LeftOut(prompt.id, "", None, reason))
            continue
        counts[len(kept)] += 1
        from_sources += [one for one in kept if one.draw >= len(cfg.generators)]
    return Choice(from_sources, left_out, dict(sorted(counts.items())))


def _of_prompt(
    given: Sequence[Candidate], brought: Sequence[Candidate], cfg: SampleTable
) -> tuple[list[Candidate], list[LeftOut]]:
    kept: list[Candidate] = []
    lost: list[LeftOut] = []
    texts: set[str] = set()
    for one in (*sorted(given, key=lambda candidate: candidate.draw), *brought):
        from_source = one.draw >= len(cfg.generators)
        if one.failure:
            lost.append(LeftOut(one.prompt_id, one.model, one.draw, "no_answer", one.failure))
        elif one.answer in texts and (from_source or cfg.distinct == "all"):
            lost.append(LeftOut(one.prompt_id, one.model, one.draw, "same_text"))
        elif cfg.answers and len(kept) == cfg.answers:
            lost.append(LeftOut(one.prompt_id, one.model, one.draw, f"more_than_{cfg.answers}_answers"))
        else:
            kept.append(one)
            texts.add(one.answer)
    return kept, lost


def _too_few(count: int, cfg: SampleTable) -> str:
    """Why a prompt with so many answers is left out; "" where it stays."""
    if count < 2:
        return "fewer_than_2_answers"
    if cfg.fewer == "leave_out" and count < cfg.answers:
        return f"fewer_than_{cfg.answers}_answers"
    return ""
