"""Rollouts from a vLLM server: token ids in, token ids and logprobs out, with the weights of the step.

The server serves the initial policy and sees the files that are written here. With LoRA it is given each step's
adapters (`--enable-lora`, VLLM_ALLOW_RUNTIME_LORA_UPDATING=1), else it reads all weights anew (VLLM_SERVER_DEV_MODE=1).
At a temperature other than 1 its logprobs are those of what it samples from by `--logprobs-mode processed_logprobs`,
without which it is refused.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import torch

from starling import chat, keys, packing, progress, texts
from starling.errors import CallError
from starling.generate import Request, Sampled
from starling.policy import Policy
from starling.posting import post_all
from starling.records import Message

KEY_VARIABLE = "VLLM_API_KEY"  # vLLM's own
TRIED = 32  # tokens of the answer that tells whether it can be used
_LORA = "start it with --enable-lora, --max-lora-rank of at least tune.lora_rank, VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"
_NAME = "starling-"  # what adapters are called by, before their hash
_RELOAD = "start it with VLLM_SERVER_DEV_MODE=1 where it sees this folder, or set tune.lora_rank"
_SAMPLING = "its own log says more; the same command goes on from the last checkpoint"


class Server:
    """A server that samples under the weights that it took last; what it is given stands in `folder` meanwhile.

    `sampler` is the setting, a URL or "vllm@URL"; `base` is what the initial policy is loaded by. Adapters are
    called by the hash of their weights, so that what the server keeps of prompts under a name always belongs to these
    weights.
    """

    def __init__(self, sampler: str, folder: Path, base: str) -> None:
        self._url = sampler.removeprefix("vllm@").rstrip("/")
        self._folder = folder.absolute()
        self._base = base
        self._adapter = ""
        # What an earlier process left that was killed.
        self._left = {path.name for path in self._folder.glob(f"{_NAME}*")}
        self._has_other_weights = (self._folder / "config.json").exists()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        try:
            self.leave()
        except CallError as again:
            if error is None:
                raise
            progress.say(f"{again}; the server still has this run's weights")

    def take(self, policy: Policy) -> None:
        """Let the server sample from this policy from now on."""
        if policy.has_adapters:
            self._take_adapters(policy)
        else:
            policy.sync()
            shutil.rmtree(self._folder, ignore_errors=True)
            policy.save(self._folder)
            self._has_other_weights = True  # even where only half of what reloading asks for succeeds
            self._reload(str(self._folder))

    def try_out(self, policy: Policy) -> None:
        """Take the initial policy and sample an answer, so that a server that cannot, or whose logprobs are of another
        temperature, is told before anything is learnt."""
        self.take(policy)
        prompt = chat.prompt_ids(policy.tokenizer, [Message(role="user", content="Hello.")])
        request = Request(prompt=prompt, seed=0, temperature=policy.temperature)
        (answer,) = self.generate([request], max_new_tokens=TRIED, stop=frozenset())
        packed = packing.pack([(prompt, [answer.ids])])
        features = policy.features(packed)
        told_N = torch.tensor(answer.logprobs)
        at_own, at_1 = (
            float((policy.ref_logprobs(packed, features, temperature).cpu() - told_N).abs().mean())
            for temperature in (policy.temperature, 1.0)
        )
        if at_1 < at_own / 2:
            raise CallError(
                f"tune: {self._url}: its logprobs are those at temperature 1 ({at_1:.2g} nats off, {at_own:.2g} off "
                f"those at {policy.temperature:g}, its own); start it with --logprobs-mode processed_logprobs"
            )

    def leave(self) -> None:
        """Give the server back as it was: without our adapters, with the initial policy's weights; and delete what was
        written for it."""
        self._unload()
        if self._has_other_weights:
            self._reload(self._base)
            self._has_other_weights = False
        shutil.rmtree(self._folder, ignore_errors=True)

    def generate(
        self,
        requests: Sequence[Request],
        *,
        max_new_tokens: int,
        stop: frozenset[int],
        on_tokens: Callable[[int], None] = lambda count: None,
    ) -> list[Sampled]:
        """Sample an answer for each request, in order; `on_tokens` hears of each answer's tokens."""

        def read(number: int, status: int, text: str) -> Sampled:
            answer = self._read(status, text, max_new_tokens, stop)
            on_tokens(len(answer.ids))
            return answer

        bodies = [self._body(request, max_new_tokens, stop) for request in requests]
        return post_all(f"{self._url}/v1/completions", bodies, read, key=_key())

    def _body(self, request: Request, max_new_tokens: int, stop: frozenset[int]) -> dict[str, Any]:
        """All that decides what is sampled is said, since the server would take the rest from the model's own settings;
        only the ids in `stop` end an answer."""
        named = {"model": self._adapter} if self._adapter else {}
        return named | {
            "prompt": list(request.prompt), "add_special_tokens": False, "max_tokens": max_new_tokens,
            "seed": request.seed, "temperature": request.temperature, "top_p": request.top_p, "top_k": 0, "min_p": 0.0,
            "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
            "stop_token_ids": sorted(stop), "ignore_eos": True, "logprobs": 0, "return_token_ids": True,
        }  # fmt: skip

    def _read(self, status: int, text: str, max_new_tokens: int, stop: frozenset[int]) -> Sampled:
        """An answer as the server gives it; refused is what no sampler could have given."""
        if status != 200:
            raise CallError(f"tune: {self._url}: {_failed('sampling', status, text, _SAMPLING)}")
        try:
            choice = json.loads(text)["choices"][0]
            ids, logprobs = list(choice["token_ids"]), list(choice["logprobs"]["token_logprobs"])
        except (ValueError, KeyError, IndexError, TypeError):
            raise CallError(
                f"tune: {self._url}: a reply has no token ids with logprobs; tune.sampler needs vLLM 0.10.2 or later: "
                f"{_said(text)}"
            ) from None
        finished = bool(ids) and ids[-1] in stop
        whole = finished or len(ids) == max_new_tokens
        if not whole or len(ids) != len(logprobs) or not all(map(_is_finite, logprobs)):
            ended = _said(repr(choice.get("finish_reason")))
            raise CallError(
                f"tune: {self._url}: an answer of {len(ids)} ids and {len(logprobs)} logprobs ended by "
                f"{ended}, neither at a stop token nor at the cap, or has no finite logprobs"
            )
        return Sampled(ids=ids, logprobs=logprobs, finished=finished)

    def _take_adapters(self, policy: Policy) -> None:
        fresh = self._folder / "fresh"
        shutil.rmtree(fresh, ignore_errors=True)
        policy.save_adapter(fresh, self._base)
        name = f"{_NAME}{hashlib.sha256((fresh / 'adapter_model.safetensors').read_bytes()).hexdigest()[:16]}"
        if name == self._adapter:
            return
        place = self._folder / name
        shutil.rmtree(place, ignore_errors=True)
        fresh.rename(place)
        self._ask("/v1/load_lora_adapter", _LORA, lora_name=name, lora_path=str(place), load_inplace=True)
        self._left.discard(name)
        self._unload()
        self._adapter = name

    def _reload(self, model: str) -> None:
        """Let the server read this model's weights; what it keeps of prompts belongs to the old ones."""
        self._ask("/collective_rpc", _RELOAD, method="reload_weights", kwargs={"weights_path": model})
        self._ask("/reset_prefix_cache", _RELOAD)

    def _unload(self) -> None:
        """Our adapters, and those of a killed process, of which a server that was started since knows nothing."""
        for name in (*sorted(self._left), *([self._adapter] if self._adapter else [])):
            self._ask("/v1/unload_lora_adapter", _LORA, unless=404 if name in self._left else 0, lora_name=name)
            shutil.rmtree(self._folder / name, ignore_errors=True)
        self._left, self._adapter = set(), ""

    def _ask(self, path: str, advice: str, *, unless: int = 0, **body: Any) -> None:
        """POST; a path that the server does not have, or that fails with another status than `unless`, is told with
        what to do."""

        def read(number: int, status: int, text: str) -> None:
            if status not in (200, unless):
                raise CallError(f"tune: {_failed(self._url + path, status, text, advice)}")

        post_all(self._url + path, [body], read, key=_key())


def _key() -> str:
    return keys.read(KEY_VARIABLE)


def _failed(what: str, status: int, text: str, advice: str) -> str:
    advice = f"set {KEY_VARIABLE} to the server's key" if status in (401, 403) else advice
    return f"{what} failed with status {status}: {_said(text)}; {advice}"


def _said(text: object) -> str:
    return texts.passed_on(text, _key())


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
