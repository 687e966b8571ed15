"""The settings of `tune`, a frozen table, and which of them each algorithm reads.

The text under a field is its help.
"""

import re
from collections.abc import Mapping, Set
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from starling.settings import URL, Table, as_tables, unshown

_ONLINE = {
    "steps", "rollouts_per_prompt", "max_new_tokens", "epochs_per_step", "rewards", "reward_scaling", "reward_clip",
    "missing_eos_penalty", "logprob_gap_limit", "token_budget", "sampler", "overlap", "parting_looks",
    "samples_every", "temperature",
}  # fmt: skip
_RANKED = {"ranked_prompts", "ranked_epochs"}
_TOKENS = {"gamma", "reward_baseline", "reward_shift", "whiten_advantages"}
_CRITIC = _TOKENS | {
    "gae_lambda", "value_learning_rate", "critic_epochs", "critic_learning_rate", "critic_weight_decay",
}  # fmt: skip
_KL = {"kl_coef", "kl_control", "kl_target", "kl_horizon"}
# Of the settings that not every algorithm reads, those that it does; APA at the sampling policy has a name of its own.
READS: Mapping[str, Set[str]] = {
    "apa": _ONLINE | _RANKED | _CRITIC | {"anchor", "lam"},
    "apa_sampling": _ONLINE | _CRITIC | _KL | {"anchor", "lam", "value_clip", "value_gate"},
    "awr": _ONLINE | _RANKED | _CRITIC | {"lam", "weight_clip"},
    "ppo": _ONLINE | _CRITIC | _KL | {"clip", "value_clip"},
    "p3o": _ONLINE | {"clip", "beta"},
    "grpo": _ONLINE | _KL | {"clip", "clip_high", "normaliser"},
    "rloo": _ONLINE | _KL | {"clip"},
    "reinforce_pp": _ONLINE | _TOKENS | _KL | {"clip"},
    "dpo": _RANKED | {"beta"},
    "ipo": _RANKED | {"beta"},
    "listwise_dpo": _RANKED | {"beta"},
    "sft": _RANKED,
}
# What stands for a setting that the algorithm does not read.
_OFF = {
    "steps": 0, "ranked_prompts": 0, "epochs_per_step": 1, "reward_baseline": "none", "reward_shift": 0.0,
    "whiten_advantages": False, "temperature": 1.0, "kl_coef": 0.0, "value_clip": 0.0, "value_gate": 0.0,
    "critic_epochs": 0,
}  # fmt: skip


class Reward(Table):
    name: str = Field(pattern=r"^(model|judge|rubric|[\w.]+:\w+)$")
    """Who rewards: "model" (the reward model of `fit`), "judge" (the one that ranked; share of the prompt's other
    answers that it ranks below, ties half), "rubric" (its score, held-out checks left out), or "module:function",
    called with a prompt, its answers' texts and whether each is finished, for a float an answer."""
    weight: float = 1.0
    """What the reward is multiplied by before all are added up."""


class TuneTable(Table):
    # No step depends on them, but for the last bits of its sums.
    may_change = frozenset({"checkpoint_seconds", "samples_every", "microbatch_tokens"})

    algorithm: Literal[
        "apa", "awr", "ppo", "p3o", "grpo", "rloo", "reinforce_pp", "dpo", "ipo", "listwise_dpo", "sft"
    ] = "apa"
    """How the policy learns; dpo, ipo and listwise_dpo learn from the ranked answers by their ranks, with no rollouts
    and no reward; sft imitates those ranked first."""
    anchor: Literal["initial", "sampling"] = "initial"
    """What APA's target starts from: the initial policy, and no KL in the reward; or the policy that sampled, with
    `kl_coef` in the reward."""
    rewards: tuple[Reward, ...] = Field((Reward(name="model"),), min_length=1)
    """What answers are rewarded by, as a weighted sum; a name alone has weight 1."""
    ranked_prompts: int = Field(140, ge=0)
    """Prompts whose ranked answers are learnt from first: by apa at the initial policy and awr as if they were
    rollouts, by the offline algorithms as all there is; whole updates, so that it may be some more; 0 = none."""
    ranked_epochs: int = Field(2, ge=1)
    """Passes over those answers."""
    steps: int = Field(8, ge=0)
    """Rounds of fresh rollouts and updates after that."""
    prompts_per_step: int = Field(16, ge=1)
    """Prompts answered in one step."""
    rollouts_per_prompt: int = Field(4, ge=1)
    """Answers to each of them (G)."""
    updates_per_step: int = Field(4, ge=1, validate_default=True)
    """Optimiser steps in one pass over a step, each on its own part of the step's prompts."""
    epochs_per_step: int = Field(1, ge=1)
    """Passes over the rollouts of a step; over ranked answers it is always one."""
    max_new_tokens: int = Field(80, ge=1)
    """Token cap of one rollout."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature of the rollouts."""
    layers: int = Field(6, ge=0)
    """Last blocks that are trained, with the final norm; what is frozen below runs once for policy, reference and
    critic; 0 = all blocks."""
    lora_rank: int = Field(0, ge=0)
    """Rank of LoRA adapters, which are trained in place of the blocks' weights; 0 = off."""
    lora_alpha: int = Field(32, ge=1)
    """LoRA's alpha: what the adapters add counts alpha / rank."""
    sampler: str = ""
    """Who samples the rollouts: this process (""), or "vllm@http://HOST:PORT", a vLLM server that serves `run.model`
    and sees this run's folder: with `lora_rank` it is given the adapters of each step, else all weights."""
    overlap: bool = False
    """Whether a step's rollouts are sampled while the step before is learnt from, by the weights of before it; old
    logprobs are then the sampler's own. What is sampled beside a step that ends tuning early is thrown away."""
    lam: float = Field(0.5, gt=0)
    """Lambda of apa and awr: large = advantages count for little, so that apa stays close to the policy it is anchored
    at, and awr, which is anchored at none, imitates all answers alike."""
    weight_clip: float = Field(20.0, ge=1)
    """Largest weight exp(A / lambda) in awr."""
    clip: float = Field(0.2, gt=0, lt=1)
    """How far the probability ratio may move from 1 before it teaches no further (ppo, grpo, rloo, reinforce_pp); in
    p3o, nats of the two answers' difference."""
    clip_high: float = Field(0.0, ge=0)
    """The same for a ratio above 1 in grpo, 0.28 in DAPO; 0 = as `clip`."""
    normaliser: Literal["grpo", "dr_grpo", "dapo"] = "grpo"
    """What grpo's sum over tokens is divided by: each answer's length, the token cap, or all tokens; dr_grpo also takes
    advantages that are not divided by the group's spread."""
    beta: float = Field(0.1, gt=0)
    """KL weight of p3o; how far dpo, ipo (there tau) and listwise_dpo stay from the initial policy: large = close."""
    kl_coef: float = Field(0.01, ge=0)
    """What a nat of KL to the initial policy costs in the reward, per token; 0 = off."""
    kl_control: Literal["fixed", "adaptive"] = "fixed"
    """Whether `kl_coef` stays, or is steered towards `kl_target`."""
    kl_target: float = Field(6.0, gt=0)
    """Mean sequence KL that adaptive control aims at, in nats."""
    kl_horizon: float = Field(10_000, gt=0)
    """Answers over which adaptive control makes up for an error."""
    value_clip: float = Field(0.2, ge=0)
    """How far a value may move in one step before it teaches no further (ppo, apa at the sampling policy); 0 = off."""
    value_gate: float = Field(1.0, ge=0)
    """Value loss above which an update trains the critic alone (apa at the sampling policy): advantages from a critic
    that does not know the rewards yet would move the policy at random; 0 = off."""
    learning_rate: float = Field(3e-4, gt=0)
    """AdamW's rate for the policy at the start; falls linearly to 0."""
    value_learning_rate: float = Field(1e-4, gt=0)
    """AdamW's rate for the critic at the start; falls linearly to 0."""
    warm_up_prompts: int = Field(140, ge=2)
    """Ranked prompts whose answers fix the reward's scale and teach the critic before the policy moves; what the
    frozen layers make of them stays in memory for as long as ranked answers are learnt from."""
    critic_epochs: int = Field(4, ge=0)
    """Passes of the critic alone over those answers, before the policy moves, so that its first advantages are not
    those of a critic that knows nothing; 0 = none."""
    critic_learning_rate: float = Field(1e-3, gt=0)
    """AdamW's rate for the critic in those passes."""
    critic_weight_decay: float = Field(0.1, ge=0)
    """AdamW's weight decay for the critic in those passes."""
    reward_baseline: Literal["none", "leave_one_out"] = Field("leave_one_out", validate_default=True)
    """What is taken off each reward: the mean of the prompt's other answers, since a K-wise reward means nothing
    across prompts; or nothing."""
    whiten_advantages: bool = True
    """Whether advantages get mean 0 and variance 1 over a step's tokens."""
    gamma: float = Field(1.0, ge=0, le=1)
    """Discount per token."""
    gae_lambda: float = Field(0.95, ge=0, le=1)
    """GAE's lambda."""
    reward_scaling: Literal["fixed", "running"] = "fixed"
    """What rewards are scaled by: mean and standard deviation of the ranked answers' rewards, or of these and all
    rollouts' so far, which keeps their size the same while the policy gets better."""
    reward_shift: float = Field(0.0)
    """Added to the advantage of the token that ends an answer, where the cap did not. Starling's authors report
    that rewards with a mean slightly above 0 stop answers from growing; that has not been measured here."""
    missing_eos_penalty: float = Field(0.0, ge=0)
    """Subtracted from the scaled reward of an answer that the token cap cut: a reward model has hardly seen such, and
    may like them."""
    reward_clip: float = Field(5.0, gt=0, allow_inf_nan=True)
    """Scaled rewards beyond +-this are clipped, so that single answers do not decide a step."""
    kl_limit: float = Field(25.0, gt=0, allow_inf_nan=True)
    """Mean sequence KL to the initial policy, in nats, at which tuning stops."""
    logprob_gap_limit: float = Field(0.1, gt=0)
    """Mean difference between a token's logprob as sampled and as trained, in nats, past which a warning is given."""
    microbatch_tokens: int = Field(2048, ge=64)
    """Packed tokens in one forward pass; a prompt stays together with all its answers, so that these may be more."""
    grad_clip: float = Field(1.0, gt=0, allow_inf_nan=True)
    """Largest norm of the policy's gradient; the critic's is left as it is."""
    weight_share: float = Field(0.75, gt=0, le=1)
    """Share of the trained weights in the policy that is looked at and saved, the rest is the initial policy's, to
    drift less (WiSE-FT, arXiv:2109.01903); 1 = the trained weights as they are."""
    validate_every: int = Field(0, ge=0)
    """Steps between two looks of the judge at the validation prompts, after the last step too; 0 = one at each quarter
    of the way."""
    validation_draws: int = Field(2, ge=1)
    """Answers to each validation prompt in one look; one where the model's own settings do not sample."""
    safety_drop: float = Field(0.1, ge=0, le=1)
    """How far the share of ill-natured validation prompts that are refused, and of good-natured ones that are not, may
    fall below the initial policy's before a checkpoint is not kept; a fall that chance explains does not count; 1 =
    off."""
    instruction_drop: float = Field(0.05, ge=0, le=1)
    """How far the share of verifiable instructions that are followed may fall on validation prompts before a checkpoint
    is not kept, whether by chance or not; 1 = off."""
    length_rise: float = Field(0.5, ge=0, allow_inf_nan=True)
    """How much longer, as a share, the answers to validation prompts may become than the initial policy's before a
    checkpoint is not kept."""
    parting_looks: int = Field(2, ge=0)
    """Looks in a row at which the reward is above that of the look the judge likes best, and the judge likes the
    answers clearly less, at which tuning stops: they have parted; 0 = off."""
    samples_every: int = Field(2, ge=0)
    """Steps of fresh rollouts between two of which some answers are written to `tune/samples.md`; 0 = off."""
    token_budget: int = Field(50_000, ge=0)
    """Rollout tokens at which tuning ends early, with the step that reaches them; 0 = no limit."""
    checkpoint_seconds: float = Field(60, gt=0)
    """Time between checkpoints: the most that an interruption costs."""

    def settled(self) -> dict[str, Any]:
        """As of every table; a vLLM server samples the same wherever it stands."""
        return super().settled() | {"sampler": "vllm" if self.sampler else ""}

    @field_validator("rewards", mode="before")
    @classmethod
    def _names_are_rewards(cls, rewards: Any) -> Any:
        return as_tables(rewards, "name")

    @field_validator("sampler")
    @classmethod
    def _is_a_server(cls, sampler: str) -> str:
        if sampler and not re.fullmatch(f"vllm@{URL}", sampler):
            raise unshown('it is "vllm@http://HOST:PORT" without keys or parameters, or "" for this process')
        return sampler

    @field_validator("overlap")
    @classmethod
    def _differences_do_not_add_up(cls, overlap: bool, info: ValidationInfo) -> bool:
        algorithm = info.data.get("algorithm", "")
        if overlap and info.data.get("sampler") and algorithm in ("rloo", "p3o"):
            raise ValueError(
                f"{algorithm} sums an answer's logprobs, in which what the server's differ by from the trainer's adds "
                'up; sample in this process (sampler = ""), or without overlap'
            )
        return overlap

    @field_validator("rewards")
    @classmethod
    def _each_has_one_weight(cls, rewards: tuple[Reward, ...]) -> tuple[Reward, ...]:
        names = [reward.name for reward in rewards]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{twice[0]!r} stands there twice; give it one weight")
        return rewards

    @field_validator("updates_per_step")
    @classmethod
    def _parts_are_equal(cls, updates: int, info: ValidationInfo) -> int:
        if info.data.get("prompts_per_step", updates) % updates:
            raise ValueError(
                f"every update has as many prompts, so it divides prompts_per_step, {info.data['prompts_per_step']}"
            )
        return updates

    @field_validator("kl_control")
    @classmethod
    def _has_something_to_steer(cls, control: str, info: ValidationInfo) -> str:
        if control == "adaptive" and info.data.get("kl_coef") == 0:
            raise ValueError("adaptive control multiplies kl_coef, so that cannot be 0")
        return control

    @field_validator("rollouts_per_prompt")
    @classmethod
    def _answers_suffice(cls, rollouts: int, info: ValidationInfo) -> int:
        algorithm, rewards = info.data.get("algorithm", ""), info.data.get("rewards", ())
        if algorithm == "p3o" and rollouts % 2:
            raise ValueError("p3o learns from pairs of answers, so it needs an even number")
        if rollouts < 2 and algorithm in ("grpo", "rloo"):
            raise ValueError(f"{algorithm} compares the answers to a prompt, so it needs 2 or more")
        if rollouts < 2 and is_online(algorithm) and any(reward.name == "judge" for reward in rewards):
            raise ValueError("the judge compares the answers to a prompt, so as a reward it needs 2 or more")
        return rollouts

    @field_validator("reward_baseline")
    @classmethod
    def _needs_others(cls, baseline: str, info: ValidationInfo) -> str:
        reads = READS.get(info.data.get("algorithm", ""), set())
        if baseline == "leave_one_out" and "reward_baseline" in reads and info.data.get("rollouts_per_prompt") == 1:
            raise ValueError("needs rollouts_per_prompt of 2 or more")
        return baseline


def algorithm_key(cfg: TuneTable) -> str:
    """The algorithm's name in `READS`."""
    return "apa_sampling" if (cfg.algorithm, cfg.anchor) == ("apa", "sampling") else cfg.algorithm


def is_online(algorithm: str) -> bool:
    """Whether it learns from rollouts and their rewards; the others learn from ranked answers by their ranks."""
    return "steps" in READS.get(algorithm, ())


def as_read(cfg: TuneTable) -> TuneTable:
    """The settings with what the algorithm does not read turned off."""
    reads = READS[algorithm_key(cfg)]
    return cfg.model_copy(update={key: value for key, value in _OFF.items() if key not in reads})


def unread(cfg: TuneTable) -> list[str]:
    """The settings that have another value than by default, though the algorithm does not read them."""
    own = set[str]().union(*READS.values()) - READS[algorithm_key(cfg)]
    fields = TuneTable.model_fields
    return [key for key in fields if key in own and getattr(cfg, key) != fields[key].default]
