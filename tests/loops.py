"""A tuning loop over the small road's prompts, with two ranked answers to each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from small_road import prompt_rows, recipe

from starling import config, models, tables
from starling.adapters import Lora
from starling.config import Config
from starling.distributed.vllm import Server
from starling.experience import Part, gather
from starling.judges.rubric import RubricJudge
from starling.loop import Loop
from starling.metrics import Recorder
from starling.models import Model
from starling.policy import Policy
from starling.records import Candidate, Prompt, Ranking
from starling.rewards import Rewards, Scorer, by_model
from starling.rollout import Group
from starling.selection import Watch

TEXTS = {"the rain": True, "a plain in spain the": False}


def settings(folder: Path, tiny_model: Path, **changes: Any) -> Config:
    return config.load(recipe(folder, tiny_model, **({"tune__steps": 3, "tune__ranked_prompts": 4} | changes)))


def ranking(prompt: Prompt, ranks: Sequence[float] = (1.0, 2.0)) -> Ranking:
    """Two answers to a prompt, the shorter one ranked first; the longer one was cut."""
    answers = [
        Candidate(prompt_id=prompt.id, model="x", draw=draw, answer=text, finished=finished)
        for draw, (text, finished) in enumerate(TEXTS.items())
    ]
    return Ranking(prompt_id=prompt.id, messages=prompt.messages, answers=answers, ranks=ranks, judge="scripted")


def reward_model(folder: str, head: float = 1.0) -> Model:
    """A reward model whose head is drawn, or constant where `head` is 0."""
    found: Any = models.new_reward_model(folder)
    torch.nn.init.normal_(found.network.score.weight, std=head)
    return found


def loop(
    cfg: Config,
    recorder: Recorder,
    *,
    head: float = 1.0,
    score: Scorer | None = None,
    ranks: Sequence[float] = (1.0, 2.0),
    server: Server | None = None,
    policy: Policy | None = None,
) -> Loop:
    """Rewards are those of `score`, or of a reward model; `server` samples, or this process; the policy is in float32
    if none is given."""
    prompts = [tables.prompt_from_row(row, "here") for row in prompt_rows()]
    train, validation = ([p for p in prompts if p.split == split] for split in ("train", "validation"))
    torch.manual_seed(5)
    lora = Lora(cfg.tune.lora_rank, cfg.tune.lora_alpha, 11) if cfg.tune.lora_rank else None
    if policy is None:
        policy = Policy(models.load_policy(cfg.run.model, torch.float32), cfg.tune.layers, lora=lora)
    scorer = score or by_model(reward_model(cfg.run.model, head), cfg.tune.microbatch_tokens)
    watch = Watch(cfg, validation, RubricJudge(tie_margin=0.02))
    rankings = [ranking(prompt, ranks) for prompt in train]
    return Loop(cfg, policy, Rewards({"scripted": (1.0, scorer)}), train, rankings, watch, recorder, server)


def fresh(found: Loop, count: int, step: int = 0) -> list[Group]:
    """The first groups that the policy itself answers in a step after the ranked ones."""
    found.step = found.curriculum.ranked_steps + step
    return [group for groups in found._sample(lambda tokens: None) for group in groups][:count]


def gathered(found: Loop, groups: Sequence[Group], raw: Sequence[Sequence[float]]) -> Part:
    return gather(found.policy, groups, raw, found.scale, found.cfg)
