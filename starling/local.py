"""A model in this process as a chat model, behind the same `chat` as a model behind a URL."""

from collections.abc import Callable, Sequence

from starling import chat
from starling.device import seed_for
from starling.generate import Request, generate, stop_ids
from starling.models import Model
from starling.records import Call, Failure, Reply


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

    def chat(self, calls: Sequence[Call]) -> list[Reply | Failure]:
        """One reply for each call, in order."""
        if not calls:
            return []
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
            on_tokens=self._on_tokens,
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
