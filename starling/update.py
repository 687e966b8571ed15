"""An update of policy and critic: advantages before it, its gradient, and the optimiser that takes it."""

import math
from collections import defaultdict
from collections.abc import Sequence

import torch

from starling.algorithms import Algorithm, totals_of
from starling.errors import StarlingError
from starling.experience import Batch, Experience
from starling.losses import kl
from starling.losses.masked import Loss
from starling.losses.value import clipped_value_loss, value_loss
from starling.policy import Policy, pad
from starling.tune_settings import TuneTable

# TRL's name of a metric, where it has one; others stand under the algorithm's own.
_NAMES = {
    "clip_fraction": "policy/clipfrac_avg",
    "approx_kl": "policy/approxkl_avg",
    "ratio": "val/ratio",
    "accuracy": "rewards/accuracies",
    "margin": "rewards/margins",
}
BETAS = (0.9, 0.95)  # the squares' mean reaches over 20 updates: over 1,000, AdamW's default, is more than a run has
GAP = "sampling/sampling_logp_difference/mean"


def optimiser(policy: Policy, cfg: TuneTable) -> torch.optim.AdamW:
    """AdamW over policy and critic, at the rates of the start."""
    return torch.optim.AdamW(
        [
            {"params": list(policy.trained.values()), "lr": cfg.learning_rate},
            {"params": list(policy.critic.parameters()), "lr": cfg.value_learning_rate},
        ],
        betas=BETAS,
        weight_decay=0.0,
        fused=True,
    )


@torch.no_grad()
def appraised(
    policy: Policy,
    experience: Experience,
    algorithm: Algorithm,
    cfg: TuneTable,
    kl_coef: float,
    *,
    only_update: bool = False,
) -> Batch:
    """Advantages and returns under policy and critic as they are now, the KL in the reward at `kl_coef`.

    Old logprobs are computed here by what trains, whatever sampled: only so is the ratio 1 before the first update.
    Where that is the `only_update` from these rollouts and the reward needs no KL, they are left to its own forward
    pass. With `tune.overlap` they are the sampler's: the policy that sampled is one step older, and the ratio corrects
    it.
    """
    on_policy = algorithm.old_logprobs and only_update and not kl_coef and not cfg.overlap
    mask_BT, reward_BT = experience.mask_BT, experience.reward_BT
    value_BT = torch.zeros_like(reward_BT)
    anchor_BT = value_BT if algorithm.old_logprobs else experience.ref_logprob_BT
    if algorithm.critic:
        value_BT, _ = pad(policy.values(experience.features), experience.lengths)
    if algorithm.old_logprobs and not on_policy:
        old_N = experience.sampled_N if cfg.overlap else policy.logprobs(experience.packed, experience.features)
        anchor_BT, _ = pad(old_N, experience.lengths)
    if kl_coef:
        reward_BT = kl.in_reward(reward_BT, anchor_BT, experience.ref_logprob_BT, mask_BT, kl_coef)
    advantage_BT, return_BT = algorithm.advantage(experience, reward_BT, value_BT, cfg)
    return Batch(experience, advantage_BT, return_BT, value_BT, anchor_BT, on_policy)


def gradient(policy: Policy, batches: Sequence[Batch], algorithm: Algorithm, cfg: TuneTable) -> dict[str, float]:
    """Accumulate the gradient of policy and critic over all batches; metrics are means over tokens or answers.

    Where the groups were sampled, `GAP` is the mean difference between a token's logprob as it was
    sampled and as it is now: before the first update, the gap between sampler and trainer.
    """
    totals = totals_of([group for batch in batches for group in batch.experience.groups])
    sums: dict[str, float] = defaultdict(float)
    for batch in batches:
        experience, mask_BT = batch.experience, batch.experience.mask_BT
        logprob_BT, _ = pad(policy.logprobs(experience.packed, experience.features), experience.lengths)
        if batch.on_policy:
            batch = batch._replace(anchor_logprob_BT=logprob_BT.detach())
        loss = algorithm.loss(logprob_BT, batch, cfg, totals)
        found = {_NAMES.get(name, f"{cfg.algorithm}/{name}"): float(value) for name, value in loss.metrics.items()}
        found["loss/policy_avg"] = float(loss.value.detach())
        value = loss.value
        if algorithm.critic:
            critic = _critic_loss(policy, batch, cfg, totals.tokens)
            value = value + critic.value
            share = float(mask_BT.sum()) / totals.tokens
            found["loss/value_avg"] = float(critic.value.detach())
            found["value/explained_variance"] = share * float(critic.metrics["explained_variance"])
            if cfg.value_clip:
                found["val/clipfrac_avg"] = float(critic.metrics["value_clip_fraction"])
        value.backward()
        if len(experience.sampled_N):
            gap_N = logprob_BT.detach()[mask_BT] - experience.sampled_N
            found[GAP] = float(gap_N.abs().sum()) / totals.tokens
        for name, part in found.items():
            sums[name] += part
    return dict(sums)


def taken(
    policy: Policy,
    optimiser: torch.optim.Optimizer,
    updates: Sequence[Sequence[Batch]],
    algorithm: Algorithm,
    cfg: TuneTable,
    step: int,
) -> dict[str, float]:
    """Take one optimiser step for each of the updates; metrics are means over them, but the gap between sampler and
    trainer, which is that of the first."""
    metrics: dict[str, float] = {}
    gaps = []
    for batches in updates:
        optimiser.zero_grad(set_to_none=True)
        found = gradient(policy, batches, algorithm, cfg)
        gaps.append(found.pop(GAP, None))
        if cfg.value_gate:
            found["policy/gated"] = float(found["loss/value_avg"] > cfg.value_gate)
            if found["policy/gated"]:
                policy.top.zero_grad(set_to_none=True)
        found["grad_norm"] = float(torch.nn.utils.clip_grad_norm_(policy.trained.values(), cfg.grad_clip))
        if not math.isfinite(found["loss/policy_avg"] + found.get("loss/value_avg", 0.0) + found["grad_norm"]):
            raise StarlingError(f"tune: step {step}: loss or gradient is not a number; lower tune.learning_rate")
        optimiser.step()
        metrics |= {name: metrics.get(name, 0.0) + value / len(updates) for name, value in found.items()}
    optimiser.zero_grad(set_to_none=True)
    return metrics if gaps[0] is None else metrics | {GAP: gaps[0]}


def _critic_loss(policy: Policy, batch: Batch, cfg: TuneTable, num_tokens: int) -> Loss:
    experience, return_BT = batch.experience, batch.return_BT
    value_BT, mask_BT = pad(policy.values(experience.features), experience.lengths)
    if not cfg.value_clip:
        return value_loss(value_BT, return_BT, mask_BT, num_tokens=num_tokens)
    return clipped_value_loss(value_BT, batch.value_BT, return_BT, mask_BT, clip=cfg.value_clip, num_tokens=num_tokens)
