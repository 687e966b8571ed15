"""A real vLLM serves what `tune` leaves: the same ids, greedy tokens and logprobs as in transformers."""

from pathlib import Path
from typing import Any

import builtin_model
import pytest
import torch
import vllm_process
from transformers import AutoModelForCausalLM

from starling import chat, models
from starling.records import Message

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(1200)]
PROMPTS = [
    "What is the capital of France?",
    "Why is the sky blue?",
    "Write a line about a cat called \u00c9lo\u00efse.",
]
NEW_TOKENS = 24
CLOSE = 0.001


def answered(url: str, prompt: str) -> Any:
    """vLLM's greedy answer to a message, with the ids of both and the logprob of each token."""
    return vllm_process.posted(
        f"{url}/v1/chat/completions", model="tuned", messages=[{"role": "user", "content": prompt}], temperature=0.0,
        max_tokens=NEW_TOKENS, logprobs=True, return_token_ids=True,
    )  # fmt: skip


def test_the_tuned_policy_answers_in_vllm_as_in_transformers(tmp_path: Path) -> None:
    vllm_process.require()
    folder = builtin_model.tuned(tmp_path / "tuned")
    tokenizer = models.load_tokenizer(folder)
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    options = ["--dtype", "float32", "--served-model-name", "tuned", "--max-model-len", "1024"]
    with vllm_process.serving(folder, tmp_path / "noise.txt", *options, wait_seconds=900) as url:
        replies = [answered(url, prompt) for prompt in PROMPTS]
    for prompt, reply in zip(PROMPTS, replies, strict=True):
        ids = list(chat.prompt_ids(tokenizer, [Message(role="user", content=prompt)]))
        assert reply["prompt_token_ids"] == ids
        (choice,) = reply["choices"]
        chosen = choice["token_ids"]
        told = torch.tensor([one["logprob"] for one in choice["logprobs"]["content"]])
        with torch.inference_mode():
            logits_LV = network(torch.tensor([ids + chosen])).logits[0, len(ids) - 1 : -1]
        logprobs_LV = logits_LV.log_softmax(-1)
        ours = logprobs_LV.gather(1, torch.tensor(chosen)[:, None])[:, 0]
        print(f"{(ours - told).abs().max():.6f}", prompt)
        torch.testing.assert_close(ours, told, atol=CLOSE, rtol=0)
        assert (logprobs_LV.max(-1).values - ours).max() < CLOSE  # the likeliest token, or a draw within rounding
