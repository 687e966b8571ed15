"""Token ids in, token ids and logprobs out: sampling from a model in this process.

Each distinct prompt runs once for all its answers that begin together, and so does what many prompts begin with.
Answers are decoded together in a fixed number of slots, and a finished answer makes room for the next at once, so no
step is spent on padding rows.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor
from transformers.modeling_utils import PreTrainedModel

from starling import heads, packing
from starling.beginnings import shared
from starling.packing import Span
from starling.prepacked import prepacked
from starling.sampling import sample
from starling.slots import Decoding, Piece, Prefilling, Slots, Store

_REFILL_SHARE = 4  # new prompts enter when a quarter of the slots is free: prefill is cheaper in company


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One answer that is wanted. The same request gives the same uniform numbers, whatever else is sampled."""

    prompt: tuple[int, ...]
    seed: int
    temperature: float = 1.0
    top_p: float = 1.0


class Sampler(Protocol):
    """Token ids in, token ids and logprobs out, wherever the policy runs; `generate` without its model."""

    def __call__(
        self,
        requests: Sequence[Request],
        *,
        max_new_tokens: int,
        stop: frozenset[int],
        on_tokens: Callable[[int], None],
    ) -> list["Sampled"]: ...


@dataclass(slots=True)
class Sampled:
    """An answer's token ids, the stop token included, and their logprobs under the sampling distribution.

    `finished` is False where the token cap came before a stop token. Where it was asked for, `trunk_TH` is what the
    first blocks of the model made of the prompt and of every token but the last.
    """

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finished: bool = False
    trunk_TH: Tensor | None = field(default=None, compare=False, repr=False)


def stop_ids(model: PreTrainedModel) -> frozenset[int]:
    """Every id on which the model's own generation settings say to stop."""
    eos = model.generation_config.eos_token_id
    return frozenset(eos if isinstance(eos, list) else [eos] if eos is not None else [])


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token of the answer to request `key`; `ended` where it is the last, `finished` where it is a stop token."""

    key: int
    token: int
    logprob: float
    finished: bool
    ended: bool
    trunk_TH: Tensor | None = field(default=None, compare=False, repr=False)


@dataclass(slots=True)
class _Asked:
    request: Request
    uniform: list[float]
    drawn: int = 0


class Sampling:
    """Answers under way in at most `slots` slots, one token each a step; others may join, or leave, between steps.

    `model` is a causal LM whose attention `packing.enable` has routed. With `trunk` the last token of an answer comes
    with what is kept of it (`_trunk_kept`).
    """

    def __init__(self, model: PreTrainedModel, stop: frozenset[int], slots: int, *, trunk: bool = False) -> None:
        self._model = model
        self._stop = stop
        self._cache = Slots(model, slots, trunk=trunk)
        self._asked: dict[int, _Asked] = {}
        self._beginnings: dict[tuple[int, ...], Store] = {}
        self._tokens = torch.empty(0, dtype=torch.long, device=model.device)  # drawn and not yet taken in, in row order
        self._logits = torch.empty(0)

    def __len__(self) -> int:
        return len(self._cache.rows)

    @property
    def free(self) -> int:
        """Slots that no answer is in."""
        return self._cache.size - len(self)

    @torch.inference_mode()
    def admit(
        self,
        requests: Mapping[int, Request],
        max_new_tokens: Mapping[int, int],
        length_of: Mapping[tuple[int, ...], int],
    ) -> None:
        """Begin the answers to requests, by key; `length_of` says how much of each prompt is a shared beginning."""
        self._take_in()
        own = max(len(request.prompt) - length_of[request.prompt] for request in requests.values())
        self._cache.make_room(max(own, self._cache.longest) + 1)
        prompts = [request.prompt for request in requests.values()]
        fresh = _prefill(self._model, self._cache, prompts, length_of, self._beginnings)
        self._logits = torch.cat([self._logits, fresh]) if self._cache.rows else fresh
        self._cache.rows.extend(requests)
        for key, request in requests.items():
            self._asked[key] = _Asked(request, _uniforms(request.seed, max_new_tokens[key]))

    @torch.inference_mode()
    def step(self) -> list[Drawn]:
        """The next token of every answer, in row order."""
        self._take_in()
        asked = [self._asked[key] for key in self._cache.rows]
        settings = zip(
            *((one.uniform[one.drawn], one.request.temperature, one.request.top_p) for one in asked), strict=True
        )
        where = self._logits.device
        tokens, logprobs = sample(self._logits, *(torch.tensor(values, device=where) for values in settings))
        found = []
        for row, (one, token, logprob) in enumerate(zip(asked, tokens.tolist(), logprobs.tolist(), strict=True)):
            one.drawn += 1
            finished = token in self._stop
            ended = finished or one.drawn == len(one.uniform)
            trunk_TH = self._cache.trunk_states(row) if ended else None
            key = self._cache.rows[row]
            found.append(Drawn(key, token, logprob, finished, ended, trunk_TH))
        self._tokens = tokens
        self._keep([row for row, drawn in enumerate(found) if not drawn.ended])
        return found

    @torch.inference_mode()
    def drop(self, keys: Collection[int]) -> None:
        """Leave these answers as they are; what is not under way is passed over. Only after a step."""
        self._keep([row for row, key in enumerate(self._cache.rows) if key not in keys])

    def _keep(self, rows: list[int]) -> None:
        self._tokens = self._cache.retain(rows, self._tokens)
        kept = set(self._cache.rows)
        self._asked = {key: one for key, one in self._asked.items() if key in kept}

    def _take_in(self) -> None:
        """Have the model read the tokens that were drawn last."""
        if len(self._tokens):
            self._cache.make_room(self._cache.longest + 1)
            self._logits = _decode(self._model, self._cache, self._tokens)
            self._tokens = self._tokens[:0]


def generate(
    model: PreTrainedModel,
    requests: Sequence[Request],
    *,
    max_new_tokens: int,
    stop: frozenset[int],
    slots: int = 64,
    on_tokens: Callable[[int], None] = lambda count: None,
    trunk_blocks: int = 0,
) -> list[Sampled]:
    """Sample an answer for each request, in order; `on_tokens` hears of each step's tokens.

    What the first `trunk_blocks` blocks make of prompt and answer is kept with each answer.
    """
    answers = [Sampled() for _ in requests]
    if not requests:
        return answers
    pending = deque(sorted(range(len(requests)), key=lambda index: requests[index].prompt))  # those alike together
    length_of = shared(request.prompt for request in requests)
    sampling = Sampling(model, stop, min(slots, len(requests)), trunk=trunk_blocks > 0)
    caps = dict.fromkeys(pending, max_new_tokens)
    with prepacked(model), _trunk_kept(model, trunk_blocks):
        while pending or len(sampling):
            if pending and (not len(sampling) or sampling.free * _REFILL_SHARE >= min(slots, len(requests))):
                admitted = [pending.popleft() for _ in range(min(sampling.free, len(pending)))]
                sampling.admit({index: requests[index] for index in admitted}, caps, length_of)
            on_tokens(len(sampling))
            for drawn in sampling.step():
                answer = answers[drawn.key]
                answer.ids.append(drawn.token)
                answer.logprobs.append(drawn.logprob)
                answer.finished, answer.trunk_TH = drawn.finished, drawn.trunk_TH
    return answers


@contextmanager
def _trunk_kept(model: PreTrainedModel, blocks: int) -> Iterator[None]:
    """For as long as it lasts, what comes out of the first blocks is filed with keys and values; 0: nothing is."""
    if not blocks:
        yield
        return
    last = model.get_decoder().layers[blocks - 1]
    hook = last.register_forward_hook(lambda _, args, told, output: told["context"].keep(output), with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def _prefill(
    model: PreTrainedModel,
    slots: Slots,
    prompts: Sequence[tuple[int, ...]],
    length_of: Mapping[tuple[int, ...], int],
    beginnings: dict[tuple[int, ...], Store],
) -> Tensor:
    """Run what is new of the prompts, each distinct one once, into the next free rows; returns the logits of each
    one's first token."""
    for unused in [start for start, store in beginnings.items() if store not in slots.begins]:
        del beginnings[unused]  # prompts come in order, so it is hardly needed again
    rows_of: dict[tuple[int, ...], list[int]] = {}
    for row, prompt in enumerate(prompts, len(slots.begins)):
        start = prompt[: length_of[prompt]]
        if start and start not in beginnings:
            beginnings[start] = Store(model, 1, len(start), trunk=slots.trunk is not None)
            _run_pieces(model, [start], [0], [(None, beginnings[start], [0])])
        rows_of.setdefault(prompt, []).append(row)
        slots.begins.append(beginnings.get(start))
        slots.before[row], slots.lengths[row] = len(start), len(prompt) - len(start)
    firsts = [length_of[prompt] for prompt in rows_of]
    rests = [prompt[first:] for prompt, first in zip(rows_of, firsts, strict=True)]
    hidden_NH = _run_pieces(model, rests, firsts, [(slots.begins[rows[0]], slots, rows) for rows in rows_of.values()])
    logits = heads.logits(model, hidden_NH)
    number = {prompt: at for at, prompt in enumerate(rows_of)}
    return logits[[number[prompt] for prompt in prompts]]


def _run_pieces(
    model: PreTrainedModel,
    pieces: Sequence[tuple[int, ...]],
    firsts: Sequence[int],
    places: Sequence[tuple[Store | None, Store, Sequence[int]]],
) -> Tensor:
    """Run pieces that stand at positions from `firsts` on, packed; returns the hidden states of their last tokens."""
    ends = list(accumulate(map(len, pieces)))
    starts = [end - len(piece) for end, piece in zip(ends, pieces, strict=True)]
    packing.refuse_unsteady(model.config, max(map(sum, zip(map(len, pieces), firsts, strict=True))))
    spans = [Piece(Span(start, end), *place) for start, end, place in zip(starts, ends, places, strict=True)]
    output = model.get_decoder()(
        input_ids=torch.tensor([[token for piece in pieces for token in piece]], device=model.device),
        position_ids=torch.cat([torch.arange(f, f + len(p)) for p, f in zip(pieces, firsts, strict=True)])[None].to(
            model.device
        ),
        use_cache=False,
        context=Prefilling(spans),
    )
    return output.last_hidden_state[0, [end - 1 for end in ends]]


def _decode(model: PreTrainedModel, slots: Slots, tokens_B: Tensor) -> Tensor:
    """Logits of the next token of every row, after taking in `tokens_B`."""
    rows = len(slots.rows)
    position_B = slots.before[:rows] + slots.lengths[:rows]
    packing.refuse_unsteady(model.config, int(position_B.max()) + 1)
    output = model.get_decoder()(
        input_ids=tokens_B[:, None],
        position_ids=position_B[:, None],
        use_cache=False,
        context=Decoding(slots),
    )
    slots.lengths[:rows] += 1
    return heads.logits(model, output.last_hidden_state[:, 0])


def _uniforms(seed: int, count: int) -> list[float]:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()
