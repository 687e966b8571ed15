"""Best-of-n, of n answers the one with the highest reward: what it costs in KL, and what it would score."""

import math
from collections.abc import Sequence


def expected_kl(n: int) -> float:
    """KL of best-of-n to the policy that answers, in nats an answer: log n - (n - 1) / n.

    Stiennon et al. 2020, arXiv:2009.01325, appendix G.3; exact where no two answers are alike or rewarded alike, else
    an upper bound (Beirami et al. 2024, arXiv:2401.01879). A policy that often says the same moves less.
    """
    return math.log(n) - (n - 1) / n


def shares(rewards: Sequence[float], n: int) -> list[float]:
    """How likely each of N answers is the best of n of them drawn without replacement, N >= n; in order, summing to 1.

    With rewards sorted upwards the i-th is best in C(i - 1, n - 1) of the C(N, n) draws: those whose other n - 1
    answers stand below it. Equal rewards share what they have together, as if a coin decided. The mean of any figure of
    the answers under these shares is an unbiased estimate of what best-of-n scores (Nakano et al. 2021,
    arXiv:2112.09332, appendix I): 3 answers with rewards 5, 9, 7 and n = 2 -> 0, 2/3, 1/3.
    """
    if not 1 <= n <= len(rewards):
        raise ValueError(f"the best of {n} cannot be estimated from {len(rewards)} answers")
    draws = math.comb(len(rewards), n)
    upwards = sorted(rewards)
    together: dict[float, list[int]] = {}
    for place, reward in enumerate(upwards):
        together.setdefault(reward, []).append(math.comb(place, n - 1))
    return [sum(together[reward]) / len(together[reward]) / draws for reward in rewards]
