"""One way to take a step of GRPO, or only to sample for it, measured: started by tune_speed.py in a process of its own.

    python benchmarks/tune_contenders.py FOLDER '{"contender": "trl", "layers": 0, "prompts": 16, ...}'

prints one line of JSON: seconds of each step and of its sampling, tokens, peak memory. All answer the same prompts,
four answers each, every answer of exactly 128 tokens, with the same reward (a function of the text that costs nothing),
and train the same blocks; embeddings and head stay.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from speed_runs import peak_gigabytes, threads

from starling import builtin, data_files
from starling.records import Message, Prompt

ANSWERS, NEW_TOKENS = 4, 128
LEARNING_RATE = 1e-5
Found = dict[str, Any]


def reward(prompts: Sequence[Any], texts: Sequence[str], finished: Sequence[bool]) -> list[float]:
    """The share of an answer's characters that are vowels."""
    return [sum(text.count(vowel) for vowel in "aeiou") / max(len(text), 1) for text in texts]


def questions(count: int) -> list[str]:
    """Prompts of one turn from the set that comes with Starling, one a family."""
    rows = data_files.read_rows(Path(data_files.__file__).parent / "data" / "train.jsonl")
    first_of = {row["family"]: row["messages"][0]["content"] for row in reversed(rows) if len(row["messages"]) == 1}
    return list(first_of.values())[:count]


def trl(spec: Found) -> Found:
    """TRL's GRPOTrainer; a step is gradient accumulation over microbatches of `batch` answers."""
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    network = _causal(spec["precision"])
    _freeze(network, spec["layers"])
    seconds, sampling = [], []

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            self.start = time.perf_counter()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            seconds.append(time.perf_counter() - self.start)

    answers = spec["prompts"] * ANSWERS
    with tempfile.TemporaryDirectory() as output:
        settings = GRPOConfig(
            output_dir=output,
            per_device_train_batch_size=spec["batch"],
            gradient_accumulation_steps=answers // spec["batch"],
            num_generations=ANSWERS,
            max_completion_length=NEW_TOKENS,
            generation_kwargs={"min_new_tokens": NEW_TOKENS},
            max_steps=spec["steps"],
            learning_rate=LEARNING_RATE,
            bf16=spec["precision"] == "autocast",
            gradient_checkpointing=False,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        rows = [{"prompt": [{"role": "user", "content": text}]} for text in questions(spec["prompts"])]
        trainer = GRPOTrainer(
            model=network,
            args=settings,
            train_dataset=Dataset.from_list(rows),
            reward_funcs=lambda prompts, completions, **_: reward(prompts, [c[0]["content"] for c in completions], []),
            processing_class=AutoTokenizer.from_pretrained(builtin.path(), padding_side="left"),
            callbacks=[Clock()],
        )
        network.generate = _timed(network.generate, sampling)
        trainer.train()
        tokens = [entry["completions/mean_length"] for entry in trainer.state.log_history if "loss" in entry]
    return {"seconds": seconds, "sampling_seconds": sampling, "tokens_an_answer": tokens[-1]}


def starling(spec: Found) -> Found:
    """The loop of `starling tune`; `batch` is the packed tokens of a microbatch."""
    from starling import config, device, models, rewards
    from starling.loop import Loop
    from starling.metrics import Recorder
    from starling.policy import Policy

    device.setup(threads(), 0)
    settings = {
        "algorithm": "grpo", "layers": spec["layers"], "prompts_per_step": spec["prompts"], "updates_per_step": 1,
        "rollouts_per_prompt": ANSWERS, "max_new_tokens": NEW_TOKENS, "microbatch_tokens": spec["batch"],
        "kl_coef": 0.0, "learning_rate": LEARNING_RATE, "token_budget": 0,
        "steps": spec["steps"] + 1,  # the last one would be followed by a look
        "validate_every": 1_000_000, "rewards": "tune_contenders:reward",
    }  # fmt: skip
    recipe = config.load(config.find_recipe(config.DEFAULT_RECIPE), None)
    cfg = recipe.model_copy(update={"tune": config.TuneTable(**settings)})
    policy = Policy(models.load_policy("smollm2"), cfg.tune.layers, cfg.tune.temperature)
    policy.network.generation_config.eos_token_id = None  # every answer is as long as it may be
    asked = [
        Prompt(id=str(number), messages=[Message(role="user", content=text)])
        for number, text in enumerate(questions(spec["prompts"]))
    ]
    scored = rewards.make(cfg.tune.rewards, None, None, cfg.tune.microbatch_tokens)
    seconds: list[float] = []
    sampling: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop(cfg, policy, scored, asked, _rankings(asked), None, Recorder(Path(folder) / "m.jsonl", "tune"))
        loop._sample = _timed(loop._sample, sampling)
        step = _timed(loop.take_step, seconds)
        for _ in range(spec["steps"]):
            step(lambda count, note="": None)
    return {"seconds": seconds, "sampling_seconds": sampling, "tokens_an_answer": NEW_TOKENS}


def generate(spec: Found) -> Found:
    """`generate` of transformers, `batch` answers at a time."""
    from transformers import AutoTokenizer

    network = _causal(spec["precision"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(builtin.path(), padding_side="left")
    texts = [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
        for text in questions(spec["prompts"])
        for _ in range(ANSWERS)
    ]
    seconds: list[float] = []

    @torch.inference_mode()
    def answer() -> None:
        for at in range(0, len(texts), spec["batch"]):
            ids = tokenizer(texts[at : at + spec["batch"]], return_tensors="pt", padding=True, add_special_tokens=False)
            network.generate(**ids, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=True,
                             temperature=1.0, top_p=1.0)  # fmt: skip

    timed = _timed(answer, seconds)
    for _ in range(spec["steps"]):
        timed()
    return {"seconds": seconds, "sampling_seconds": seconds, "tokens_an_answer": NEW_TOKENS}


def vllm(spec: Found) -> Found:
    """A vLLM server that serves `smollm2` at `url`, asked for all answers at once as `tune.sampler` does."""
    from starling import chat, models
    from starling.distributed.vllm import Server
    from starling.generate import Request

    tokenizer = models.load_tokenizer("smollm2")
    requests = [
        Request(prompt=chat.prompt_ids(tokenizer, [Message(role="user", content=text)]), seed=seed)
        for text in questions(spec["prompts"])
        for seed in range(ANSWERS)
    ]
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        server = Server(spec["url"], Path(folder), models.resolve("smollm2"))
        sample = _timed(server.generate, seconds)
        for _ in range(spec["steps"]):
            found = sample(requests, max_new_tokens=NEW_TOKENS, stop=frozenset())
    lengths = {len(answer.ids) for answer in found}
    assert lengths == {NEW_TOKENS}, f"answers of {sorted(lengths)} tokens"
    return {"seconds": seconds, "sampling_seconds": seconds, "tokens_an_answer": NEW_TOKENS}


def _rankings(asked: Sequence[Prompt]) -> list[Any]:
    """One ranking, from which nothing is learnt: the loop wants to see one."""
    from starling.tables import ranking_from_row

    answers = [{"answer": "yes", "rank": 1.0}, {"answer": "no", "rank": 2.0}]
    found = ranking_from_row({"prompt": asked[0].messages[0]["content"], "answers": answers}, "row")
    return [replace(found, prompt_id=asked[0].id)]


def _causal(precision: str) -> Any:
    from transformers import AutoModelForCausalLM

    dtype = torch.bfloat16 if precision == "bf16 weights" else torch.float32
    return AutoModelForCausalLM.from_pretrained(builtin.path(), dtype=dtype)


def _freeze(network: Any, layers: int) -> None:
    """Leave the last `layers` blocks, all where that is 0, and the final norm to be trained."""
    network.requires_grad_(False)
    for part in [*network.model.layers[-layers:], network.model.norm]:
        part.requires_grad_(True)


def _timed(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    def called(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        found = function(*args, **kwargs)
        seconds.append(time.perf_counter() - start)
        return found

    return called


CONTENDERS: dict[str, Callable[[Found], Found]] = {
    "trl": trl,
    "starling": starling,
    "generate": generate,
    "vllm": vllm,
}


def main() -> None:
    spec = json.loads(sys.argv[2])
    torch.set_num_threads(threads())
    found = CONTENDERS[spec["contender"]](spec)
    print(json.dumps(spec | found | {"peak_gigabytes": peak_gigabytes()}))


if __name__ == "__main__":
    main()
