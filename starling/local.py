"""A model in this process as a chat model, behind the same `chat` as a model behind a URL."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Event
from typing import Any

from starling import chat
from starling.client import OnReply
from starling.device import seed_for
from starling.generate import Request, generate, stop_ids
from starling.ledger import Ledger, call_key, canonical
from starling.models import Model
from starling.packing import window
from starling.records import Call, Failure, Reply
from starling.waiting import refuse_given_up

AT_ONCE = 32  # calls that are answered together, and filed together


class LocalChat:
    """Answers calls with a loaded model; each call's seed follows from its content and its draw."""

    def __init__(
        self,
        model: Model,
        name: str,
        *,
        seed: int,
        slots: int = 32,
        on_tokens: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.name = name
        self._model = model
        self._seed = seed
        self._slots = slots
        self._on_tokens = on_tokens

    def chat(self, calls: Sequence[Call], given_up: Event | None = None) -> list[Reply | Failure]:
        """One reply for each call, in order; broken off at the next token once they are `given_up`."""
        if not calls:
            return []

        def on_tokens(count: int) -> None:
            refuse_given_up(given_up)
            self._on_tokens(count)

        prompts = [chat.prompt_ids(self._model.tokenizer, call.messages) for call in calls]
        requests = [
            Request(
                prompt=prompt,
                seed=seed_for(self._seed, self.name, prompt, call.draw),
                temperature=call.temperature,
                top_p=call.top_p,
            )
            for prompt, call in zip(prompts, calls, strict=True)
        ]
        sampled = generate(
            self._model.network,
            requests,
            max_new_tokens=max(call.max_tokens for call in calls),
            stop=stop_ids(self._model.network),
            slots=self._slots,
            on_tokens=on_tokens,
        )
        return [
            Reply(
                text=chat.answer_text(self._model.tokenizer, answer.ids[: call.max_tokens]),
                finished=answer.finished and len(answer.ids) <= call.max_tokens,
                prompt_tokens=len(prompt),
                completion_tokens=min(len(answer.ids), call.max_tokens),
            )
            for call, answer, prompt in zip(calls, sampled, prompts, strict=True)
        ]


class FiledChat:
    """A model in this process whose answers stand in a ledger: what it answered once it is not asked again.

    `weights` stand in the ledger's keys in the place of a model's name at an endpoint. An answer has what room the
    model's window leaves; a conversation that leaves none is a failure.
    """

    def __init__(
        self, model: Model, name: str, ledger: Ledger, *, weights: str, seed: int, on_reply: OnReply | None = None
    ) -> None:
        self.name = name
        self._tokenizer = model.tokenizer
        self._window = window(model.network.config)
        self._chat = LocalChat(model, weights[:16], seed=seed, slots=AT_ONCE)
        self._seed = seed
        self._ledger = ledger
        self._weights = weights
        self._on_reply = on_reply

    def chat(self, calls: Sequence[Call]) -> list[Reply | Failure]:
        """One reply or failure for each call, in order."""
        outcomes: list[Reply | Failure] = []
        for start in range(0, len(calls), AT_ONCE):
            some = calls[start : start + AT_ONCE]
            answered = self._answered(some)
            outcomes += answered
            for call, outcome in zip(some, answered, strict=True):
                if self._on_reply:
                    self._on_reply(call, outcome)
        return outcomes

    def _answered(self, calls: Sequence[Call]) -> list[Reply | Failure]:
        bodies = [canonical(self._body(call)) for call in calls]
        keys = [call_key(self.name, self._weights, body, call.draw) for call, body in zip(calls, bodies, strict=True)]
        room = [self._window - len(chat.prompt_ids(self._tokenizer, call.messages)) for call in calls]
        open_ = {
            key: at for at, key in enumerate(keys) if room[at] > 0 and self._ledger.get(key) is None
        }  # the same call twice is answered once
        asked = [replace(calls[at], max_tokens=min(calls[at].max_tokens, room[at])) for at in open_.values()]
        replies = self._chat.chat(asked) if asked else []
        for (key, at), reply in zip(open_.items(), replies, strict=True):
            assert isinstance(reply, Reply)
            attempt = self._ledger.sent(
                key, name=self.name, model=self._weights, request=bodies[at], draw=calls[at].draw
            )
            self._ledger.replied(attempt, reply)
        self._ledger.commit()
        too_long = f"the conversation leaves no room for an answer in the model's window of {self._window} tokens"
        return [self._ledger.get(key) or Failure(reason=too_long) for key in keys]

    def _body(self, call: Call) -> dict[str, Any]:
        return {
            "messages": list(call.messages),
            "max_tokens": call.max_tokens,
            "temperature": call.temperature,
            "top_p": call.top_p,
            "seed": self._seed,
        }
