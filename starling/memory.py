"""What `tune` will take of memory, and what the machine has."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, PretrainedConfig

from starling import algorithms, decoder_parts, device, models, slots
from starling.config import Config
from starling.heads import ValueHead, has_linear_logits
from starling.losses.logprobs import ROWS
from starling.tune_settings import as_read

PROGRAM = 600 * 2**20  # Python with PyTorch and transformers, before any model
PROMPT_TOKENS = 256  # of a prompt in the cache of keys and values; what prompts there are is not known yet
ANSWERS = 7  # that a source brings to a prompt, where none are sampled; how many it has is not known yet
SLOTS = 64  # answers under way at once
# Where Linux tells of a container's memory, in its newer form and its older: folder, limit, use, reclaimable cache.
_CONTAINERS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


class RankingTokens(NamedTuple):
    """Of prompts with their ranked answers: the mean and the most."""

    mean: float
    most: int


def of_tune(
    config: Config,
    network: PretrainedConfig,
    rankings: RankingTokens | None = None,
    reward_model: PretrainedConfig | None = None,
    judges: Sequence[tuple[PretrainedConfig, bool]] = (),
) -> dict[str, int]:
    """Bytes of each part at the fullest moment: an update, with all that stays in memory beside it.

    n trained blocks of W weights: trained, gradient and AdamW's two moments 16 W, the best weights so far 4 W, all
    float32; in bfloat16 the reference 2 W, 4 W where LoRA shares it, and with LoRA or overlap 2 W for copies that
    an update multiplies with; where products are in float32 the reference 4 W and no copies. Policy and reward
    model have 2 or 4 bytes a weight by that, too. The rest follows from tokens: activations of the trained blocks
    of a microbatch, or of the largest group of answers where that is more; logits of some rows; features of the
    warm-up and of a step; keys and values of the answers under way. With LoRA what is trained are the adapters.
    Without `rankings` all ranked answers reach `sample.max_new_tokens`; without `reward_model` it is as large as the
    policy. `judges` are the models in this process that look at the steps, and whether each is a reward model, which
    judges in float32.
    """
    cfg, algorithm = as_read(config.tune), algorithms.chosen(config.tune)
    model = models.without_weights(network)
    whole, top, adapters = _weights(model, cfg.layers, cfg.lora_rank)
    trained = adapters if cfg.lora_rank else top
    hidden, blocks = network.hidden_size, cfg.layers or network.num_hidden_layers
    keys = math.prod(slots.key_shape(network))
    active = 28 * hidden + 8 * network.intermediate_size + 4 * keys  # bytes a token and block, as autograd keeps them
    critic = _critic(hidden) if algorithm.critic else 0
    rewarded = algorithm.online and any(reward.name == "model" for reward in cfg.rewards)
    answers = config.sample.answers or len(config.sample.generators) or ANSWERS
    longest = PROMPT_TOKENS + answers * config.sample.max_new_tokens
    mean, most = rankings or RankingTokens(longest, longest)
    kept = cfg.warm_up_prompts if cfg.critic_epochs else min(cfg.warm_up_prompts, cfg.ranked_prompts)
    warm_up = round(kept * mean)
    fresh = cfg.rollouts_per_prompt * cfg.max_new_tokens + PROMPT_TOKENS if cfg.steps else 0
    microbatch = max(cfg.microbatch_tokens, fresh, most if cfg.ranked_prompts else 0)
    a_step = cfg.prompts_per_step * max(fresh, round(mean) if cfg.ranked_prompts else 0)
    keeps_states = cfg.steps > 0 and cfg.layers > 0 and not (cfg.overlap or cfg.sampler)
    an_answer = PROMPT_TOKENS + cfg.max_new_tokens if keeps_states else 0  # each one with its prompt
    sampled = cfg.prompts_per_step * cfg.rollouts_per_prompt * an_answer
    answer_tokens = max(cfg.max_new_tokens if algorithm.online else 0, config.evaluate.answer_tokens)
    size = device.product_dtype().itemsize
    reference = 4 if cfg.lora_rank else size
    copies = 2 if size == 2 and (cfg.lora_rank or cfg.overlap) else 0
    cached = SLOTS * (PROMPT_TOKENS + answer_tokens)
    return {
        "program": PROGRAM,
        "policy": size * whole,
        "trained weights, gradient, AdamW": 16 * trained,
        "reference, best weights, copies": (reference + copies) * top + 4 * trained,
        "reward model": size * (_whole(reward_model) if reward_model else whole) if rewarded else 0,
        "judges": sum(
            4 * _whole(judge) if by_reward else size * _whole(judge, head=True) for judge, by_reward in judges
        ),
        "critic": 16 * critic,
        "activations of a microbatch": microbatch * active * blocks,
        "logits": (ROWS * (4 + size) if has_linear_logits(model) else 4 * microbatch) * network.vocab_size,
        "features of the warm-up": warm_up * (size + 4) * hidden,
        "features of a step": a_step * (size + 4) * hidden,
        "trunk states from sampling": sampled * size * hidden,
        "keys and values while sampling": cached * network.num_hidden_layers * keys * 2 * size,
    }


def available() -> tuple[int, int] | None:
    """Free bytes and all bytes of the GPU where there is one, else those that this process may have, with the limit of
    its container; None where unknown."""
    if device.default().type == "cuda":
        return torch.cuda.mem_get_info()
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return None
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    free, total = (int(lines[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    for folder, limit, used, cache in _CONTAINERS:
        if (
            (folder / limit).exists()
            and (folder / used).exists()
            and (most := (folder / limit).read_text().strip()) != "max"
        ):
            total = min(total, int(most))
            free = min(
                free, max(int(most) - int((folder / used).read_text()) + _cached(folder / "memory.stat", cache), 0)
            )
    return free, total


def _cached(stat: Path, name: str) -> int:
    """Bytes of files that a container holds in memory and gives back when it needs them."""
    counts = dict(line.split() for line in stat.read_text().splitlines()) if stat.exists() else {}
    return int(counts.get(name, 0))


def said(parts: Mapping[str, int]) -> str:
    """The sum and its largest parts in words."""
    largest = sorted(parts, key=parts.__getitem__, reverse=True)[:3]
    return f"{gib(sum(parts.values()))} ({', '.join(f'{name} {gib(parts[name])}' for name in largest)}, ...)"


def gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _whole(network: PretrainedConfig, *, head: bool = False) -> int:
    """All weights of a model, with the head that writes or below it."""
    built = models.without_weights(network, AutoModelForCausalLM if head else AutoModel)
    return sum(weight.numel() for weight in built.parameters())


def _weights(model: Any, layers: int, rank: int) -> tuple[int, int, int]:
    """Weights of the whole model, of its last `layers` blocks (0 = all) with the final norm, and of LoRA adapters of
    this rank on those blocks."""
    decoder = model.get_decoder()
    blocks = decoder_parts.last_blocks(decoder, layers, "tune.layers")
    norm = decoder_parts.final_norm(decoder, "tune.layers")
    top = [weight.numel() for part in (*blocks, norm) for weight in part.parameters()]
    linear = [part for block in blocks for part in block.modules() if isinstance(part, nn.Linear)]
    adapters = sum(rank * (part.in_features + part.out_features) for part in linear)
    return sum(weight.numel() for weight in model.parameters()), sum(top), adapters


def _critic(hidden: int) -> int:
    """Weights of the critic."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return sum(weight.numel() for weight in ValueHead(hidden).parameters())
