"""Logits -> tokens and their logprobs, by inverting the cumulative distribution at given uniform numbers."""

import torch
from torch import Tensor

from starling.errors import StarlingError

_LIKELIEST = 64  # tokens looked at for top-p before the whole vocabulary is sorted, which costs more than a step
_TILE = 128  # neighbouring tokens whose probabilities are summed first: whole rows are only read once or twice
_LEAST_LOG_WEIGHT = -80.0  # e^-80 adds nothing to a float32 sum of 1: 0 from there on, since denormal numbers are slow
_SAMPLED_ROWS = 8  # sampled at a time, so that a row's numbers stay in the processor's cache


def sample(logits_BV: Tensor, uniform_B: Tensor, temperature_B: Tensor, top_p_B: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens and their logprobs by inverting the cumulative distribution at `uniform_B` in [0, 1).

    Temperature 0 takes the likeliest token with logprob 0; `top_p` keeps the likeliest tokens that reach that share.
    """
    parts = zip(*(part.split(_SAMPLED_ROWS) for part in (logits_BV, uniform_B, temperature_B, top_p_B)), strict=True)
    tokens, logprobs = zip(*(_sample_rows(*part) for part in parts), strict=True)
    return torch.cat(tokens), torch.cat(logprobs)


def _sample_rows(logits_CV: Tensor, uniform_C: Tensor, temperature_C: Tensor, top_p_C: Tensor) -> tuple[Tensor, Tensor]:
    greedy_C = temperature_C == 0
    weight_CV = logits_CV.float() / temperature_C.masked_fill(greedy_C, 1.0)[:, None]
    weight_CV = weight_CV.sub_(weight_CV.amax(-1, keepdim=True))
    weight_CV = torch.nn.functional.threshold(weight_CV, _LEAST_LOG_WEIGHT, -torch.inf, inplace=True).exp_()
    padding = -weight_CV.shape[1] % _TILE
    tile_CSE = torch.nn.functional.pad(weight_CV, (0, padding)).unflatten(1, (-1, _TILE))
    token_C, logprob_C = _invert_tiles(tile_CSE, uniform_C)
    cut_M = (top_p_C < 1).nonzero()[:, 0]
    if len(cut_M):
        token_C[cut_M], logprob_C[cut_M] = _invert_nucleus(tile_CSE[cut_M], uniform_C[cut_M], top_p_C[cut_M])
    if greedy_C.any():
        token_C = torch.where(greedy_C, logits_CV.argmax(-1), token_C)
    return token_C, logprob_C.masked_fill(greedy_C, 0.0)


def _invert(weight_MN: Tensor, target_M: Tensor) -> tuple[Tensor, Tensor]:
    """Where each row's running sum first passes its target, and the sum before that place.

    A target that rounding put at the row's whole sum is taken for the largest one below it, and one that it put below 0
    for 0: a place of weight 0 is never found.
    """
    running_MN = weight_MN.cumsum(-1)
    below_M1 = torch.minimum(target_M[:, None].clamp(min=0), running_MN[:, -1:] * (1 - 2**-23))
    place_M1 = torch.searchsorted(running_MN, below_M1, right=True)
    return place_M1[:, 0], (running_MN - weight_MN).gather(1, place_M1)[:, 0]


def _invert_tiles(tile_CSE: Tensor, uniform_C: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens and logprobs at the uniform numbers, in the vocabulary's order; first the tile, then the place in it."""
    sum_CS = tile_CSE.sum(-1)
    total_C = sum_CS.sum(-1)
    if not (total_C >= 1).all():  # the likeliest token has weight 1
        raise StarlingError("the model gives logits that are not numbers; a lower learning rate may keep it from that")
    target_C = uniform_C.to(total_C.dtype) * total_C
    tile_C, before_C = _invert(sum_CS, target_C)
    chosen_CE = tile_CSE[torch.arange(len(tile_C), device=tile_C.device), tile_C]
    place_C, _ = _invert(chosen_CE, target_C - before_C)
    weight_C = chosen_CE.gather(1, place_C[:, None])[:, 0]
    return tile_C * _TILE + place_C, weight_C.log() - total_C.log()


def _invert_nucleus(tile_MSE: Tensor, uniform_M: Tensor, top_p_M: Tensor) -> tuple[Tensor, Tensor]:
    """The same among the likeliest tokens that reach each row's share, likeliest first."""
    wanted_M1 = (top_p_M.to(tile_MSE.dtype) * tile_MSE.sum((1, 2)))[:, None]
    weight_MC, token_MC = _likeliest(tile_MSE, _LIKELIEST)
    if (weight_MC.sum(1, keepdim=True) < wanted_M1).any():
        weight_MC, token_MC = tile_MSE.flatten(1).sort(descending=True)
    outside_MC = weight_MC.cumsum(1) - weight_MC >= wanted_M1
    weight_MC = weight_MC.masked_fill(outside_MC, 0.0)
    total_M = weight_MC.sum(1)
    place_M, _ = _invert(weight_MC, uniform_M.to(total_M.dtype) * total_M)
    weight_M = weight_MC.gather(1, place_M[:, None])[:, 0]
    return token_MC.gather(1, place_M[:, None])[:, 0], weight_M.log() - total_M.log()


def _likeliest(tile_MSE: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest weights of each row and their tokens: they stand in the `count` tiles of largest maximum."""
    tile_MT = tile_MSE.amax(-1).topk(min(count, tile_MSE.shape[1])).indices
    weight_MTE = tile_MSE[torch.arange(len(tile_MT), device=tile_MT.device)[:, None], tile_MT]
    token_MTE = tile_MT[:, :, None] * _TILE + torch.arange(_TILE, device=tile_MT.device)
    weight_MC, place_MC = weight_MTE.flatten(1).topk(min(count, weight_MTE[0].numel()))
    return weight_MC, token_MTE.flatten(1).gather(1, place_MC)
