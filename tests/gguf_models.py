"""Tiny models and tokenizers of the kinds that a GGUF file is written of."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

TEXTS = [
    "the rain in spain", "Items:\n\n1. one\n2. two  3", "  two  blanks\t tab ", "It's Hello-World, isn't it? 12345",
    "Stra\u00dfe \u00e9t\u00e9 \u4f60\u597d \U0001f600", "<|im_start|>user\nhi<|im_end|>\n", "\u00bd x 10 \n \n 7",
]  # fmt: skip
SIZES = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
LLAMA_3 = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
KINDS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "tied": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True, rope_theta=50000.0)),
    "wide heads": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, head_dim=16)),
    "llama 3": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=LLAMA_3)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SIZES, head_dim=8, sliding_window=128)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES)),
}
SPLITS = {
    "gpt-2": [pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "smollm": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)],
} | {
    name: [
        pre_tokenizers.Split(Regex(GGUF_PRE_TOKENIZER_SPLITS[name]), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    for name in ("qwen2", "llama-bpe")
}


def make(kind: str, folder: Path, tiny_model: Path) -> Any:
    """A random model of this kind with the tokenizer of `tiny_model`, saved; norms and biases are not all alike."""
    shutil.copytree(tiny_model, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    network = KINDS[kind]()
    for name, weight in network.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(weight, 0.5, 1.5)
        if name.endswith("bias"):
            torch.nn.init.normal_(weight)
    network.generation_config.eos_token_id = [2, 0]
    network.save_pretrained(folder)
    return network.eval()


def tokenizer(split: str, tiny_model: Path) -> Any:
    """A byte-level BPE that splits text this way before it merges, learned on `TEXTS`, with a token that is no end."""
    bpe = Tokenizer(models.BPE(ignore_merges=split == "llama-bpe"))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(SPLITS[split]) if len(SPLITS[split]) > 1 else SPLITS[split][0]
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    bpe.train_from_iterator(
        [text.replace("<|", "< |") for text in TEXTS] * 3,
        trainers.BpeTrainer(
            vocab_size=299, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )  # fmt: skip
    found = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=special[1], eos_token=special[2], pad_token=special[2], unk_token=special[0]
    )
    found.add_tokens(["<think>"])
    found.chat_template = AutoTokenizer.from_pretrained(tiny_model).chat_template
    return found
