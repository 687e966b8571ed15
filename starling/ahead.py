"""The rollouts of each step of tuning: sampled as they are asked for, or while the step before is learnt from."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from threading import Event
from typing import Any

from starling import chat
from starling.distributed.vllm import Server
from starling.generate import Sampled, generate
from starling.models import Model
from starling.policy import Policy
from starling.records import Prompt
from starling.rollout import Group, sample_groups
from starling.tune_settings import TuneTable
from starling.waiting import refuse_given_up

OnTokens = Callable[[int], None]


class Rollouts:
    """Fresh groups of a step's prompts, by `server` or in this process; those sampled ahead wait here for their step.

    `stale` says whether the last ones were sampled ahead, so by the policy before the last update.
    """

    def __init__(
        self,
        cfg: TuneTable,
        seed: int,
        policy: Policy,
        prompts_of: Callable[[int], Sequence[Prompt]],
        server: Server | None = None,
    ) -> None:
        self._cfg = cfg
        self._seed = seed
        self._policy = policy
        self._prompts_of = prompts_of
        self._server = server
        self._open: list[Group] = []
        self.stale = False

    def of(self, step: int, on_tokens: OnTokens) -> list[Group]:
        """The step's groups: those that wait, or else fresh ones by the policy as it is now."""
        self.stale = bool(self._open)
        if self.stale:
            groups, self._open = self._open, []
            return groups
        self._hand_over()
        return self._sample(step, on_tokens)

    @contextmanager
    def ahead(self, step: int, on_tokens: OnTokens) -> Iterator[None]:
        """Sample the step's groups while the body runs, by the policy as it was before; nothing where that is off.

        The body may train the policy, but not sync it.
        """
        if not self._cfg.overlap:
            yield
            return
        self._hand_over()
        given_up = Event()

        def heard(tokens: int) -> None:
            refuse_given_up(given_up)
            on_tokens(tokens)

        with ThreadPoolExecutor(1) as pool:
            sampled = pool.submit(self._sample, step, heard)
            try:
                yield
                self._open = sampled.result()
            finally:  # also at Ctrl-C, which would else wait for the sampling
                given_up.set()

    def state_dict(self) -> list[Any]:
        """The groups that wait, without what follows from their step."""
        return [[[answer.ids, answer.logprobs, answer.finished] for answer in group.answers] for group in self._open]

    def load_state_dict(self, state: Sequence[Any], step: int) -> None:
        self._open = []
        for prompt, answers in zip(self._prompts_of(step) if state else (), state, strict=True):
            found = tuple(Sampled(ids=ids, logprobs=logprobs, finished=ended) for ids, logprobs, ended in answers)
            tokenizer = self._policy.tokenizer
            self._open.append(
                Group(
                    prompt=prompt,
                    prompt_ids=chat.prompt_ids(tokenizer, prompt.messages),
                    answers=found,
                    texts=tuple(chat.answer_text(tokenizer, answer.ids) for answer in found),
                )
            )

    def _hand_over(self) -> None:
        """Give the server the policy as it is now; in this process `Policy.sync` does that."""
        if self._server is not None:
            self._server.take(self._policy)

    def _sample(self, step: int, on_tokens: OnTokens) -> list[Group]:
        """With the trunk's states, unless they would be lost with the groups that a checkpoint holds."""
        here = partial(
            generate, self._policy.network, trunk_blocks=0 if self._cfg.overlap else self._policy.trunk_blocks
        )
        return sample_groups(
            Model(self._policy.network, self._policy.tokenizer),
            self._prompts_of(step),
            count=self._cfg.rollouts_per_prompt,
            max_new_tokens=self._cfg.max_new_tokens,
            temperature=self._cfg.temperature,
            top_p=1.0,
            seed=self._seed,
            purpose=("tune", step),
            on_tokens=on_tokens,
            sampler=self._server.generate if self._server else here,
        )
