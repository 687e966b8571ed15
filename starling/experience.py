"""Experience: scored groups of answers with all that the policy and the critic learn from them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from starling import packing
from starling.config import TuneTable
from starling.losses.advantage import leave_one_out, whiten
from starling.losses.reinforce_pp import reinforce_pp_return
from starling.losses.value import value_loss
from starling.packing import Packed
from starling.policy import Features, Policy, pad
from starling.rollout import Group

KL_EVERY, KL_ANSWERS = 4, 16  # where the reference serves the KL alone: every so many prompts, but so many answers


class Scale(NamedTuple):
    """What turns raw rewards into scaled ones: mean and standard deviation of those of so many answers."""

    mean: float
    spread: float
    answers: int = 0

    def of(self, raw: float) -> float:
        """A raw reward in spreads from the mean."""
        return (raw - self.mean) / self.spread

    def after(self, raw: Sequence[float]) -> "Scale":
        """The scale of those and of these answers together (the update of Chan, Golub and LeVeque 1979)."""
        answers = self.answers + len(raw)
        mean = math.fsum(raw) / len(raw)
        squares = max(self.answers - 1, 0) * self.spread**2 + math.fsum((reward - mean) ** 2 for reward in raw)
        squares += (mean - self.mean) ** 2 * self.answers * len(raw) / answers
        moved = self.mean + (mean - self.mean) * len(raw) / answers
        return Scale(moved, math.sqrt(squares / max(answers - 1, 1)), answers)


def is_flat(raw: Sequence[float]) -> bool:
    """Whether rewards tell nothing apart: what they differ by is nothing beside their size."""
    return max(raw) - min(raw) <= _noise(raw)


def _noise(raw: Sequence[float]) -> float:
    return max(1e-12, 1e-6 * max(map(abs, raw)))


class Experience(NamedTuple):
    """Some groups in one packed sequence, and what never changes about them: (B, T) over their B answers.

    Where the algorithm does not compare with the reference, its logprobs are (0, T).
    """

    packed: Packed
    features: Features
    lengths: list[int]
    mask_BT: Tensor
    ref_logprob_BT: Tensor
    reward_BT: Tensor
    groups: Sequence[Group]

    @property
    def sampled_N(self) -> Tensor:
        """The logprobs that the sampler gave, in packed order; ranked answers have none."""
        sampled = [logprob for group in self.groups for answer in group.answers for logprob in answer.logprobs]
        return torch.tensor(sampled, device=self.mask_BT.device)

    @property
    def trunks(self) -> list[Tensor]:
        """The trunk's states of each group, prompt and answers: (1, T, H)."""
        sizes = [len(group.prompt_ids) + group.num_tokens for group in self.groups]
        return list(self.features.trunk_1TH.split(sizes, 1))

    @property
    def sizes(self) -> list[int]:
        """How many of the B answers each group has, in order."""
        return [len(group.answers) for group in self.groups]


class Part(NamedTuple):
    """The groups of one update, their raw rewards, none where ranks teach, and the experience they make."""

    groups: Sequence[Group]
    raw: Sequence[Sequence[float]]
    experiences: Sequence[Experience]


class Batch(NamedTuple):
    """Experience as an algorithm sees it before a step's first update: how much better each token was than expected,
    what reward was still to come, what the critic expected, and the logprobs that the loss starts from;
    `on_policy`: these are yet to come, from the update's own forward pass."""

    experience: Experience
    advantage_BT: Tensor
    return_BT: Tensor
    value_BT: Tensor
    anchor_logprob_BT: Tensor
    on_policy: bool = False


def gather(
    policy: Policy,
    groups: Sequence[Group],
    raw: Sequence[Sequence[float]],
    scale: Scale,
    cfg: TuneTable,
    *,
    reference: bool = True,
    trunks: Sequence[Tensor] = (),
) -> Part:
    """Run the frozen parts of the policy over the groups, packed up to the token limit, and shape their raw rewards.

    Without raw rewards all are 0; without `reference` it does not run. `trunks` are the trunk's states of each group,
    (1, T, H), where they are known already.
    """
    found = []
    for chosen, packed in packing.batches([group.pack for group in groups], cfg.microbatch_tokens):
        own = [groups[index] for index in chosen]
        trunk_1TH = torch.cat([trunks[index] for index in chosen], 1) if trunks else trunk_states(own)
        features = policy.features(packed, trunk_1TH, reference=reference)
        lengths = [len(answer.ids) for group in own for answer in group.answers]
        ones_BT, mask_BT = pad(torch.ones(sum(lengths), device=features.ref_logprob_N.device), lengths)
        ref_logprob_BT = pad(features.ref_logprob_N, lengths)[0] if reference else ones_BT[:0]
        reward_B = torch.zeros(len(lengths))
        if raw:
            reward_B = torch.cat([shaped(groups[index], raw[index], scale, cfg) for index in chosen])
        reward_BT = on_last_token(reward_B, mask_BT)
        found.append(Experience(packed, features, lengths, mask_BT, ref_logprob_BT, reward_BT, own))
    return Part(groups, raw, found)


def compared(policy: Policy, parts: Sequence[Part], cfg: TuneTable) -> tuple[list[Group], Tensor]:
    """The groups on which a step's KL is measured, and the reference's logprobs of their answers' tokens, in order: all
    where these are known already.

    Where nothing else needs the reference it runs for the KL alone, on every fourth prompt of the step, or on as many
    more as make 16 answers.
    """
    groups = [group for part in parts for group in part.groups]
    found = [experience for part in parts for experience in part.experiences]
    if all(len(experience.ref_logprob_BT) for experience in found):
        return groups, torch.cat([experience.features.ref_logprob_N for experience in found])
    stride = min(KL_EVERY, sum(len(group.answers) for group in groups) // KL_ANSWERS)
    every = slice(None, None, max(stride, 1))
    trunks = [trunk_1TH for experience in found for trunk_1TH in experience.trunks]
    chosen = groups[every]
    part = gather(policy, chosen, (), Scale(0.0, 1.0), cfg, trunks=trunks[every])
    return chosen, torch.cat([experience.features.ref_logprob_N for experience in part.experiences])


def trunk_states(groups: Sequence[Group]) -> Tensor | None:
    """What sampling kept of the trunk's states, as the groups are packed: (1, T, H); None where not all have it.

    The last token of an answer, after which nothing is predicted, has zeros.
    """
    pieces = []
    for group in groups:
        known = [answer.trunk_TH for answer in group.answers if answer.trunk_TH is not None]
        if len(known) < len(group.answers):
            return None
        start = len(group.prompt_ids)
        pieces.append(known[0][:start])
        pieces += [piece_TH for trunk_TH in known for piece_TH in (trunk_TH[start:], torch.zeros_like(trunk_TH[:1]))]
    return torch.cat(pieces)[None]


def shaped(group: Group, raw: Sequence[float], scale: Scale, cfg: TuneTable) -> Tensor:
    """A group's raw rewards -> what is laid on each answer's last token: (G,)."""
    reward_G = _clipped(group, raw, scale, cfg)
    if cfg.reward_baseline == "leave_one_out":
        reward_G = leave_one_out(reward_G[None])[0]
    return reward_G


def _clipped(group: Group, raw: Sequence[float], scale: Scale, cfg: TuneTable) -> Tensor:
    """A group's raw rewards, scaled and clipped, less what answers without an end lose: (G,)."""
    reward_G = torch.tensor([scale.of(reward) for reward in raw]).clamp(-cfg.reward_clip, cfg.reward_clip)
    cut_G = torch.tensor([not answer.finished for answer in group.answers])
    return reward_G - cfg.missing_eos_penalty * cut_G


def teach_nothing(groups: Sequence[Group], raw: Sequence[Sequence[float]], scale: Scale, cfg: TuneTable) -> bool:
    """Whether the rewards of these groups tell no two of all their answers apart, as they are learnt from."""
    learnt_N = torch.cat([_clipped(group, row, scale, cfg) for group, row in zip(groups, raw, strict=True)])
    noise = _noise([reward for row in raw for reward in row]) / scale.spread
    return float(learnt_N.max() - learnt_N.min()) <= noise


def teach_nothing_within(groups: Sequence[Group], raw: Sequence[Sequence[float]], scale: Scale, cfg: TuneTable) -> bool:
    """Whether they tell no two answers to the same prompt apart, as they are learnt from."""
    return all(teach_nothing([group], [row], scale, cfg) for group, row in zip(groups, raw, strict=True))


def on_last_token(reward_B: Tensor, mask_BT: Tensor) -> Tensor:
    """Each answer's reward on its last counted token, 0 elsewhere: (B,), (B, T) -> (B, T)."""
    last_B1 = mask_BT.sum(1, keepdim=True) - 1
    reward_BT = torch.zeros(mask_BT.shape, device=mask_BT.device)
    return reward_BT.scatter(1, last_B1, reward_B.to(mask_BT.device)[:, None])


def whitened(parts: Sequence[Sequence[Batch]]) -> list[list[Batch]]:
    """The same batches with advantages of mean 0 and variance 1 over all tokens that count, those of every part."""
    counted = [batch.advantage_BT[batch.experience.mask_BT] for part in parts for batch in part]
    together_1N = torch.cat(counted).double()[None]
    whitened_N = whiten(together_1N, torch.ones_like(together_1N, dtype=torch.bool))[0].to(counted[0].dtype)
    pieces = iter(whitened_N.split([len(tokens) for tokens in counted]))
    return [[_with_advantage(batch, next(pieces)) for batch in part] for part in parts]


def shifted(parts: Sequence[Sequence[Batch]], shift: float) -> list[list[Batch]]:
    """The same batches with `shift` added to the advantage of each token that ends an answer of its own accord."""
    return [[_shifted(batch, shift) for batch in part] for part in parts]


def _shifted(batch: Batch, shift: float) -> Batch:
    found = batch.experience
    finished = [answer.finished for group in found.groups for answer in group.answers]
    shift_B = shift * torch.tensor(finished, dtype=batch.advantage_BT.dtype)
    return batch._replace(advantage_BT=batch.advantage_BT + on_last_token(shift_B, found.mask_BT))


def _with_advantage(batch: Batch, counted_N: Tensor) -> Batch:
    """The batch with these advantages on the tokens that count, row after row, and 0 on the others."""
    nothing_BT = torch.zeros_like(batch.advantage_BT)
    return batch._replace(advantage_BT=nothing_BT.masked_scatter(batch.experience.mask_BT, counted_N))


def teach_critic(policy: Policy, parts: Sequence[Part], cfg: TuneTable, order: torch.Generator) -> None:
    """Regress the critic onto the rewards that are still to come, before the policy moves: one update for each part.

    That is GAE's return at lambda 1, which does not depend on the critic.
    """
    optimiser = torch.optim.AdamW(
        policy.critic.parameters(), lr=cfg.critic_learning_rate, weight_decay=cfg.critic_weight_decay
    )
    returns = [
        [reinforce_pp_return(found.reward_BT, found.mask_BT, gamma=cfg.gamma) for found in part.experiences]
        for part in parts
    ]
    for _ in range(cfg.critic_epochs):
        for index in torch.randperm(len(parts), generator=order).tolist():
            num_tokens = sum(group.num_tokens for group in parts[index].groups)
            optimiser.zero_grad(set_to_none=True)
            for experience, return_BT in zip(parts[index].experiences, returns[index], strict=True):
                value_BT, mask_BT = pad(policy.values(experience.features), experience.lengths)
                value_loss(value_BT, return_BT, mask_BT, num_tokens=num_tokens).value.backward()
            optimiser.step()
    policy.critic.zero_grad(set_to_none=True)
