"""A saved reward model gives the same rewards in the tools that people load it with."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import builtin_model
import pytest
import torch
import vllm_process
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Gemma2Config,
    Gemma3TextConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
    pipeline,
)

import starling
from starling import models

SAME = 1e-4  # the scores of this tiny model have a spread of about 5
WORDS = ("rain", "spain", "stays", "mainly", "plain", "what", "name", "river", "that", "runs", "through", "the", "town")


def turns(number: int) -> list[dict[str, str]]:
    """A conversation of one or three turns, with words repeated so that lengths differ much."""
    asked = [{"role": "user", "content": f"what is {WORDS[number % len(WORDS)]} {number}?"}]
    if number % 3 == 0:
        asked += [{"role": "assistant", "content": "the town"}, {"role": "user", "content": "say more\n\nplease"}]
    return asked


def answer(number: int) -> str:
    return " ".join(WORDS[(number * 5 + at) % len(WORDS)] for at in range(1 + number % 13))


PROMPTS = [turns(number) for number in range(32)]
ANSWERS = [answer(number) for number in range(32)]
CONVERSATIONS = [
    [*prompt, {"role": "assistant", "content": text}] for prompt, text in zip(PROMPTS, ANSWERS, strict=True)
]


def new_reward_model(base: Path | str, folder: Path) -> Path:
    """A reward model with a random head, saved."""
    with torch.random.fork_rng():
        torch.manual_seed(11)
        model = models.new_reward_model(str(base))
        torch.nn.init.normal_(model.network.score.weight, std=6 / model.network.config.hidden_size**0.5)
    models.save(model, folder)
    return folder


@pytest.fixture(scope="module")
def folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return new_reward_model(tiny_model, tmp_path_factory.mktemp("round") / "reward")


@pytest.fixture(scope="module")
def ours(folder: Path) -> list[float]:
    """What `starling score` says."""
    found = starling.load_reward_model(str(folder)).score(PROMPTS, [[text] for text in ANSWERS])
    rewards = [row[0] for row in found]
    assert torch.tensor(rewards).std() > 1
    return rewards


# transformers


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("batch", [1, 32])
def test_transformers_gives_the_same_rewards(folder: Path, ours: list[float], side: str, batch: int) -> None:
    assert by_transformers(folder, side, batch) == pytest.approx(ours, abs=SAME)


FAMILIES = {
    "mistral, a short window": (MistralConfig, {"sliding_window": 12}),
    "qwen 2": (Qwen2Config, {}),
    "qwen 3": (Qwen3Config, {"head_dim": 8}),
    "gemma 2, windows and caps": (Gemma2Config, {"head_dim": 8, "sliding_window": 12, "query_pre_attn_scalar": 8}),
    "gemma 3, windows": (Gemma3TextConfig, {"head_dim": 8, "sliding_window": 12, "query_pre_attn_scalar": 8}),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_every_family_gives_the_same_rewards(family: str, side: str, tiny_model: Path, tmp_path: Path) -> None:
    kind, settings = FAMILIES[family]
    config = kind(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.2, bos_token_id=1, eos_token_id=2,
        pad_token_id=2, **settings,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(7)
        network = AutoModelForCausalLM.from_config(config)
    models.save(models.Model(network, AutoTokenizer.from_pretrained(tiny_model)), tmp_path / "base")
    folder = new_reward_model(tmp_path / "base", tmp_path / "reward")
    rows = starling.load_reward_model(str(folder)).score(PROMPTS, [[text] for text in ANSWERS])
    ours = [row[0] for row in rows]
    assert torch.tensor(ours).std() > 0.5
    assert by_transformers(folder, side, 32) == pytest.approx(ours, abs=SAME)


def by_transformers(folder: Path, side: str, batch: int) -> list[float]:
    network = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side=side)
    found = []
    for start in range(0, 32, batch):
        inputs = tokenizer.apply_chat_template(
            CONVERSATIONS[start : start + batch], padding=True, return_tensors="pt", return_dict=True
        )
        assert batch == 1 or (inputs["attention_mask"] == 0).any()
        with torch.no_grad():
            found += network(**inputs).logits[:, 0].tolist()
    return found


def test_it_pads_on_the_right_unless_told(folder: Path) -> None:
    assert AutoTokenizer.from_pretrained(folder).padding_side == "right"


@pytest.mark.parametrize("batch", [1, 32])
def test_a_text_pipeline_gives_the_reward_itself(folder: Path, ours: list[float], batch: int) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [tokenizer.apply_chat_template(turns, tokenize=False) for turns in CONVERSATIONS]
    found = pipeline("text-classification", model=str(folder), device="cpu")(texts, batch_size=batch, padding=True)
    assert [one["score"] for one in found] == pytest.approx(ours, abs=SAME)
    assert {one["label"] for one in found} == {"reward"}


def test_a_base_whose_tokenizer_adds_tokens_scores_the_same_from_text(tiny_model: Path, tmp_path: Path) -> None:
    """Such as Llama's: the template writes the first token, and tokenising its text would write it again."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_bos_token = tokenizer.add_eos_token = True
    tokenizer.chat_template = "{{ bos_token }}" + tokenizer.chat_template
    network = models.load_policy(str(tiny_model), torch.float32).network
    models.save(models.Model(network, tokenizer), tmp_path / "base")
    assert AutoTokenizer.from_pretrained(tmp_path / "base")("rain").input_ids[0] == 1
    folder = new_reward_model(tmp_path / "base", tmp_path / "reward")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [tokenizer.apply_chat_template(turns, tokenize=False) for turns in CONVERSATIONS]
    assert tokenizer(texts).input_ids == tokenizer.apply_chat_template(CONVERSATIONS, return_dict=False)
    rewards = starling.load_reward_model(str(folder)).score(PROMPTS, [[text] for text in ANSWERS])
    found = pipeline("text-classification", model=str(folder), device="cpu")(texts, batch_size=8, padding=True)
    assert [one["score"] for one in found] == pytest.approx([row[0] for row in rewards], abs=SAME)


# TRL


@pytest.fixture(scope="module")
def trl() -> Any:
    return pytest.importorskip("trl", reason="trl is not installed: pip install '.[test]'")


def quiet(folder: Path) -> dict[str, Any]:
    """Settings of a trainer that only computes here."""
    return {"output_dir": str(folder), "use_cpu": True, "bf16": False, "report_to": "none", "disable_tqdm": True}


@pytest.mark.parametrize("trainer", ["GRPO", "RLOO"])
def test_trl_gives_a_policy_the_same_rewards(
    trl: Any, trainer: str, tiny_model: Path, folder: Path, ours: list[float], tmp_path: Path
) -> None:
    from datasets import Dataset

    settings = getattr(trl, f"{trainer}Config")(**quiet(tmp_path), per_device_train_batch_size=2, num_generations=2)
    rows = [{"prompt": prompt} for prompt in PROMPTS]
    found = getattr(trl, f"{trainer}Trainer")(
        model=str(tiny_model), reward_funcs=str(folder), args=settings, train_dataset=Dataset.from_list(rows)
    )
    given = [[{"role": "assistant", "content": text}] for text in ANSWERS]
    rewards = found._calculate_rewards(rows, PROMPTS, given, [[0]] * 32)
    assert rewards[:, 0].tolist() == pytest.approx(ours, abs=SAME)


def test_trls_reward_trainer_loads_it_and_finds_the_same_margin(
    trl: Any, folder: Path, ours: list[float], tmp_path: Path
) -> None:
    from datasets import Dataset

    rewards = starling.load_reward_model(str(folder)).score(PROMPTS, [["no"]] * 32)
    margins = [chosen - rejected[0] for chosen, rejected in zip(ours, rewards, strict=True)]
    rows = [
        {
            "prompt": prompt,
            "chosen": [{"role": "assistant", "content": text}],
            "rejected": [{"role": "assistant", "content": "no"}],
        }
        for prompt, text in zip(PROMPTS, ANSWERS, strict=True)
    ]
    data = Dataset.from_list(rows)
    settings = trl.RewardConfig(**quiet(tmp_path), per_device_eval_batch_size=8, max_length=512)
    trainer = trl.RewardTrainer(model=str(folder), args=settings, train_dataset=data, eval_dataset=data)
    found = trainer.evaluate()
    assert trainer.model.config.num_labels == 1
    assert found["eval_margin"] == pytest.approx(sum(margins) / 32, abs=SAME)
    assert found["eval_accuracy"] == pytest.approx(sum(margin > 0 for margin in margins) / 32)


# RewardBench, which pins transformers 4


READER = """
import json, sys, transformers
from rewardbench import REWARD_MODEL_CONFIG

folder, conversations = sys.argv[1], json.load(sys.stdin)
transformers.BatchEncoding.to = lambda self, device: self  # its pipeline is written for a GPU
how = REWARD_MODEL_CONFIG["default"]
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
tokenizer.padding_side = "left"  # as its script sets it
texts = [tokenizer.apply_chat_template(turns, tokenize=False) for turns in conversations]
read = how["pipeline_builder"]("text-classification", model=how["model_builder"](folder), tokenizer=tokenizer)
batches = [read(texts[at : at + 8], truncation=False, padding=True, max_length=512) for at in range(0, len(texts), 8)]
print(json.dumps([reward for batch in batches for reward in batch[:, 0].tolist()]))
"""


@pytest.mark.heavy
def test_rewardbench_gives_the_same_rewards(folder: Path, ours: list[float]) -> None:
    if "STARLING_REWARDBENCH" not in os.environ:
        pytest.skip("needs `rewardbench` in an environment of its own: set STARLING_REWARDBENCH to its python")
    told = subprocess.run(
        [os.environ["STARLING_REWARDBENCH"], "-c", READER, str(folder)],
        input=json.dumps(CONVERSATIONS), capture_output=True, text=True,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr[-2000:]
    assert json.loads(told.stdout.splitlines()[-1]) == pytest.approx(ours, abs=SAME)


# vLLM


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model on smollm2: the tiny model's attention heads are smaller than vLLM takes."""
    vllm_process.require()
    return new_reward_model(builtin_model.fetched(), tmp_path_factory.mktemp("real") / "reward")


@pytest.fixture(scope="module")
def real_rewards(real: Path) -> list[float]:
    """What `starling score` says of that one."""
    return [row[0] for row in starling.load_reward_model(str(real)).score(PROMPTS, [[text] for text in ANSWERS])]


@pytest.fixture(scope="module")
def vllm(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a vLLM server with that reward model listens."""
    log = tmp_path_factory.mktemp("vllm") / "log.txt"
    options = ["--runner", "pooling", "--dtype", "float32", "--served-model-name", "reward", "--max-model-len", "2048"]
    with vllm_process.serving(real, log, *options, wait_seconds=300) as url:
        yield url


@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_vllm_classifies_conversations_with_the_same_rewards(vllm: str, real_rewards: list[float]) -> None:
    found = [
        vllm_process.posted(f"{vllm}/classify", model="reward", messages=turns)["data"][0] for turns in CONVERSATIONS
    ]
    assert [one["probs"][0] for one in found] == pytest.approx(real_rewards, abs=SAME)
    assert {one["label"] for one in found} == {"reward"}


@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_vllm_classifies_texts_with_the_same_rewards(vllm: str, real: Path, real_rewards: list[float]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(real)
    texts = [tokenizer.apply_chat_template(turns, tokenize=False) for turns in CONVERSATIONS]
    found = vllm_process.posted(f"{vllm}/classify", model="reward", input=texts)["data"]
    assert [one["probs"][0] for one in found] == pytest.approx(real_rewards, abs=SAME)


@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_vllm_scores_prompt_and_answer_with_the_same_rewards(vllm: str, real: Path, real_rewards: list[float]) -> None:
    """`/score` joins two texts: the conversation that waits, and what the answer adds to it."""
    tokenizer = AutoTokenizer.from_pretrained(real)
    texts = [tokenizer.apply_chat_template(turns, tokenize=False) for turns in CONVERSATIONS]
    asked = [tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) for turns in PROMPTS]
    added = [text.removeprefix(prompt) for text, prompt in zip(texts, asked, strict=True)]
    found = vllm_process.posted(f"{vllm}/score", model="reward", text_1=asked, text_2=added)["data"]
    assert [one["score"] for one in found] == pytest.approx(real_rewards, abs=SAME)
