"""Rollouts: the policy answers prompts, the reward model scores the answers."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any, TypedDict

from transformers import GenerationConfig
from transformers.modeling_utils import PreTrainedModel

from starling import chat, device, packed_rewards, packing, progress
from starling.device import seed_for
from starling.errors import StarlingError
from starling.generate import Request, Sampled, Sampler, generate, stop_ids
from starling.models import Model
from starling.records import Candidate, Prompt, Ranking


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One prompt and the G answers that the policy gave: ids for training, text for judging.

    `ranks` are those of ranked answers, best 1; the policy's own have none. `has_first` is False where the answers that
    were ranked first are left out.
    """

    prompt: Prompt
    prompt_ids: tuple[int, ...]
    answers: tuple[Sampled, ...]
    texts: tuple[str, ...]
    ranks: tuple[float, ...] = ()
    has_first: bool = True

    @property
    def num_tokens(self) -> int:
        return sum(len(answer.ids) for answer in self.answers)

    @property
    def pack(self) -> packing.Pack:
        """The ids as they are packed."""
        return self.prompt_ids, [answer.ids for answer in self.answers]

    @property
    def num_pairs(self) -> int:
        """Pairs of answers of which one is ranked above the other."""
        return sum(one != other for one, other in combinations(self.ranks, 2))

    @property
    def best(self) -> "Group":
        """The same with the answers that share the best rank alone."""
        places = [place for place, rank in enumerate(self.ranks) if rank == min(self.ranks)]
        return replace(
            self,
            answers=tuple(self.answers[place] for place in places),
            texts=tuple(self.texts[place] for place in places),
            ranks=tuple(self.ranks[place] for place in places),
        )


def sample_groups(
    model: Model,
    prompts: Sequence[Prompt],
    *,
    count: int,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int,
    purpose: tuple[object, ...],
    on_tokens: Callable[[int], None] = lambda count: None,
    sampler: Sampler | None = None,
) -> list[Group]:
    """`count` answers to each prompt; the seed of each follows from `purpose`, the prompt and the draw, which goes on
    where a prompt comes again.

    `sampler` answers in place of the model itself.
    """
    draws = {prompt.id: itertools.count() for prompt in prompts}
    ids = [chat.prompt_ids(model.tokenizer, prompt.messages) for prompt in prompts]
    requests = [
        Request(
            prompt=prompt_ids,
            seed=seed_for(seed, *purpose, prompt.id, next(draws[prompt.id])),
            temperature=temperature,
            top_p=top_p,
        )
        for prompt, prompt_ids in zip(prompts, ids, strict=True)
        for _ in range(count)
    ]
    sampler = sampler or partial(generate, model.network)
    sampled = sampler(requests, max_new_tokens=max_new_tokens, stop=stop_ids(model.network), on_tokens=on_tokens)
    groups = []
    for number, (prompt, prompt_ids) in enumerate(zip(prompts, ids, strict=True)):
        answers = tuple(sampled[number * count : (number + 1) * count])
        texts = tuple(chat.answer_text(model.tokenizer, answer.ids) for answer in answers)
        groups.append(Group(prompt=prompt, prompt_ids=prompt_ids, answers=answers, texts=texts))
    return groups


def ranked_groups(model: Model, prompts: Sequence[Prompt], rankings: Sequence[Ranking]) -> list[Group]:
    """The ranked answers as groups of token ids, as the policy would have to say them. Left out, which is told, are
    empty answers, those for which the model has no positions or in which one of its stop tokens stands, and what is
    then alone."""
    prompt_of = {prompt.id: prompt for prompt in prompts}
    stop, window = stop_ids(model.network), packing.window(model.network.config)
    groups = []
    lost: dict[str, list[str]] = {}
    for ranking in rankings:
        prompt_ids = chat.prompt_ids(model.tokenizer, ranking.messages)
        answers = []
        for answer, rank in zip(ranking.answers, ranking.ranks, strict=True):
            if not answer.answer.strip():
                lost.setdefault("empty", []).append(ranking.prompt_id)
                continue
            ids = chat.turn_ids(model.tokenizer, ranking.messages, answer.answer, stop, finished=answer.finished)
            if len(prompt_ids) + len(ids) > window:
                lost.setdefault(f"longer than the model's window of {window:,} tokens", []).append(ranking.prompt_id)
            elif chat.holds(model.tokenizer, answer.answer, stop):
                lost.setdefault("with a token in them that ends an answer", []).append(ranking.prompt_id)
            else:
                answers.append((answer.answer, rank, Sampled(ids=list(ids), finished=answer.finished)))
        if len(answers) > 1:
            texts, ranks, sampled = zip(*answers, strict=True)
            groups.append(
                Group(
                    prompt=prompt_of[ranking.prompt_id],
                    prompt_ids=prompt_ids,
                    answers=sampled,
                    texts=texts,
                    ranks=ranks,
                    has_first=min(ranks) == min(ranking.ranks),
                )
            )
        elif answers:
            lost.setdefault("alone with their prompt", []).append(ranking.prompt_id)
    for why, where in lost.items():
        progress.say(
            f"{len(where):,} ranked answers of {len(set(where)):,} prompts are {why} and left out, first of {where[0]}"
        )
    return groups


def with_first(groups: Sequence[Group]) -> list[Group]:
    """Those of which an answer that was ranked first is left; how many others there are is told."""
    kept = [group for group in groups if group.has_first]
    if lost := len(groups) - len(kept):
        progress.say(
            f"{lost:,} of {len(groups):,} rankings are not learnt from: the answer ranked first is empty, too long, or "
            "has a token in it that ends an answer"
        )
    return kept


def candidates(groups: Sequence[Group], model: str) -> list[Candidate]:
    """The answers of all groups as those of `model`, a prompt's in the order they were drawn."""
    return [
        Candidate(
            prompt_id=group.prompt.id,
            model=model,
            draw=draw,
            answer=text,
            finished=answer.finished,
            num_tokens=len(answer.ids),
        )
        for group in groups
        for draw, (text, answer) in enumerate(zip(group.texts, group.answers, strict=True))
    ]


class SamplingSettings(TypedDict):
    """What of a model's `generation_config` decides how it samples."""

    temperature: float
    top_p: float


def own_settings(network: PreTrainedModel) -> SamplingSettings:
    """Temperature and top-p as the model's own `generation_config` has them; greedy where it does not sample."""
    config: GenerationConfig = network.generation_config
    if not config.do_sample:
        return {"temperature": 0.0, "top_p": 1.0}
    return {
        "temperature": 1.0 if config.temperature is None else float(config.temperature),
        "top_p": 1.0 if config.top_p is None else float(config.top_p),
    }


# What else in a `generation_config` changes what is drawn, with the value that changes nothing.
_OTHER_SETTINGS = {
    "top_k": 0, "min_p": 0.0, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0, "min_new_tokens": 0, "min_length": 0, "bad_words_ids": [], "suppress_tokens": [],
    "sequence_bias": {},
}  # fmt: skip


def left_aside(network: PreTrainedModel) -> dict[str, Any]:
    """What of the model's own `generation_config` Starling does without: it samples by temperature and top-p alone."""
    found = {name: getattr(network.generation_config, name, None) for name in _OTHER_SETTINGS}
    return {name: value for name, value in found.items() if value and value != _OTHER_SETTINGS[name]}


def tell_left_aside(network: PreTrainedModel, stage: str) -> None:
    """Say so where there is any."""
    if found := left_aside(network):
        listed = ", ".join(f"{name} = {value!r:.40}" for name, value in found.items())
        progress.say(
            f"{stage}: of the model's own generation_config {listed} {'is' if len(found) == 1 else 'are'} left aside: "
            "answers are sampled by temperature and top_p alone"
        )


def score_texts(
    reward_model: Model,
    groups: Sequence[tuple[Prompt, Sequence[str], Sequence[bool]]],
    microbatch_tokens: int,
    on_answers: Callable[[int], None] = lambda count: None,
) -> list[list[float]]:
    """The raw reward of each answer, read by the reward model through its own template.

    An empty answer has nothing to read; it is scored as the bare end of a turn. One that passes the reward model's
    window is read up to there, as one that was cut; how many are is told. `on_answers` hears of each pass.
    """
    packs, window, cut = [], packing.window(reward_model.network.config), 0
    for prompt, texts, finished in groups:
        shown = list(map(chat.or_blank, texts))
        shared, endings = chat.conversation_ids(reward_model.tokenizer, prompt.messages, shown, finished)
        room = window - len(shared)
        if room < 1:
            raise StarlingError(
                f"prompt {prompt.id} takes {len(shared):,} tokens of the reward model, whose window is {window:,}; use "
                "a reward model with a larger one, or leave out prompts of that length"
            )
        cut += sum(len(ending) > room for ending in endings)
        packs.append((shared, [ending[:room] for ending in endings]))
    if cut:
        progress.say(
            f"{cut:,} of the answers pass the reward model's window of {window:,} tokens; they are scored as cut there"
        )
    names = [f"prompt {prompt.id}" for prompt, _, _ in groups]
    with device.autocast(reward_model.network.device):
        return packed_rewards.rewards(reward_model.network, packs, microbatch_tokens, names, on_answers)
