"""What every test stands on: fixed seeds, a cache of its own, no network, one thread, a tiny model."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CORPUS = ["the rain in spain stays mainly in the plain", "what is the name of the river that runs through the town"]
_scratch: list[str] = []


def pytest_configure(config: pytest.Config) -> None:
    """Before anything of Hugging Face is imported: it reads its environment then."""
    folder = tempfile.mkdtemp(prefix="starling-tests-")
    _scratch.append(folder)
    os.environ |= {
        "STARLING_CACHE": f"{folder}/starling",
        "HF_HOME": f"{folder}/huggingface",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    os.environ.pop("COLUMNS", None)  # a console that is made with it keeps that width whatever a test sets
    _take_a_core()
    torch.set_num_threads(1)
    settings.register_profile("starling", derandomize=True, database=None, deadline=None, max_examples=100)
    settings.load_profile("starling")


def _take_a_core() -> None:
    """Where tests run side by side, each process and all that it starts keep to one core: they would fight for two."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


def pytest_unconfigure(config: pytest.Config) -> None:
    for folder in _scratch:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def seed() -> int:
    """Every test starts from the same random state."""
    torch.manual_seed(20231128)
    return 20231128


@pytest.fixture(params=[True, False], ids=["bfloat16 products", "float32 products"])
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The dtype of matrix products on a processor that multiplies bfloat16, and on one that does not."""
    from starling import device

    monkeypatch.setattr(device, "_multiplies_bfloat16", lambda _kind: request.param)
    return torch.bfloat16 if request.param else torch.float32


@pytest.fixture
def float32_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor is one that multiplies bfloat16 no faster, whatever it is."""
    from starling import device

    monkeypatch.setattr(device, "_multiplies_bfloat16", lambda _kind: False)


@pytest.fixture
def bfloat16_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor is one that multiplies bfloat16, whatever it is."""
    from starling import device

    monkeypatch.setattr(device, "_multiplies_bfloat16", lambda _kind: True)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Any]:
    """The open ledger of a stage's calls."""
    from starling.ledger import Ledger

    with Ledger(tmp_path / "calls.sqlite", "rank") as opened:
        yield opened


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random four-layer Llama that reads and writes ChatML.

    As with `smollm2`, its tokenizer pads with the token that ends a turn. It stops at two ids.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from transformers.utils import logging

    folder = tmp_path_factory.mktemp("tiny")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )  # fmt: skip
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)

    with torch.random.fork_rng():
        torch.manual_seed(7)
        network = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
                num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.2, bos_token_id=1,
                eos_token_id=2, pad_token_id=2,
            )
        )  # fmt: skip
        for name, weight in network.named_parameters():
            if "norm" in name:  # all ones would hide a norm that is left out
                torch.nn.init.uniform_(weight, 0.5, 1.5)
    network.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=[2, 0], pad_token_id=2)
    logging.disable_progress_bar()
    network.save_pretrained(folder)
    return folder


@pytest.fixture
def reward_model(tiny_model: Path) -> Any:
    """A reward model of that size whose head is no longer zero."""
    from starling import models

    found = models.new_reward_model(str(tiny_model))
    torch.nn.init.normal_(found.network.score.weight)
    return found


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must fail with that exit code and one plain line; returns the line."""
    from starling import cli

    def run(code: int, *arguments: object) -> str:
        assert cli.main(list(map(str, arguments))) == code
        printed = capsys.readouterr()
        assert printed.err.startswith("error: ")
        assert printed.err.count("\n") == 1
        assert "Traceback" not in printed.out + printed.err
        return printed.err

    return run
