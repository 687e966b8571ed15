"""The algorithms of `tune`: what each needs, and the loss it makes of a batch.

One entry of `ALGORITHMS` is one algorithm; the loop knows none of them by name.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from starling.experience import Batch, Experience
from starling.losses import advantage, masked
from starling.losses.apa import apa_loss
from starling.losses.awr import awr_loss
from starling.losses.dpo import dpo_loss
from starling.losses.grpo import Counts, grpo_loss
from starling.losses.ipo import ipo_loss
from starling.losses.masked import Loss
from starling.losses.p3o import p3o_loss
from starling.losses.pairs import decided
from starling.losses.ppo import clipped_policy_loss
from starling.losses.ranking import places
from starling.losses.reinforce_pp import reinforce_pp_loss, reinforce_pp_return
from starling.losses.rloo import rloo_loss
from starling.losses.sft import sft_loss
from starling.policy import pad
from starling.rollout import Group
from starling.tune_settings import READS, TuneTable, algorithm_key


class Totals(NamedTuple):
    """What an update holds over all its microbatches, so that their losses add up to that of one large batch."""

    tokens: int
    answers: int
    prompts: int
    pairs: int  # of answers whose ranks differ


Advantage = Callable[[Experience, Tensor, Tensor, TuneTable], tuple[Tensor, Tensor]]
"""Experience, rewards with the KL in them, values (B, T), settings -> advantages and returns (B, T)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """`reads` are the settings that it reads of those that not every algorithm does. `old_logprobs`: whether what
    trains computes the logprobs of the policy that sampled before a step's first update; else the reference is the
    anchor. `reference`: whether loss or critic need the reference, KL in the reward or not. `best_only`: whether of
    ranked answers it sees those ranked first alone."""

    loss: Callable[[Tensor, Batch, TuneTable, Totals], Loss]
    advantage: Advantage
    reads: Set[str]
    old_logprobs: bool = False
    reference: bool = True
    best_only: bool = False

    @property
    def online(self) -> bool:
        """Whether it learns from rollouts and their rewards."""
        return "steps" in self.reads

    @property
    def critic(self) -> bool:
        return "gae_lambda" in self.reads

    @property
    def kl_in_reward(self) -> bool:
        return "kl_coef" in self.reads

    def within_prompt(self, cfg: TuneTable) -> bool:
        """Whether it learns from nothing but how the answers to a prompt differ: its loss compares them, or the mean of
        the others is taken off."""
        return "reward_baseline" not in self.reads or cfg.reward_baseline == "leave_one_out"

    def compares(self, cfg: TuneTable) -> bool:
        """Whether what it learns from depends on the reference."""
        return self.reference or cfg.kl_coef > 0


# advantages


def _by_critic(found: Experience, reward_BT: Tensor, value_BT: Tensor, cfg: TuneTable) -> tuple[Tensor, Tensor]:
    return advantage.gae(reward_BT, value_BT, found.mask_BT, gamma=cfg.gamma, lam=cfg.gae_lambda)


def _still_to_come(found: Experience, reward_BT: Tensor, value_BT: Tensor, cfg: TuneTable) -> tuple[Tensor, Tensor]:
    return_BT = reinforce_pp_return(reward_BT, found.mask_BT, gamma=cfg.gamma)
    return return_BT, return_BT


def _within_group(found: Experience, reward_BT: Tensor, value_BT: Tensor, cfg: TuneTable) -> tuple[Tensor, Tensor]:
    """The KL is compared beside the reward, not in its spreads: of equal rewards it would be all that is left."""
    if cfg.normaliser == "dr_grpo":
        return _of_answers(advantage.group, found, reward_BT)
    rewarded_BT, _ = _of_answers(advantage.normalised_group, found, found.reward_BT)
    kl_BT, _ = _of_answers(advantage.group, found, reward_BT - found.reward_BT)
    return rewarded_BT + kl_BT, rewarded_BT + kl_BT


def _leave_one_out(found: Experience, reward_BT: Tensor, value_BT: Tensor, cfg: TuneTable) -> tuple[Tensor, Tensor]:
    return _of_answers(advantage.leave_one_out, found, reward_BT)


def _as_it_is(found: Experience, reward_BT: Tensor, value_BT: Tensor, cfg: TuneTable) -> tuple[Tensor, Tensor]:
    return _of_answers(lambda reward_BG: reward_BG, found, reward_BT)


def _of_answers(compare: Callable[[Tensor], Tensor], found: Experience, reward_BT: Tensor) -> tuple[Tensor, Tensor]:
    """What `compare` makes of the rewards of each prompt's answers, (prompts, G), on every token of the answer."""
    reward_B = masked.sums(reward_BT, found.mask_BT)
    rows = [compare(reward_G[None])[0] for reward_G in reward_B.split(found.sizes)]
    advantage_BT = torch.cat(rows)[:, None].expand_as(reward_BT).masked_fill(~found.mask_BT, 0.0)
    return advantage_BT, advantage_BT


# losses


def _apa(logprob_BT: Tensor, batch: Batch, cfg: TuneTable, totals: Totals) -> Loss:
    mask_BT = batch.experience.mask_BT
    anchor_BT = batch.anchor_logprob_BT
    return apa_loss(logprob_BT, anchor_BT, batch.advantage_BT, mask_BT, lam=cfg.lam, num_tokens=totals.tokens)


def _awr(logprob_BT: Tensor, batch: Batch, cfg: TuneTable, totals: Totals) -> Loss:
    mask_BT, clip = batch.experience.mask_BT, cfg.weight_clip
    return awr_loss(logprob_BT, batch.advantage_BT, mask_BT, lam=cfg.lam, clip=clip, num_tokens=totals.tokens)


def _ppo(logprob_BT: Tensor, batch: Batch, cfg: TuneTable, totals: Totals) -> Loss:
    mask_BT, old_BT = batch.experience.mask_BT, batch.anchor_logprob_BT
    return clipped_policy_loss(logprob_BT, old_BT, batch.advantage_BT, mask_BT, clip=cfg.clip, num_tokens=totals.tokens)


def _reinforce_pp(logprob_BT: Tensor, batch: Batch, cfg: TuneTable, totals: Totals) -> Loss:
    mask_BT, old_BT = batch.experience.mask_BT, batch.anchor_logprob_BT
    return reinforce_pp_loss(logprob_BT, old_BT, batch.advantage_BT, mask_BT, clip=cfg.clip, num_tokens=totals.tokens)


def _grpo(logprob_BT: Tensor, batch: Batch, cfg: TuneTable, totals: Totals) -> Loss:
    return grpo_loss(
        logprob_BT,
        batch.anchor_logprob_BT,
        batch.advantage_BT,
        batch.experience.mask_BT,
        clip_low=cfg.clip,
        clip_high=cfg.clip_high or cfg.clip,
        normaliser=cfg.normaliser,
        counts=Counts(totals.tokens, totals.answers, cfg.max_new_tokens),
    )


def _rloo(logprob_BT: Tensor, batch: Batch, cfg: TuneTable, totals: Totals) -> Loss:
    mask_BT, old_BT, advantage_B = batch.experience.mask_BT, batch.anchor_logprob_BT, batch.advantage_BT[:, 0]
    return rloo_loss(logprob_BT, old_BT, advantage_B, mask_BT, clip=cfg.clip, num_answers=totals.answers)


def _p3o(logprob_BT: Tensor, batch: Batch, cfg: TuneTable, totals: Totals) -> Loss:
    """Each prompt's answers in pairs as they were drawn: the first with the second, the third with the fourth."""
    found = batch.experience
    logprob_B2T, old_B2T, ref_B2T, mask_B2T = (
        part_BT.view(-1, 2, part_BT.shape[1])
        for part_BT in (logprob_BT, batch.anchor_logprob_BT, found.ref_logprob_BT, found.mask_BT)
    )
    reward_B2 = batch.advantage_BT[:, 0].view(-1, 2)
    pairs = totals.answers / 2
    return p3o_loss(logprob_B2T, old_B2T, ref_B2T, reward_B2, mask_B2T, beta=cfg.beta, clip=cfg.clip, num_pairs=pairs)


def _dpo(logprob_BT: Tensor, batch: Batch, cfg: TuneTable, totals: Totals) -> Loss:
    logprob_P2, ref_P2 = _decided_pairs(logprob_BT, batch)
    return dpo_loss(logprob_P2, ref_P2, beta=cfg.beta, num_rankings=totals.pairs)


def _ipo(logprob_BT: Tensor, batch: Batch, cfg: TuneTable, totals: Totals) -> Loss:
    logprob_P2, ref_P2 = _decided_pairs(logprob_BT, batch)
    return ipo_loss(logprob_P2, ref_P2, tau=cfg.beta, num_rankings=totals.pairs)


def _listwise_dpo(logprob_BT: Tensor, batch: Batch, cfg: TuneTable, totals: Totals) -> Loss:
    logprob_BK, ref_BK, rank_BK, mask_BK = _ranked(logprob_BT, batch)
    return dpo_loss(logprob_BK, ref_BK, rank_BK, mask_BK, beta=cfg.beta, num_rankings=totals.prompts)


def _sft(logprob_BT: Tensor, batch: Batch, cfg: TuneTable, totals: Totals) -> Loss:
    return sft_loss(logprob_BT, batch.experience.mask_BT, num_tokens=totals.tokens)


def _ranked(logprob_BT: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Whole answers by prompt, (prompts, K): logprobs, reference's logprobs, ranks, and where there is an answer."""
    found = batch.experience
    logprob_BK, mask_BK = pad(masked.sums(logprob_BT, found.mask_BT), found.sizes)
    ref_BK, _ = pad(masked.sums(found.ref_logprob_BT, found.mask_BT), found.sizes)
    ranks = [rank for group in found.groups for rank in group.ranks]
    rank_BK, _ = pad(torch.tensor(ranks, device=logprob_BT.device), found.sizes)
    return logprob_BK, ref_BK, rank_BK, mask_BK


def _decided_pairs(logprob_BT: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logprobs and reference's logprobs of all pairs of a prompt's answers whose ranks differ, the better one first."""
    logprob_BK, ref_BK, rank_BK, mask_BK = _ranked(logprob_BT, batch)
    prompt_P, better_P, worse_P = decided(*places(logprob_BK, rank_BK, mask_BK)).nonzero(as_tuple=True)
    logprob_P2, ref_P2 = (
        torch.stack([part_BK[prompt_P, better_P], part_BK[prompt_P, worse_P]], 1) for part_BK in (logprob_BK, ref_BK)
    )
    return logprob_P2, ref_P2


ALGORITHMS: Mapping[str, Algorithm] = {
    "apa": Algorithm(loss=_apa, advantage=_by_critic, reads=READS["apa"]),
    "apa_sampling": Algorithm(loss=_apa, advantage=_by_critic, reads=READS["apa_sampling"], old_logprobs=True),
    "awr": Algorithm(loss=_awr, advantage=_by_critic, reads=READS["awr"]),
    "ppo": Algorithm(loss=_ppo, advantage=_by_critic, reads=READS["ppo"], old_logprobs=True),
    "p3o": Algorithm(loss=_p3o, advantage=_as_it_is, reads=READS["p3o"], old_logprobs=True),
    "grpo": Algorithm(loss=_grpo, advantage=_within_group, reads=READS["grpo"], old_logprobs=True, reference=False),
    "rloo": Algorithm(loss=_rloo, advantage=_leave_one_out, reads=READS["rloo"], old_logprobs=True, reference=False),
    "reinforce_pp": Algorithm(
        loss=_reinforce_pp, advantage=_still_to_come, reads=READS["reinforce_pp"], old_logprobs=True, reference=False
    ),
    "dpo": Algorithm(loss=_dpo, advantage=_as_it_is, reads=READS["dpo"]),
    "ipo": Algorithm(loss=_ipo, advantage=_as_it_is, reads=READS["ipo"]),
    "listwise_dpo": Algorithm(loss=_listwise_dpo, advantage=_as_it_is, reads=READS["listwise_dpo"]),
    "sft": Algorithm(loss=_sft, advantage=_as_it_is, reads=READS["sft"], reference=False, best_only=True),
}


def chosen(cfg: TuneTable) -> Algorithm:
    """The algorithm that the settings name."""
    return ALGORITHMS[algorithm_key(cfg)]


def totals_of(groups: Sequence[Group]) -> Totals:
    """What these groups hold."""
    return Totals(
        tokens=sum(group.num_tokens for group in groups),
        answers=sum(len(group.answers) for group in groups),
        prompts=len(groups),
        pairs=sum(group.num_pairs for group in groups),
    )
