"""What tune takes of memory."""

from pathlib import Path

import pytest
import torch
from small_road import recipe
from transformers import GPTNeoXConfig, LlamaConfig

from starling import config, decoder_parts, device, findings, memory, models
from starling.errors import ModelError
from starling.losses.logprobs import ROWS
from starling.policy import Policy


def test_weights_are_counted_as_the_policy_holds_them(tiny_model: Path, tmp_path: Path) -> None:
    network = models.load_config(str(tiny_model))
    policy = Policy(models.load_policy(str(tiny_model)), 2)
    for layers in (2, 0):
        top = decoder_parts.top_of(policy.network.get_decoder(), layers)
        counted = [sum(weight.numel() for weight in part.parameters()) for part in (policy.network, top)]
        settings = config.load(recipe(tmp_path / str(layers), tiny_model, tune__layers=layers))
        parts = memory.of_tune(settings, network)
        assert parts["policy"] == policy.network.dtype.itemsize * counted[0]
        assert parts["trained weights, gradient, AdamW"] == 16 * counted[1]  # four float32 numbers a weight
    assert parts["critic"] == 16 * sum(weight.numel() for weight in policy.critic.parameters())


def test_what_cannot_be_trained_is_told_and_not_counted(tiny_model: Path, tmp_path: Path) -> None:
    settings = config.load(recipe(tmp_path, tiny_model, tune__layers=5))
    with pytest.raises(ModelError, match=r"^tune\.layers = 5: the model has 4 blocks"):
        memory.of_tune(settings, models.load_config(str(tiny_model)))
    other = GPTNeoXConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    with pytest.raises(ModelError, match=r"^tune\.layers: GPTNeoXModel has no part called `norm`"):
        memory.of_tune(config.load(recipe(tmp_path, tiny_model)), other)


def test_what_is_not_needed_takes_nothing(tiny_model: Path, tmp_path: Path) -> None:
    network = models.load_config(str(tiny_model))
    parts = memory.of_tune(config.load(recipe(tmp_path, tiny_model, tune__algorithm="dpo")), network)
    assert (parts["critic"], parts["reward model"], parts["trunk states from sampling"]) == (0, 0, 0)
    # of 4 ranked prompts with 3 answers of at most 16 tokens a state of the trunk is kept, and one in float32
    bytes_a_token = (device.product_dtype().itemsize + 4) * network.hidden_size
    assert parts["features of the warm-up"] == 4 * (memory.PROMPT_TOKENS + 3 * 16) * bytes_a_token
    fresh = memory.of_tune(config.load(recipe(tmp_path, tiny_model, tune__algorithm="grpo")), network)
    assert fresh["features of the warm-up"] == 0
    # a step's 4 prompts with 2 answers of at most 8 tokens
    assert fresh["features of a step"] == 4 * (memory.PROMPT_TOKENS + 2 * 8) * bytes_a_token
    # each of 8 answers has its prompt's states too
    assert fresh["trunk states from sampling"] == 8 * (memory.PROMPT_TOKENS + 8) * device.product_dtype().itemsize * 32
    assert fresh["logits"] == ROWS * (4 + device.product_dtype().itemsize) * network.vocab_size


def test_a_group_that_is_larger_than_a_microbatch_counts_whole(tiny_model: Path, tmp_path: Path) -> None:
    network = models.load_config(str(tiny_model))

    def active(tokens: int) -> int:
        changes = {"tune__microbatch_tokens": 64, "tune__rollouts_per_prompt": 16, "tune__max_new_tokens": tokens}
        parts = memory.of_tune(config.load(recipe(tmp_path / str(tokens), tiny_model, **changes)), network)
        return parts["activations of a microbatch"]

    assert active(100) / active(10) == (memory.PROMPT_TOKENS + 1600) / (memory.PROMPT_TOKENS + 160)


@pytest.mark.parametrize(("algorithm", "larger"), [("apa", True), ("ppo", False)])
def test_the_longest_ranking_counts_where_blocks_learn_from_ranked_answers(
    tiny_model: Path, tmp_path: Path, algorithm: str, larger: bool
) -> None:
    settings = config.load(recipe(tmp_path, tiny_model, tune__algorithm=algorithm, tune__microbatch_tokens=2048))
    network = models.load_config(str(tiny_model))
    short, long = (
        memory.of_tune(settings, network, memory.RankingTokens(100, most))["activations of a microbatch"]
        for most in (200, 4096)
    )
    assert long == (2 * short if larger else short)


def test_judges_in_this_process_count_with_their_weights(tiny_model: Path, tmp_path: Path) -> None:
    network = models.load_config(str(tiny_model))
    settings = config.load(recipe(tmp_path / "by-program", tiny_model))
    assert memory.of_tune(settings, network)["judges"] == 0
    policy = models.load_policy(str(tiny_model)).network
    body, whole = (sum(weight.numel() for weight in part.parameters()) for part in (policy.base_model, policy))
    both = memory.of_tune(settings, network, judges=[(network, True), (network, False)])
    assert both["judges"] == 4 * body + device.product_dtype().itemsize * whole
    asked = config.load(recipe(tmp_path / "by-model", tiny_model, rank__judge=str(tiny_model)))
    found = findings.of_memory(asked).figures["parts"]
    assert found["judges"] == device.product_dtype().itemsize * whole


def test_a_reward_model_of_another_size_counts_as_it_is(tiny_model: Path, tmp_path: Path) -> None:
    network, other = models.load_config(str(tiny_model)), models.load_config(str(tiny_model))
    other.num_hidden_layers = 9
    settings = config.load(recipe(tmp_path, tiny_model))
    parts = memory.of_tune(settings, network, None, other)
    size = device.product_dtype().itemsize
    block = sum(weight.numel() for weight in models.load_policy(str(tiny_model)).network.model.layers[0].parameters())
    same = memory.of_tune(settings, network, None, network)["reward model"]
    assert parts["reward model"] - same == 5 * size * block


def test_ranked_answers_of_unknown_length_only_warn(tiny_model: Path, tmp_path: Path) -> None:
    settings = config.load(recipe(tmp_path, tiny_model, sample__max_new_tokens=10**10, sample__token_budget=0))
    assert findings.of_memory(settings).state == "warn"
    assert findings.of_memory(settings, memory.RankingTokens(100, 10**10)).state == "stop"
    assert findings.of_memory(settings, memory.RankingTokens(100, 100)).state == "ok"


def test_the_warm_up_is_counted_where_its_answers_are_known_and_never_nothing(tiny_model: Path, tmp_path: Path) -> None:
    network = models.load_config(str(tiny_model))
    settings = config.load(recipe(tmp_path, tiny_model, tune__algorithm="dpo"))
    brought = settings.model_copy(update={"sample": settings.sample.model_copy(update={"generators": ()})})
    bytes_a_token = (device.product_dtype().itemsize + 4) * network.hidden_size
    known = memory.RankingTokens(300.5, 400)
    for rankings, expected in ((None, memory.PROMPT_TOKENS + memory.ANSWERS * 16), (known, 300.5)):
        assert memory.of_tune(brought, network, rankings)["features of the warm-up"] == 4 * expected * bytes_a_token


@pytest.mark.parametrize(
    ("folder", "limit", "used", "cache"), [part[:4] for part in memory._CONTAINERS], ids=["cgroup 2", "cgroup 1"]
)
def test_files_that_a_container_gives_back_are_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path, limit: str, used: str, cache: str
) -> None:
    (tmp_path / limit).write_text(f"{2**20}\n")
    (tmp_path / used).write_text(f"{2**20 - 1000}\n")
    monkeypatch.setattr(memory, "_CONTAINERS", [(tmp_path, limit, used, cache)])
    assert memory.available() == (1000, 2**20)
    (tmp_path / "memory.stat").write_text(f"anon 5\n{cache} 700\n")
    assert memory.available() == (1700, 2**20)


def test_more_tokens_and_more_layers_take_more(tiny_model: Path, tmp_path: Path) -> None:
    network = models.load_config(str(tiny_model))

    def active(name: str, **changes: int) -> int:
        parts = memory.of_tune(config.load(recipe(tmp_path / name, tiny_model, **changes)), network)
        return parts["activations of a microbatch"]

    assert active("b", tune__microbatch_tokens=4096) == 2 * active("a", tune__microbatch_tokens=2048)
    assert active("c", tune__layers=0) > active("d", tune__layers=1)


@pytest.mark.usefixtures("bfloat16_products")
def test_the_recipe_for_one_gpu_is_estimated_to_fit_24_gib() -> None:
    smollm2_17b = LlamaConfig(
        vocab_size=49152, hidden_size=2048, intermediate_size=8192, num_hidden_layers=24, num_attention_heads=32,
        num_key_value_heads=32, tie_word_embeddings=True,
    )  # fmt: skip
    settings = config.load(config.find_recipe("one-gpu"))
    assert settings.run.model == "HuggingFaceTB/SmolLM2-1.7B-Instruct"
    assert 20 < sum(memory.of_tune(settings, smollm2_17b).values()) / 2**30 < 23


def test_the_estimate_leaves_the_random_state_alone(tiny_model: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    memory.of_tune(config.load(recipe(tmp_path, tiny_model)), models.load_config(str(tiny_model)))
    assert torch.equal(torch.get_rng_state(), before)


def test_what_no_memory_of_the_machine_holds_stops(tiny_model: Path, tmp_path: Path) -> None:
    assert findings.of_memory(config.load(recipe(tmp_path / "small", tiny_model))).state == "ok"
    large = config.load(recipe(tmp_path / "large", tiny_model, tune__microbatch_tokens=10**12))
    assert findings.of_memory(large).state == "stop"
    assert findings.of_memory(large).fix.endswith(
        f"lower tune.layers ({large.tune.layers}) or set tune.lora_rank, or take a smaller model"
    )
    whole = config.load(recipe(tmp_path / "whole", tiny_model, tune__microbatch_tokens=10**12, tune__layers=0))
    assert "set tune.layers (now all) or set tune.lora_rank" in findings.of_memory(whole).fix


@pytest.mark.parametrize(
    ("change", "lower"),
    [
        ({"tune__microbatch_tokens": 10**9}, "tune.microbatch_tokens (1,000,000,000; all answers to a prompt stay"),
        ({"tune__prompts_per_step": 10**9}, "tune.prompts_per_step (1,000,000,000)"),
        ({"tune__warm_up_prompts": 10**9}, "tune.warm_up_prompts (1,000,000,000)"),
        ({"evaluate__answer_tokens": 10**9}, "tune.max_new_tokens (8) and evaluate.answer_tokens (1,000,000,000)"),
    ],
)
def test_what_takes_most_is_what_should_be_lowered(change: dict, lower: str, tiny_model: Path, tmp_path: Path) -> None:
    assert findings.of_memory(config.load(recipe(tmp_path, tiny_model, **change))).fix.startswith(f"lower {lower}")


def test_where_there_is_a_gpu_its_memory_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "default", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (5, 8))
    assert memory.available() == (5, 8)


def test_sizes_are_read_by_people() -> None:
    assert memory.gib(3 * 2**29) == "1.5 GiB"
    assert memory.said({"a": 2**30, "b": 2**31}) == "3.0 GiB (b 2.0 GiB, a 1.0 GiB, ...)"


def test_with_lora_only_the_adapters_are_trained(tiny_model: Path, tmp_path: Path) -> None:
    # Two blocks with q, o: 32 -> 32, k, v: 32 -> 16, gate, up: 32 -> 64, down: 64 -> 32, each rank * (in + out):
    # 2 * 4 * (2 * 64 + 2 * 48 + 3 * 96) = 4096
    settings = config.load(recipe(tmp_path, tiny_model, tune__layers=2, tune__lora_rank=4))
    parts = memory.of_tune(settings, models.load_config(str(tiny_model)))
    assert parts["trained weights, gradient, AdamW"] == 16 * 4096
