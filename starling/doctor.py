"""`starling doctor`: looks at all that tuning stands on before it begins, and changes nothing."""

import heapq
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from starling import device, findings, models, progress, rewards, rollout, tables, texts
from starling.agreeing import first_difference, stages_that_agree
from starling.config import Config
from starling.distributed import vllm
from starling.errors import CallError, StarlingError, Unfit
from starling.findings import Finding
from starling.judges.rubric import RubricJudge
from starling.memory import RankingTokens
from starling.models import Model
from starling.policy import initial_policy
from starling.records import Prompt, Ranking
from starling.rollout import Group
from starling.store import Run, is_run
from starling.tune_settings import is_online

PROMPTS = 8  # that are answered, and whose ranked answers are looked at
LOOKED_AT = ("prompts", "sample", "rank", "fit")  # the stages before `tune`, whose results stand as they are
LONGEST = 4  # rankings by characters, of which the most tokens are taken
PLAIN = ("Yes.", 'The first line.\n\n- a second one, with "quotes"', "1 + 1 = 2")  # answers where none is ranked yet
_COLOURS = {"ok": "green", "warn": "yellow", "stop": "red"}


def examine(config: Config, run: Run | None) -> list[Finding]:
    """Every check that can be made of these settings with what the run has done so far."""
    cfg = config.tune
    device.setup(config.run.threads, config.run.seed)
    found = [findings.of_memory(config)]  # before anything is loaded
    if run is not None:
        _tell_other_settings(config, run)
    policy = initial_policy(config)
    prompts, rankings, longest = _read(run)
    every = [*prompts, *(tables.prompts_of(run, "validation", "test") if run and run.is_done("prompts") else ())]
    found.append(findings.of_window(policy, every, config))
    if found[-1].state == "stop":
        return found
    model = Model(policy.network, policy.tokenizer)
    largest = _lengths(rollout.ranked_groups(model, prompts, longest))
    prompts = prompts[:PROMPTS]
    ranked = rollout.ranked_groups(model, prompts, rankings)
    if ranked:
        lengths = _lengths(ranked)
        found[0] = findings.of_memory(config, RankingTokens(sum(lengths) / len(lengths), max([*lengths, *largest])))
    found.append(findings.of_template(policy, answers_of(ranked) or [(p, text) for p in prompts for text in PLAIN]))
    if found[-1].state == "stop":
        return found
    try:
        sampled = _sample(model, prompts, config, run.root if run else Path())
    except CallError as error:
        fix = 'mend the server, or sample here (tune.sampler = "")'
        return [*found, Finding(name="sampler", state="stop", text=str(error), fix=fix)]
    found.append(findings.of_kl(policy, sampled[:2]))
    if is_online(cfg.algorithm):
        found += [findings.of_endings(sampled, cfg), findings.of_gap(policy, sampled, cfg)]
        found += _rewarded(config, run, ranked, sampled, every)
    return found


def answers_of(groups: Sequence[Group]) -> list[tuple[Prompt, str]]:
    """Every answer with its prompt."""
    return [(group.prompt, text) for group in groups for text in group.texts]


def report(found: Sequence[Finding]) -> dict[str, Any]:
    """Print the findings and return them; raise them where one says stop."""
    table = texts.table("check", "", "what was seen, and what to fix")
    for finding in found:
        text = finding.text if finding.state == "ok" else f"{finding.text}; {finding.fix}"
        colour = _COLOURS[finding.state]
        table.add_row(finding.name, texts.terminal(finding.state, colour), texts.terminal(text))
    progress.console.print(table)
    stops = [finding.name for finding in found if finding.state == "stop"]
    result = {"fit_to_tune": not stops, "findings": [finding.row() for finding in found]}
    if stops:
        raise Unfit(f"doctor: {len(stops)} of {len(found)} checks say stop: {', '.join(stops)}", result)
    return result


def _tell_other_settings(config: Config, run: Run) -> None:
    """Say which stages the run did with other settings than these: what they left is looked at all the same."""
    agreeing = stages_that_agree(config, run.config)
    other = [stage for stage in LOOKED_AT if run.is_done(stage) and stage not in agreeing]
    if other:
        progress.say(
            f"doctor: {run.root} did {', '.join(other)} with other settings ({first_difference(config, run.config)}); "
            "what that left is looked at as it is"
        )


def _lengths(groups: Sequence[Group]) -> list[int]:
    """The packed tokens of each prompt with its answers."""
    return [len(group.prompt_ids) + group.num_tokens for group in groups]


def _characters(ranking: Ranking) -> int:
    return sum(len(message["content"]) for message in ranking.messages) + sum(
        len(answer.answer) for answer in ranking.answers
    )


def _read(run: Run | None) -> tuple[list[Prompt], list[Ranking], list[Ranking]]:
    """The run's train prompts as far as there are any, those with a ranking first; the rankings of the first few, and
    the longest of all."""
    if run is None or not run.is_done("prompts"):
        progress.say("doctor: the run has no prompts yet, so the built-in ones stand in")
        return [prompt for prompt in tables.builtin_prompts() if prompt.split == "train"], [], []
    prompts = tables.prompts_of(run, "train")
    if not prompts:
        raise StarlingError("doctor: there are no prompts of the train split to answer; raise prompts.train")
    rankings = tables.rankings_of(run, prompts) if run.is_done("rank") else []
    has_ranking = {ranking.prompt_id for ranking in rankings}
    prompts.sort(key=lambda prompt: prompt.id not in has_ranking)
    chosen = {prompt.id for prompt in prompts[:PROMPTS]}
    longest = heapq.nlargest(LONGEST, rankings, key=_characters)
    return prompts, [ranking for ranking in rankings if ranking.prompt_id in chosen], longest


def _sample(model: Model, prompts: Sequence[Prompt], config: Config, root: Path) -> list[Group]:
    """Answers as `tune` would sample them, at least two to a prompt: by a server too, which serves the initial policy
    and is given no weights here."""
    cfg = config.tune
    server = None
    if cfg.sampler and is_online(cfg.algorithm):
        server = vllm.Server(cfg.sampler, root / "tune" / "sampler", config.run.model)
    total = len(prompts) * max(2, cfg.rollouts_per_prompt) * cfg.max_new_tokens
    with progress.track("doctor", total, "tokens") as advance:
        return rollout.sample_groups(
            model,
            prompts,
            count=max(2, cfg.rollouts_per_prompt),
            max_new_tokens=cfg.max_new_tokens,
            temperature=cfg.temperature,
            top_p=1.0,
            seed=config.run.seed,
            purpose=("doctor",),
            on_tokens=advance,
            sampler=server.generate if server else None,
        )


def _rewarded(
    config: Config, run: Run | None, ranked: Sequence[Group], fresh: Sequence[Group], prompts: Sequence[Prompt]
) -> list[Finding]:
    """What rewards say of ranked and sampled answers, and how good the reward model is, where there are any yet."""
    wanted = {reward.name: reward for reward in config.tune.rewards}
    asked = wanted.pop("judge", None)
    found: list[Finding] = []
    own = None
    if "model" in wanted:
        if run is None or not run.is_done("fit"):
            text, fix = "there is none yet, so rewards were not looked at", "ask again after `starling fit`"
            return [Finding(name="reward model", state="warn", text=text, fix=fix)]
        found.append(findings.of_held_out(run.facts("fit").get("held_out")))
        own = models.load_reward_model(str(run.reward_model_path), device.product_dtype())
        found.append(findings.of_reward_window(own, ranked, prompts, config))
        if found[-1].state == "stop":
            return found
    if asked is not None:
        text, fix = "the judge as reward is not asked here", "its rankings of the run show how it ranks"
        found.append(Finding(name="judge", state="warn" if not wanted else "ok", text=text, fix=fix))
    if not wanted:
        return found

    judge = RubricJudge(tie_margin=config.rank.tie_margin)  # stands in: the judge itself is not asked
    try:
        score = rewards.make(tuple(wanted.values()), own, judge, config.tune.microbatch_tokens)
        return [*found, findings.of_rewards(score(ranked)[0], score(fresh)[0])]
    except StarlingError as error:
        return [*found, Finding(name="reward spread", state="stop", text=str(error), fix="choose other tune.rewards")]


def opened(root: Path) -> Run | None:
    """The run in a folder; None where none was begun."""
    return Run.read(root) if is_run(root) else None
