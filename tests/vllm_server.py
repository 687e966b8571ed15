"""A server that speaks vLLM's protocol on 127.0.0.1, in a thread: the tiny model through `generate`, with adapters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from aiohttp import web
from app_server import serving
from peft import PeftModel
from transformers import AutoModelForCausalLM

from starling import packing
from starling.generate import Request, generate
from starling.losses.logprobs import token_logprobs
from starling.policy import predicting_positions

Payload = dict[str, Any]


def load(folder: Path | str, adapter: Path | str | None = None) -> Any:
    """A network that `generate` can sample from, its adapter merged."""
    network: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        network = PeftModel.from_pretrained(network, str(adapter)).merge_and_unload()
    packing.enable(network)
    return network.eval()


def _at_1(network: Any, prompt: Sequence[int], ids: list[int]) -> list[float]:
    packed = packing.pack([(list(prompt), [ids])])
    with torch.no_grad():
        hidden_TH = packing.hidden_states(network.get_decoder(), packed)
        logits_NV = network.get_output_embeddings()(hidden_TH[predicting_positions(packed)])
    return token_logprobs(logits_NV, torch.tensor(ids)).tolist()


class VllmServer:
    """Knows only what it was started with, as vLLM does: `lora` and `dev` are the switches of its two ways to take
    weights. `requests` are all completions asked for; `garble` changes a reply before it leaves; `raw` logprobs are
    those at temperature 1, as vLLM's are by default."""

    def __init__(
        self, folder: Path, *, lora: bool = True, dev: bool = True, garble: Any = None, raw: bool = False
    ) -> None:
        self.requests: list[Payload] = []
        self.keys: set[str | None] = set()
        self.loaded: list[str] = []
        self.unloaded: list[str] = []
        self.reloads = 0
        self._folder = folder
        self._adapters: dict[str, Any] = {}
        self._switches = (lora, dev)
        self._garble = garble
        self._raw = raw

    def __enter__(self) -> Self:
        self._base = load(self._folder)
        self._serving = serving(self._app())
        self.url = self._serving.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._serving.__exit__(None, None, None)

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/v1/completions", self._complete)
        lora, dev = self._switches
        if lora:
            app.router.add_post("/v1/load_lora_adapter", self._load)
            app.router.add_post("/v1/unload_lora_adapter", self._unload)
        if dev:
            app.router.add_post("/collective_rpc", self._reload)
            app.router.add_post("/reset_prefix_cache", self._reset)
        return app

    async def _complete(self, request: web.Request) -> web.Response:
        asked = await request.json()
        self.requests.append(asked)
        self.keys.add(request.headers.get("Authorization"))
        if "model" in asked and asked["model"] not in self._adapters:
            return web.json_response(
                {"error": {"message": f"The model `{asked['model']}` does not exist."}}, status=404
            )
        assert (asked["ignore_eos"], asked["top_k"], asked["min_p"], asked["repetition_penalty"]) == (True, 0, 0.0, 1.0)
        wanted = Request(
            prompt=tuple(asked["prompt"]), seed=asked["seed"], temperature=asked["temperature"], top_p=asked["top_p"]
        )
        network = self._adapters[asked["model"]] if "model" in asked else self._base
        stop = frozenset(asked["stop_token_ids"])
        answer = generate(network, [wanted], max_new_tokens=asked["max_tokens"], stop=stop)[0]
        choice: Payload = {"index": 0, "text": "", "finish_reason": "stop" if answer.finished else "length"}
        if asked["return_token_ids"]:
            choice["token_ids"] = answer.ids
        if asked["logprobs"] is not None:
            logprobs = _at_1(network, wanted.prompt, answer.ids) if self._raw else answer.logprobs
            choice["logprobs"] = {"token_logprobs": logprobs}
        if self._garble:
            self._garble(choice)
        return web.json_response({"choices": [choice]})

    async def _load(self, request: web.Request) -> web.Response:
        asked = await request.json()
        if not (Path(asked["lora_path"]) / "adapter_config.json").is_file():
            return web.json_response({"error": {"message": "No adapter found"}}, status=404)
        self._adapters[asked["lora_name"]] = load(self._folder, asked["lora_path"])
        self.loaded.append(asked["lora_name"])
        return web.Response(text="Success")

    async def _unload(self, request: web.Request) -> web.Response:
        asked = await request.json()
        if self._adapters.pop(asked["lora_name"], None) is None:
            return web.json_response({"error": {"message": "The lora adapter cannot be found."}}, status=404)
        self.unloaded.append(asked["lora_name"])
        return web.Response(text="Success")

    async def _reload(self, request: web.Request) -> web.Response:
        asked = await request.json()
        assert asked["method"] == "reload_weights"
        self._base = load(asked["kwargs"]["weights_path"])
        self.reloads += 1
        return web.json_response({"results": [None]})

    async def _reset(self, request: web.Request) -> web.Response:
        return web.Response()
