"""How much better an action was than expected."""

import torch
from torch import Tensor


def gae(reward_BT: Tensor, value_BT: Tensor, mask_BT: Tensor, *, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimate and the return it implies (Schulman et al. 2015, arXiv:1506.02438, eq. 16).

        delta_t = r_t + gamma V_{t+1} - V_t,   A_t = delta_t + gamma lam A_{t+1},   R_t = A_t + V_t

    An answer ends at its last counted token: nothing is bootstrapped beyond it. Answers are right-padded; the tokens
    that do not count are 0 in both results. (B, T) each -> advantage_BT, return_BT.
    """
    advantage_BT = torch.zeros_like(reward_BT)
    next_advantage_B = torch.zeros_like(reward_BT[:, 0])
    next_value_B = torch.zeros_like(next_advantage_B)
    for step in reversed(range(reward_BT.shape[1])):
        counts_B = mask_BT[:, step]
        delta_B = reward_BT[:, step] + gamma * next_value_B - value_BT[:, step]
        next_advantage_B = torch.where(counts_B, delta_B + gamma * lam * next_advantage_B, 0.0)
        next_value_B = torch.where(counts_B, value_BT[:, step], 0.0)
        advantage_BT[:, step] = next_advantage_B
    return advantage_BT, (advantage_BT + value_BT).masked_fill(~mask_BT, 0.0)


def group(reward_BG: Tensor) -> Tensor:
    """Reward less the mean of its prompt's G answers: (B, G) -> (B, G). Equal ones give 0, not what is rounded."""
    range_B1 = reward_BG.amax(1, keepdim=True) - reward_BG.amin(1, keepdim=True)
    centred_BG = reward_BG - reward_BG.mean(1, keepdim=True)
    return centred_BG.masked_fill(_is_noise(range_B1, reward_BG.abs().amax(1, keepdim=True)), 0.0)


def leave_one_out(reward_BG: Tensor) -> Tensor:
    """Reward less the mean of the prompt's other G - 1 answers (Ahmadian et al. 2024, arXiv:2402.14740)."""
    num_answers = reward_BG.shape[1]
    if num_answers < 2:
        raise ValueError("leave-one-out needs at least two answers to a prompt")
    return group(reward_BG) * num_answers / (num_answers - 1)


def normalised_group(reward_BG: Tensor) -> Tensor:
    """Reward less its prompt's mean, in standard deviations of the prompt's G answers (Shao et al. 2024,
    arXiv:2402.03300, section 4.1.2), with G - 1 below the sum of squares. Equal rewards give 0."""
    if reward_BG.shape[1] < 2:
        raise ValueError("a group's spread needs at least two answers to a prompt")
    return _in_spreads(group(reward_BG), reward_BG.std(1, keepdim=True), reward_BG.abs().amax(1, keepdim=True))


def whiten(advantage_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the tokens that count, the others 0. Where all are equal, all are 0."""
    counted_N = advantage_BT[mask_BT]
    if not len(counted_N):
        return torch.zeros_like(advantage_BT)
    centred_BT = (advantage_BT - counted_N.mean()).masked_fill(~mask_BT, 0.0)
    return _in_spreads(centred_BT, counted_N.std(correction=0), counted_N.abs().max())


def _in_spreads(centred: Tensor, spread: Tensor, size: Tensor) -> Tensor:
    """centred / spread, or 0 where values of that size are equal but for rounding, which a division would blow up."""
    equal = _is_noise(spread, size)
    return torch.where(equal, 0.0, centred / spread.masked_fill(equal, 1.0))


def _is_noise(spread: Tensor, size: Tensor) -> Tensor:
    """Whether values of that size, so far apart, are equal but for rounding."""
    return spread <= 16 * torch.finfo(spread.dtype).eps * size
