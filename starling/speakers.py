"""Who answers in a chat: a model in this process, or an endpoint; both piece by piece."""

import secrets
from collections.abc import Generator, Sequence
from typing import Protocol

from starling import chat, endpoint_stream, models, offer, packing
from starling.endpoints import Endpoint, parse_endpoint
from starling.errors import DataError
from starling.generate import Request, Sampling, stop_ids
from starling.models import Model
from starling.pieces import Pieces
from starling.records import Message
from starling.rollout import own_settings

ANSWER_TOKENS = 1024  # after which an answer is cut, and said to be


class Speaker(Protocol):
    """One side of a chat. After an answer `tokens` is its length, `remark` what a person should know about it."""

    name: str
    tokens: int
    remark: str

    def answer(self, messages: Sequence[Message]) -> Generator[str, None, None]:
        """The answer's pieces, possibly empty ones; closing it breaks the answer off."""
        ...


class LocalSpeaker:
    """A model in this process; samples as its own `generation_config` says."""

    def __init__(self, model: Model, name: str) -> None:
        self.name = name
        self.tokens = 0
        self.remark = ""
        self._model = model

    def answer(self, messages: Sequence[Message]) -> Generator[str, None, None]:
        """Of a conversation that has outgrown the window, the earliest part is left out, and that is said."""
        network, tokenizer = self._model
        self.tokens, self.remark = 0, ""
        cap = min(ANSWER_TOKENS, packing.window(network.config) // 2)
        prompt = self._fitting(messages, packing.window(network.config) - cap)
        request = Request(prompt=prompt, seed=secrets.randbits(63), **own_settings(network))
        sampling = Sampling(network, stop_ids(network), 1, len(prompt) + cap)
        sampling.admit({0: request}, {0: cap}, {prompt: 0})
        pieces = Pieces(tokenizer)
        while len(sampling):
            [drawn] = sampling.step()
            self.tokens += 1
            yield pieces.feed(drawn.token)
            if drawn.ended and not drawn.finished:
                self._add(f"cut after {cap:,} tokens")
        yield pieces.end()

    def _fitting(self, messages: Sequence[Message], room: int) -> tuple[int, ...]:
        prompt = chat.prompt_ids(self._model.tokenizer, messages)
        if len(prompt) <= room:
            return prompt
        kept = chat.shortened(self._model.tokenizer, messages, len(prompt) - room)
        if kept is None:
            raise DataError(
                f"{self.name}: this takes {len(prompt):,} tokens, the model has room for {room:,}; shorten it"
            )
        shorter = chat.prompt_ids(self._model.tokenizer, kept)
        self._add(
            f"the window is full: the first {len(prompt) - len(shorter):,} tokens of the conversation are left out"
        )
        return shorter

    def _add(self, remark: str) -> None:
        self.remark = "; ".join(filter(None, (self.remark, remark)))


class EndpointSpeaker:
    """A model behind a URL; samples as the endpoint does by default."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.name = endpoint.name
        self.tokens = 0
        self.remark = ""
        self._endpoint = endpoint

    def answer(self, messages: Sequence[Message]) -> Generator[str, None, None]:
        """The answer as the endpoint writes it; until it gives its own count, each piece counts as a token."""
        self.tokens, self.remark = 0, ""
        for text, tokens, cut in endpoint_stream.written(self._endpoint, messages):
            self.tokens = self.tokens + bool(text) if tokens is None else tokens
            if cut:
                self.remark = "cut by the endpoint's token cap"
            yield text


def make(source: str) -> Speaker:
    """The speaker that MODEL means: `openai:NAME@URL`, a run's tuned policy, or a model to load."""
    if source.startswith("openai:"):
        return EndpointSpeaker(parse_endpoint(source))
    return LocalSpeaker(models.load_policy(offer.policy_of(source)), source)
