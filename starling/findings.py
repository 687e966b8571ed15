"""What can be told before tuning: a line each, ok, warn or stop, with what to fix."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch

from starling import chat, memory, models, packing, progress, stats
from starling.config import Config
from starling.errors import ModelError, StarlingError
from starling.experience import is_flat
from starling.generate import stop_ids
from starling.judges.make import named_judges
from starling.losses import kl
from starling.memory import RankingTokens
from starling.models import Model
from starling.policy import Policy
from starling.records import Prompt
from starling.rollout import Group
from starling.tune_settings import TuneTable, is_online

State = Literal["ok", "warn", "stop"]
FEW_END = 0.5  # share of finished answers below which most of what is learnt would be the token cap
SAME_KL = 1e-3  # nats an answer: two float32 copies of the same weights differ by nothing at all


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check: its name, how it came out, what was seen, and what to fix; `figures` are the same as numbers."""

    name: str
    state: State
    text: str
    fix: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        return asdict(self)


def warn(finding: Finding) -> None:
    """Print what is not as it should be, with what to fix."""
    if finding.state != "ok":
        progress.say(f"tune: {finding.text}; {finding.fix}")


def refuse(findings: Sequence[Finding]) -> None:
    """Stop where a finding says so, with all of them in one line; print what it warns of."""
    for finding in findings:
        if finding.state == "warn":
            warn(finding)
    if stops := [f"{finding.text}; {finding.fix}" for finding in findings if finding.state == "stop"]:
        raise StarlingError(f"tune: {'. '.join(stops)}")


def refuse_too_large(config: Config) -> None:
    """Stop before anything is sampled or ranked where the settings ask for what fits at no length of prompts."""
    found = of_memory(config)
    refuse([found] if found.state == "stop" else [])
    window = packing.window(models.load_config(config.run.model))
    lengths = {"tune.max_new_tokens": _rollout_tokens(config), "evaluate.answer_tokens": config.evaluate.answer_tokens}
    if too_long := [f"{key} ({length:,})" for key, length in lengths.items() if length >= window]:
        named = " and ".join(too_long)
        raise StarlingError(
            f"tune: answers so long leave no room for a prompt in the window of {window:,}; lower {named}"
        )


def of_memory(config: Config, rankings: RankingTokens | None = None) -> Finding:
    """The estimate against what is free; only what no memory of this machine could hold says stop. Where the length of
    the ranked answers is not known yet, they add nothing to that."""
    network = models.load_config(config.run.model)
    reward_model = models.load_config(config.fit.reward_model) if config.fit.reward_model else None
    named = [one for one in named_judges(config, config.chooser) if one.is_asked or one.by_reward]
    local = [one for one in named if one.endpoint is None]
    judges = [(models.load_config(one.cfg.judge), one.by_reward) for one in local]
    parts = memory.of_tune(config, network, rankings, reward_model, judges)
    least = memory.of_tune(config, network, rankings or RankingTokens(0, 0), reward_model, judges)
    there = memory.available()
    need, text = sum(parts.values()), f"takes about {memory.said(parts)}"
    figures: dict[str, Any] = {"bytes": need, "parts": parts}
    if there is None:
        return Finding(name="memory", state="ok", text=f"{text}; what is free is not known here", figures=figures)
    free, total = there
    figures |= {"free": free, "total": total}
    too_much = sum(least.values()) > total
    return Finding(
        name="memory",
        state="stop" if too_much else "warn" if need > free else "ok",
        text=f"{text}, {memory.gib(free)} of {memory.gib(total)} are free",
        fix=f"{_smaller(config, parts)}, or {'take a smaller model' if too_much else 'end other programs'}",
        figures=figures,
    )


def _smaller(config: Config, parts: Mapping[str, int]) -> str:
    """Which settings lower the largest of what grows with tokens, and how to train less."""
    cfg, answer_tokens = config.tune, config.evaluate.answer_tokens
    cached = f"tune.max_new_tokens ({cfg.max_new_tokens:,}) and evaluate.answer_tokens ({answer_tokens:,})"
    whole = f"tune.microbatch_tokens ({cfg.microbatch_tokens:,}; all answers to a prompt stay together)"
    grows = {
        whole: parts["activations of a microbatch"],
        f"tune.warm_up_prompts ({cfg.warm_up_prompts:,})": parts["features of the warm-up"],
        f"tune.prompts_per_step ({cfg.prompts_per_step:,})": parts["features of a step"]
        + parts["trunk states from sampling"],
        cached: parts["keys and values while sampling"],
    }
    return f"lower {max(grows, key=grows.__getitem__)}, {_fewer(cfg)}"


def _fewer(cfg: TuneTable) -> str:
    """How to train less of the policy."""
    if cfg.lora_rank:
        return f"lower tune.lora_rank ({cfg.lora_rank})"
    return f"{f'lower tune.layers ({cfg.layers})' if cfg.layers else 'set tune.layers (now all)'} or set tune.lora_rank"


def of_window(policy: Policy, prompts: Sequence[Prompt], config: Config) -> Finding:
    """Whether every prompt and its answer have positions in the model."""
    window = packing.window(policy.network.config)
    lengths = [
        len(chat.prompt_ids(policy.tokenizer, prompt.messages)) + _answer_tokens(prompt, config) for prompt in prompts
    ]
    too_long = [prompt.id for prompt, length in zip(prompts, lengths, strict=True) if length > window]
    longest = max(lengths, default=0)
    text = f"the longest of {len(prompts)} prompts takes with its answer {longest:,} of the model's {window:,}"
    if too_long:
        text += f": {len(too_long)} prompts do not fit, first {too_long[0]}"
    fix = "lower tune.max_new_tokens and evaluate.answer_tokens, or prompts.max_tokens with prompts.too_long"
    return _of_lengths("window", text, fix, window=window, longest=longest, too_long=len(too_long))


def of_reward_window(
    reward_model: Model, ranked: Sequence[Group], prompts: Sequence[Prompt], config: Config
) -> Finding:
    """Whether the reward model has positions for every ranked answer, and for every prompt with a whole answer.

    What an answer takes of its tokens, which may be others than the policy's, is told from the ranked ones.
    """
    window = packing.window(reward_model.network.config)
    lengths, own, theirs = [], 0, 0
    for group in ranked:
        texts, ends = list(map(chat.or_blank, group.texts)), [answer.finished for answer in group.answers]
        shared, endings = chat.conversation_ids(reward_model.tokenizer, group.prompt.messages, texts, ends)
        lengths.append((group.prompt.id, len(shared) + max(map(len, endings))))
        before = len(chat.prompt_ids(reward_model.tokenizer, group.prompt.messages))
        own, theirs = own + group.num_tokens, theirs + sum(len(shared) + len(ending) - before for ending in endings)
    for prompt in prompts:
        most = _answer_tokens(prompt, config)
        wanted = max(most, most * theirs // own) if own else most
        lengths.append((prompt.id, len(chat.prompt_ids(reward_model.tokenizer, prompt.messages)) + wanted))
    too_long = [name for name, length in lengths if length > window]
    longest = max((length for _name, length in lengths), default=0)
    text = "the longest of ranked answers, and of prompts with their answers, takes "
    text += f"{longest:,} of the reward model's {window:,}" + (
        f": {len(too_long)} do not fit, first of {too_long[0]}" if too_long else ""
    )
    fix = "use a reward model with a larger window, or leave out prompts and answers of that length"
    return _of_lengths("reward model's window", text, fix, window=window, longest=longest, too_long=len(too_long))


def _answer_tokens(prompt: Prompt, config: Config) -> int:
    """How long the policy's answers to a prompt may become: those to train prompts are rollouts, if there are any."""
    return _rollout_tokens(config) if prompt.split == "train" else config.evaluate.answer_tokens


def _rollout_tokens(config: Config) -> int:
    return config.tune.max_new_tokens if is_online(config.tune.algorithm) else 0


def _of_lengths(name: str, text: str, fix: str, **figures: int) -> Finding:
    return Finding(name=name, state="stop" if figures["too_long"] else "ok", text=text, fix=fix, figures=figures)


def of_template(policy: Policy, shown: Sequence[tuple[Prompt, str]]) -> Finding:
    """Whether answers go through the chat template and come back: after the prompt, the same text, ended by a stop."""
    stop = stop_ids(policy.network)
    name, found = "template", []
    if not stop:
        fix = "name it as eos_token_id in the model's generation_config.json"
        return Finding(name=name, state="stop", text="the model names no token that ends an answer", fix=fix)
    try:
        for prompt, answer in shown:
            ids = chat.turn_ids(policy.tokenizer, prompt.messages, answer, stop, finished=True)
            same = chat.answer_text(policy.tokenizer, ids) == answer.strip()
            found.append((same, bool(ids) and ids[-1] in stop))
    except ModelError as error:
        return Finding(name=name, state="stop", text=str(error), fix="save another chat template with the model")
    alike, ended = (sum(column) for column in zip(*found, strict=True)) if found else (0, 0)
    state: State = "stop" if ended < len(found) else "warn" if alike < len(found) else "ok"
    return Finding(
        name=name,
        state=state,
        text=f"of {len(found)} answers {alike} come back as the same text, {ended} end on a token that stops the model",
        fix="let eos_token_id in generation_config.json name the token with which the template ends a turn"
        if state == "stop"
        else "what the tokenizer changes is learnt and scored in its changed form",
        figures={"answers": len(found), "same": alike, "ended": ended},
    )


def of_kl(policy: Policy, groups: Sequence[Group]) -> Finding:
    """KL of policy to reference before the first update: both branch from one trunk with the same weights, so 0."""
    packed = packing.pack([group.pack for group in groups])
    with torch.no_grad():
        features = policy.features(packed)
        logprob_N = policy.logprobs(packed, features)
    answers = sum(len(group.answers) for group in groups)
    value = float(kl.k1(logprob_N, features.ref_logprob_N).abs().sum()) / answers
    return Finding(
        name="KL at step 0",
        state="ok" if value <= SAME_KL else "stop",  # NaN stops as well
        text=f"policy and reference differ by {value:.2g} nats an answer, over {answers} answers",
        fix="they must begin alike: is there dropout, or a weight that is not a number, in the model?",
        figures={"kl": value, "answers": answers},
    )


def of_endings(groups: Sequence[Group], cfg: TuneTable) -> Finding:
    """How many sampled answers end before the token cap."""
    ends = [answer.finished for group in groups for answer in group.answers]
    share = stats.share("finished", sum(ends), len(ends))
    return Finding(
        name="EOS rate",
        state="stop" if not sum(ends) else "warn" if share.value < FEW_END else "ok",
        text=f"{sum(ends)} of {len(ends)} sampled answers end within {cfg.max_new_tokens} tokens "
        f"({share.low:.0%} to {share.high:.0%})",
        fix="raise tune.max_new_tokens, or set tune.missing_eos_penalty so that ending is learnt",
        figures=asdict(share),
    )


def of_gap(policy: Policy, groups: Sequence[Group], cfg: TuneTable) -> Finding:
    """Mean difference of a token's logprob as it was sampled and as it is trained."""
    gaps: list[float] = []
    for chosen, packed in packing.batches([group.pack for group in groups], cfg.microbatch_tokens):
        sampled = [value for index in chosen for answer in groups[index].answers for value in answer.logprobs]
        gaps += (policy.features(packed).ref_logprob_N.cpu() - torch.tensor(sampled)).abs().tolist()
    gap, worst = sum(gaps) / max(len(gaps), 1), max(gaps, default=0.0)
    limit = cfg.logprob_gap_limit
    return Finding(
        name="sampler and trainer",
        state="ok" if gap <= limit else "warn" if gap <= 10 * limit else "stop",
        text=f"a token's logprob differs by {gap:.3g} nats in the mean, {worst:.3g} at most, over {len(gaps)} tokens "
        f"(tune.logprob_gap_limit {limit:g})",
        fix="another policy samples than trains: check weights, precision and temperature of the sampler",
        figures={"mean": gap, "max": worst, "tokens": len(gaps), "limit": limit},
    )


def of_rewards(ranked: Sequence[Sequence[float]], fresh: Sequence[Sequence[float]]) -> Finding:
    """Whether rewards tell answers apart: over the ranked ones, which fix the scale, and within a prompt's rollouts;
    where these are all alike for every prompt, no step would learn of answers."""
    values = [value for row in (*ranked, *fresh) for value in row]
    bad = sum(not math.isfinite(value) for value in values)
    told = [value for row in ranked or fresh for value in row]
    spread = _spread(told) if not bad else math.nan
    flat = sum(is_flat(row) for row in fresh)
    state: State = "ok"
    if bad or not told or is_flat(told) or (fresh and flat == len(fresh)):
        state = "stop"
    elif 2 * flat > len(fresh):
        state = "warn"
    return Finding(
        name="reward spread",
        state=state,
        text=f"{bad} of {len(values)} rewards are not numbers"
        if bad
        else f"standard deviation {spread:.3g}, {len(values)} answers; all alike for {flat} of {len(fresh)} prompts",
        fix="refit the reward model, or choose other tune.rewards: what is the same for all answers teaches nothing",
        figures={"spread": spread, "flat_prompts": flat, "prompts": len(fresh), "not_numbers": bad},
    )


def of_held_out(held_out: Mapping[str, Any] | None) -> Finding:
    """What the reward model got right on rankings it never saw, beside length alone."""
    name = "reward model"
    fix = "rank more prompts, fit longer, or read the audit of the judge (`starling audit`)"
    scores = {score["name"]: score for score in (held_out or {}).get("scores", [])}
    if not scores or not scores["pair_accuracy"]["n"]:
        return Finding(name=name, state="warn", text="the reward model was tested on no held-out rankings", fix=fix)
    found, length = scores["pair_accuracy"], scores["pair_accuracy_length_only"]["value"]
    state: State = "stop" if found["high"] < 0.5 else "warn" if found["low"] <= max(0.5, length) else "ok"
    return Finding(
        name=name,
        state=state,
        text=f"the reward model has {found['value']:.1%} of {found['n']} held-out pairs as the judge does "
        f"({found['low']:.1%} to {found['high']:.1%}), length alone {length:.1%}",
        fix=fix,
        figures=dict(found) | {"length_only": length},
    )


def _spread(row: Sequence[float]) -> float:
    return float(torch.tensor(row, dtype=torch.float64).std(correction=0)) if row else 0.0
