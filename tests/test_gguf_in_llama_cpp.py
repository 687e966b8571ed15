"""A real llama.cpp reads our GGUF files: same ids, same greedy tokens, same logprobs as transformers."""

import json
import urllib.request
from pathlib import Path
from typing import Any

import builtin_model
import gguf_models
import pytest
import torch
from llama_server import serving
from transformers import AutoModelForCausalLM, AutoTokenizer

from starling import chat, gguf_file, models
from starling.records import Message

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(600)]
PROMPTS = [
    "What is the capital of France?", "Name three colours.\n\n1. Red\n2.", "Why is the sky blue?",
    "Write one sentence about a cat called \u00c9lo\u00efse.", "What is  12 + 30?",
]  # fmt: skip
NEW_TOKENS = 24
ROUNDED = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def asked(url: str, path: str, **body: Any) -> Any:
    request = urllib.request.Request(
        url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=300) as reply:
        return json.load(reply)


def continued(url: str, ids: list[int], tokens: int) -> tuple[list[int], list[dict[int, float]]]:
    """llama.cpp's greedy tokens after `ids`, and the ten highest logprobs before each.

    Asked for one by one; where a token ends within a character the server gives no logprobs.
    """
    chosen: list[int] = []
    tops: list[dict[int, float]] = []
    for _ in range(tokens):
        reply = asked(
            url, "/completion", prompt=ids + chosen, n_predict=1, temperature=0.0, n_probs=10, samplers=["top_k"],
            top_k=1, ignore_eos=False, return_tokens=True,
        )  # fmt: skip
        (step,) = reply.get("completion_probabilities") or ({"top_logprobs": []},)
        chosen += reply["tokens"]
        tops.append({top["id"]: top["logprob"] for top in step["top_logprobs"]})
    return chosen, tops


@torch.inference_mode()
def logprobs(network: Any, ids: list[int]) -> torch.Tensor:
    return network(torch.tensor([ids])).logits[0].float().log_softmax(-1)


def compare(network: Any, url: str, ids: list[int], tokens: int, close: float) -> float:
    """Hold llama.cpp's tokens and logprobs against the network's own after the same ids; the largest difference."""
    chosen, tops = continued(url, ids, tokens)
    assert len(chosen) == tokens
    assert sum(len(top) == 10 for top in tops) >= tokens / 2
    found = logprobs(network, ids + chosen)[len(ids) - 1 : -1]
    largest = max(
        abs(float(row[index]) - logprob) for row, top in zip(found, tops, strict=True) for index, logprob in top.items()
    )
    assert largest < close
    for row, token in zip(found, chosen, strict=True):
        best = int(row.argmax())
        assert token == best or row[best] - row[token] < close  # a draw within rounding
    return largest


@pytest.fixture(scope="module")
def smollm2() -> str:
    return builtin_model.fetched()


@pytest.fixture(scope="module")
def tuned(smollm2: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return builtin_model.tuned(tmp_path_factory.mktemp("tuned"))


@pytest.mark.parametrize(
    ("model", "dtype", "close"),
    [("smollm2", "f32", 0.001), ("smollm2", "bf16", 0.3), ("smollm2", "f16", 0.05), ("tuned", "f32", 0.001)],
)
def test_the_built_in_model_answers_the_same_in_llama_cpp_before_and_after_tuning(
    model: str, dtype: Any, close: float, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(model)
    gguf_file.export(Path(folder), tmp_path / "m.gguf", dtype, "other")
    tokenizer = models.load_tokenizer(folder)
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        for weight in network.parameters():  # as in the file; what is left is llama.cpp's rounding of activations
            weight.copy_(weight.to(ROUNDED[dtype]) if weight.dim() > 1 else weight)
    with serving(tmp_path / "m.gguf", tmp_path / "noise.txt", exact=True) as url:
        for text in [*gguf_models.TEXTS, *PROMPTS]:
            wanted = tokenizer(text, add_special_tokens=False).input_ids
            assert asked(url, "/tokenize", content=text, add_special=True, parse_special=True)["tokens"] == wanted, text
        for prompt in PROMPTS:
            message = Message(role="user", content=prompt)
            ids = list(chat.prompt_ids(tokenizer, [message]))
            rendered = asked(url, "/apply-template", messages=[message])["prompt"]
            assert asked(url, "/tokenize", content=rendered, parse_special=True)["tokens"] == ids
            print(dtype, f"{compare(network, url, ids, NEW_TOKENS, close):.5f}", prompt)
            if dtype == "f32":
                greedy = network.generate(
                    torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), do_sample=False,
                    temperature=None, top_p=None, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS,
                )  # fmt: skip
                chosen, _ = continued(url, ids, NEW_TOKENS)
                end = next((at for at, token in enumerate(chosen) if token == tokenizer.eos_token_id), NEW_TOKENS)
                assert chosen[:end] == greedy[0, len(ids) :].tolist()[:end]


@pytest.mark.parametrize("kind", gguf_models.KINDS)
def test_every_kind_of_network_gives_the_same_logprobs(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    network = gguf_models.make(kind, tmp_path / "model", tiny_model)
    gguf_file.export(tmp_path / "model", tmp_path / "m.gguf", "f32", "other")
    ids = torch.randint(3, 300, (90,)).tolist()  # past the 64 positions of `llama 3`, within the window of `mistral`
    with serving(tmp_path / "m.gguf", tmp_path / "noise.txt", context=512, exact=True) as url:
        print(kind, f"{compare(network, url, ids, 16, 0.001):.5f}")


@pytest.mark.parametrize("split", gguf_models.SPLITS)
def test_every_way_to_split_text_gives_the_same_ids(split: str, tiny_model: Path, tmp_path: Path) -> None:
    gguf_models.make("llama", tmp_path / "model", tiny_model)
    gguf_models.tokenizer(split, tiny_model).save_pretrained(tmp_path / "model")
    facts = gguf_file.export(tmp_path / "model", tmp_path / "m.gguf", "f16", "other")
    assert facts["pre_tokenizer"] == split
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    with serving(tmp_path / "m.gguf", tmp_path / "noise.txt", context=512) as url:
        for text in [*gguf_models.TEXTS, *PROMPTS, "a <think> b<think>"]:
            found = asked(url, "/tokenize", content=text, add_special=True, parse_special=True)["tokens"]
            assert found == tokenizer(text).input_ids, text
