"""Answers of one or two tokens, the best policy of which is known: where the updates of `tune` end, KL in the reward,
advantages, critic and loss together."""

import itertools
import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from starling import update
from starling.algorithms import chosen
from starling.experience import Experience, on_last_token, whitened
from starling.generate import Sampled
from starling.policy import Features, pad
from starling.records import Prompt
from starling.rollout import Group
from starling.tune_settings import TuneTable, as_read

# Token 2 ends an answer at once; after token 0 or 1, in state 1 or 2, the second token is the last.
ANSWERS = [(2,), *itertools.product((0, 1), range(3))]
REWARDS = torch.tensor([0.2, 0.0, 1.0, 0.4, -0.3, 0.5, 0.1], dtype=torch.float64)
INITIAL_SV = torch.tensor([[0.4, 0.4, 0.2], [0.3, 0.3, 0.4], [0.4, 0.3, 0.3]], dtype=torch.float64)
COEF = 0.8  # what a nat of KL costs
PAIRS = list(itertools.combinations_with_replacement(ANSWERS, 2))  # the groups: any two answers to a prompt
DRAWN = [answer for pair in PAIRS for answer in pair]


def tilted(initial: Tensor, exponent: Tensor) -> Tensor:
    weight = initial * exponent.exp()
    return weight / weight.sum(-1, keepdim=True)


def chances(policy_SV: Tensor) -> Tensor:
    """How likely each of the answers is."""
    return torch.cat([policy_SV[0, 2:], policy_SV[0, 0] * policy_SV[1], policy_SV[0, 1] * policy_SV[2]])


class Best(NamedTuple):
    """Policy and value of every state that have the most reward less COEF a nat, from the last token back:

    Q(s, a) = r + gamma V(s'),   V(s) = COEF log sum_a pi_init exp(Q / COEF),   pi = pi_init exp(Q / COEF) / Z
    """

    policy_SV: Tensor
    value_S: Tensor

    @classmethod
    def at(cls, gamma: float) -> "Best":
        late_SV = REWARDS[1:].view(2, 3)
        late_S = COEF * (INITIAL_SV[1:] * (late_SV / COEF).exp()).sum(1).log()
        q_SV = torch.cat([torch.cat([gamma * late_S, REWARDS[:1]])[None], late_SV])
        return cls(tilted(INITIAL_SV, q_SV / COEF), COEF * (INITIAL_SV * (q_SV / COEF).exp()).sum(1).log())


class Table:
    """A policy and a critic that are a table over the states. Of what a token adds to a gradient so much counts as its
    group is likely, so that an update on every group once takes the expected gradient."""

    def __init__(self) -> None:
        self.logits_SV = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
        self.value_S = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        self.trained = {"logits": self.logits_SV}
        self.token_N = torch.tensor([token for answer in DRAWN for token in answer])
        self.state_N = torch.tensor([state for answer in DRAWN for state in (0, 1 + answer[0])[: len(answer)]])
        self.draw()

    @property
    def policy_SV(self) -> Tensor:
        return self.logits_SV.detach().softmax(-1)

    def draw(self) -> None:
        """From here on groups are as likely as the policy makes them now."""
        chance = dict(zip(ANSWERS, chances(self.policy_SV), strict=True))
        tokens = [len(one) + len(other) for one, other in PAIRS]
        pair_P = torch.stack([chance[one] * chance[other] * (1 + (one != other)) for one, other in PAIRS])
        self._weight_N = pair_P.repeat_interleave(torch.tensor(tokens))

    def logprobs(self, packed: Any, features: Any) -> Tensor:
        return self._weighed(self.logits_SV.log_softmax(-1)[self.state_N, self.token_N])

    def values(self, features: Any) -> Tensor:
        return self._weighed(self.value_S[self.state_N])

    def _weighed(self, value_N: Tensor) -> Tensor:
        """The same values, with so much of their gradient."""
        return self._weight_N * value_N + ((1 - self._weight_N) * value_N).detach()


def experience(table: Table) -> Experience:
    """Every group once."""
    prompt = Prompt(id="p", messages=[{"role": "user", "content": "?"}])
    groups = [
        Group(prompt=prompt, prompt_ids=(), answers=tuple(Sampled(ids=list(answer)) for answer in pair), texts=())
        for pair in PAIRS
    ]
    lengths = [len(answer) for answer in DRAWN]
    ref_BT, mask_BT = pad(INITIAL_SV.log()[table.state_N, table.token_N], lengths)
    reward = dict(zip(ANSWERS, REWARDS.tolist(), strict=True))
    reward_BT = on_last_token(torch.tensor([reward[answer] for answer in DRAWN]), mask_BT).double()
    nothing: Any = None
    return Experience(nothing, Features(*[torch.zeros(0)] * 3), lengths, mask_BT, ref_BT, reward_BT, groups)


def ended(rate: float, **settings: Any) -> Table:
    """Policy and critic after 100 steps of two updates each on what the policy draws, by gradient descent."""
    cfg = as_read(TuneTable.model_validate({"beta": COEF, "grad_clip": 1e9} | settings))
    algorithm, table = chosen(cfg), Table()
    tune: Any = table
    found = experience(table)
    rates = [(table.logits_SV, rate), (table.value_S, 1.0)]
    groups = [{"params": [weight], "lr": rate * len(DRAWN)} for weight, rate in rates]
    optimiser = torch.optim.SGD(groups, momentum=0.7)
    for step in range(100):
        table.draw()
        batches = [[update.appraised(tune, found, algorithm, cfg, COEF if algorithm.kl_in_reward else 0.0)]]
        if cfg.algorithm == "reinforce_pp":
            batches = whitened(batches)
        update.taken(tune, optimiser, batches * 2, algorithm, cfg, step)
    return table


ENDS = {
    "ppo": {"rate": 0.5, "algorithm": "ppo"},
    "ppo, discounted": {"rate": 0.5, "algorithm": "ppo", "gamma": 0.8, "gae_lambda": 0.5},
    "apa at the sampling policy": {"rate": 0.3, "algorithm": "apa", "anchor": "sampling"},
    "reinforce_pp": {"rate": 0.12, "algorithm": "reinforce_pp"},
    "reinforce_pp, discounted": {"rate": 0.12, "algorithm": "reinforce_pp", "gamma": 0.8},
    "rloo": {"rate": 0.3, "algorithm": "rloo"},
    "dr_grpo": {"rate": 1.0, "algorithm": "grpo", "normaliser": "dr_grpo", "max_new_tokens": 2},
    "p3o": {"rate": 0.5, "algorithm": "p3o"},
}


@pytest.mark.parametrize("settings", ENDS.values(), ids=ENDS)
def test_updates_end_at_the_policy_with_the_most_reward_less_its_kl(settings: dict) -> None:
    found, best = ended(**settings).policy_SV, Best.at(settings.get("gamma", 1.0)).policy_SV
    torch.testing.assert_close(found, best, rtol=0, atol=1e-6)


@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_the_critic_of_ppo_ends_at_the_value_of_every_state_with_the_kl_in_it(gamma: float) -> None:
    found = ended(0.5, algorithm="ppo", gamma=gamma, gae_lambda=0.5).value_S.detach()
    torch.testing.assert_close(found, Best.at(gamma).value_S, rtol=0, atol=1e-6)


@pytest.mark.parametrize("normaliser", ["grpo", "dapo"])
def test_in_spreads_of_two_answers_it_only_counts_which_is_better(normaliser: str) -> None:
    # (r_1 - r_2) / 2 in spreads of |r_1 - r_2| / sqrt 2 is +-1 / sqrt 2, beside COEF / 2 of the KL's difference
    found = chances(ended(1.0, algorithm="grpo", normaliser=normaliser).policy_SV)
    wins = (found * (REWARDS[:, None] - REWARDS).sign()).sum(1)
    torch.testing.assert_close(found, tilted(chances(INITIAL_SV), math.sqrt(2) / COEF * wins), rtol=0, atol=1e-6)
