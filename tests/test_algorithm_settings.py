"""Each algorithm's loss reads each of its settings, and each logprob in its place, by numbers worked out by hand."""

import math
from collections.abc import Sequence

import pytest
import torch
from test_algorithms import batch, experience, group
from tolerances import CLOSE

from starling.algorithms import ALGORITHMS, Totals
from starling.config import TuneTable
from starling.experience import Experience


def loss(
    name: str, found: Experience, logprob: Sequence[Sequence[float]], old: Sequence[Sequence[float]],
    advantage: Sequence[Sequence[float]], totals: Totals, **settings: object,
) -> float:  # fmt: skip
    """The value of an algorithm's loss; the reference logprobs are -1 a token."""
    one = batch(found, torch.tensor(advantage), torch.tensor(old))
    cfg = TuneTable.model_validate({"algorithm": name} | settings)
    return float(ALGORITHMS[name].loss(torch.tensor(logprob), one, cfg, totals).value)


@pytest.mark.parametrize(("clip", "times"), [(0.2, 0.525), (0.4, 0.675)])
def test_p3o_by_hand_where_old_and_reference_differ(clip: float, times: float) -> None:
    # d = 0 - (-1) = 1 nat over the reference, of old .5: ratio e^.5; reward gap 2 less beta .5 x 1 is 1.5, half of it
    # .75, times d held at .5 + clip: .7 and .9
    found, old = experience([group([1, 1])]), [[-1.5], [-2.0]]
    value = loss("p3o", found, [[-1.0], [-2.0]], old, [[3.0], [1.0]], Totals(2, 2, 1, 0), beta=0.5, clip=clip)
    assert value == pytest.approx(-times * math.exp(0.5), abs=CLOSE)


def test_listwise_dpo_of_rankings_of_unlike_length_by_hand() -> None:
    # rewards 0, 0, 0 and 0, -1 at beta 1/2: log 6 and log(1 + 1/e)
    found = experience([group([1, 1, 1], [1.0, 2.0, 3.0]), group([1, 1], [1.0, 2.0])])
    logprob = [[-1.0], [-1.0], [-1.0], [-1.0], [-3.0]]
    nothing = [[0.0]] * 5
    value = loss("listwise_dpo", found, logprob, nothing, nothing, Totals(5, 5, 2, 4), beta=0.5)
    assert value == pytest.approx((math.log(6) + math.log1p(math.exp(-1))) / 2, abs=CLOSE)


def test_awr_reads_its_lambda_and_the_largest_weight() -> None:
    # lambda 1/2: weights exp(log 2) = 2 and exp(log 16) = 16, of which 3 are left; each token at -1
    found, advantage = experience([group([1, 1])]), [[0.5 * math.log(2)], [0.5 * math.log(16)]]
    at = [[-1.0], [-1.0]]
    value = loss("awr", found, at, at, advantage, Totals(2, 2, 1, 0), lam=0.5, weight_clip=3.0)
    assert value == pytest.approx((2 + 3) / 2, abs=CLOSE)


@pytest.mark.parametrize("name", ["ppo", "reinforce_pp", "rloo"])
def test_the_clip_is_the_settings_own(name: str) -> None:
    # ratio 1.25 a token, of the whole answer 1.5625: held at 1.1 with every advantage 1
    found = experience([group([2])])
    old, new = [[-1.0, -1.0]], [[-1.0 + math.log(1.25)] * 2]
    assert loss(name, found, new, old, [[1.0, 1.0]], Totals(2, 1, 1, 0), clip=0.1) == pytest.approx(-1.1, abs=CLOSE)


@pytest.mark.parametrize(("normaliser", "value"), [("dr_grpo", -3 / 20), ("dapo", -1.0), ("grpo", -1.0)])
def test_what_the_sum_over_tokens_is_divided_by(normaliser: str, value: float) -> None:
    # three tokens of two answers at ratio 1 and advantage 1: over 2 x the cap of 10, or in the mean
    found, at = experience([group([2, 1])]), [[-1.0, -1.0], [-1.0, 0.0]]
    settings = {"normaliser": normaliser, "max_new_tokens": 10}
    found_value = loss("grpo", found, at, at, [[1.0, 1.0], [1.0, 0.0]], Totals(3, 2, 1, 0), **settings)
    assert found_value == pytest.approx(value, abs=CLOSE)
