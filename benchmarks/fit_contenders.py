"""One way to fit a reward model, measured: started by fit_speed.py in a process of its own.

    python benchmarks/fit_contenders.py FOLDER '{"contender": "trl", "rows": "nectar_sample", ...}'

prints one line of JSON: seconds of each optimiser step, peak memory, tokens processed a step, and the loss before the
first update. All take the same rankings for a step, clip the gradient at norm 1 and use torch's fused AdamW.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from speed_rows import NUM_ANSWERS, Row, padded_tokens, pairs_by_length, read
from speed_runs import FAST_BFLOAT16, peak_gigabytes, threads
from torch.nn.functional import softplus

LEARNING_RATE = 3e-5
Found = dict[str, Any]


class Laps:
    """Wall seconds and processor seconds of each step; with all cores to itself a step takes cores x wall of them."""

    def __init__(self) -> None:
        self.found: Found = {"seconds": [], "cpu_seconds": []}

    def start(self) -> None:
        self._start = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        self.found["seconds"].append(time.perf_counter() - self._start[0])
        self.found["cpu_seconds"].append(time.process_time() - self._start[1])


def trl(folder: Path, steps: list[list[Row]], batch: int, precision: str) -> Found:
    """TRL's RewardTrainer on all pairs; a step is gradient accumulation over the pairs of its rankings."""
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import RewardConfig, RewardTrainer

    pairs = [pairs_by_length(step) for step in steps]
    laps = Laps()

    class Clock(TrainerCallback):
        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            laps.start()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            laps.stop()

    with tempfile.TemporaryDirectory() as output:
        settings = RewardConfig(
            output_dir=output,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=len(pairs[0]) // batch,
            num_train_epochs=1,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            max_length=None,
            bf16="autocast" in precision,
            gradient_checkpointing="checkpointed" in precision,
            use_cpu=True,
            train_sampling_strategy="sequential",
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
        )
        trainer = RewardTrainer(
            model=_classifier(folder, precision),
            args=settings,
            train_dataset=Dataset.from_list([{"chosen_ids": b, "rejected_ids": w} for part in pairs for b, w in part]),
            processing_class=AutoTokenizer.from_pretrained(folder / "model"),
            callbacks=[Clock()],
        )
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return laps.found | {"processed_tokens": _processed(pairs[0], batch), "pairwise_loss": losses[0]}


def padded(folder: Path, steps: list[list[Row]], batch: int, precision: str) -> Found:
    """A plain loop: `batch` rankings at a time, all their answers as a padded batch, Plackett-Luce."""
    network = _classifier(folder, precision).train()
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    laps, losses = Laps(), []
    pad = network.config.pad_token_id
    for step in steps:
        laps.start()
        total, processed = 0.0, 0
        step = sorted(step, key=lambda row: row.longest)
        optimiser.zero_grad(set_to_none=True)
        for at in range(0, len(step), batch):
            texts = [ids for row in step[at : at + batch] for ids in row.conversations]
            width = max(map(len, texts))
            ids_NT = torch.tensor([ids + [pad] * (width - len(ids)) for ids in texts])
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
                reward_N = network(ids_NT, attention_mask=(ids_NT != pad).long(), use_cache=False).logits[:, 0]
            reward_BK = reward_N.float().view(-1, NUM_ANSWERS)
            loss = _plackett_luce(reward_BK) / (len(step) * (NUM_ANSWERS - 1))
            loss.backward()
            total += loss.item()
            processed += ids_NT.numel()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        laps.stop()
        losses.append(total)
    return laps.found | {"processed_tokens": processed, "kwise_loss": losses[0]}


def starling(folder: Path, steps: list[list[Row]], batch: int, precision: str) -> Found:
    """The step of `starling fit`; `batch` is the packed tokens of a microbatch."""
    from starling import accuracy, device, models
    from starling.config import FitTable
    from starling.examples import Example
    from starling.objective import Objective
    from starling.stages import fit

    assert precision == ("autocast" if FAST_BFLOAT16 else "float32")
    device.setup(threads(), 0)
    model = models.load_reward_model(str(folder / "model"))
    cfg = FitTable(learning_rate=LEARNING_RATE, microbatch_tokens=batch)
    examples = [[Example(_ranking(), row.shared, row.endings) for row in step] for step in steps]
    objective = Objective(cfg, model.network, examples[0], 0)
    before = torch.tensor(accuracy.score(model, examples[0], batch))
    model.network.train()
    optimiser = torch.optim.AdamW(model.network.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    laps, losses = Laps(), []
    for step in examples:
        laps.start()
        losses.append(fit._step(cfg, objective, model.network, optimiser, step)["nll"])
        laps.stop()
    return laps.found | {
        "processed_tokens": sum(example.size for example in examples[0]),
        "pairwise_loss": _all_pairs(before).item(),
        "kwise_loss": losses[0],
    }


def _ranking() -> Any:
    """Seven answers, the first the best; the texts do not matter once there are ids."""
    from starling.tables import ranking_from_row

    answers = [{"answer": "text", "rank": float(rank)} for rank in range(1, NUM_ANSWERS + 1)]
    return ranking_from_row({"prompt": "prompt", "answers": answers}, "row")


def _classifier(folder: Path, precision: str) -> Any:
    from transformers import AutoModelForSequenceClassification

    dtype = torch.bfloat16 if precision == "bf16 weights" else torch.float32
    return AutoModelForSequenceClassification.from_pretrained(folder / "model", dtype=dtype)


def _processed(pairs: list[tuple[list[int], list[int]]], batch: int) -> int:
    return 2 * padded_tokens([max(len(better), len(worse)) for better, worse in pairs], batch)


def _plackett_luce(reward_BK: torch.Tensor) -> torch.Tensor:
    return (reward_BK.flip(-1).logcumsumexp(-1).flip(-1) - reward_BK).sum()


def _all_pairs(reward_BK: torch.Tensor) -> torch.Tensor:
    better, worse = torch.triu_indices(NUM_ANSWERS, NUM_ANSWERS, 1)
    return softplus(reward_BK[:, worse] - reward_BK[:, better]).mean()


CONTENDERS: dict[str, Callable[[Path, list[list[Row]], int, str], Found]] = {
    "trl": trl,
    "padded": padded,
    "starling": starling,
}


def main() -> None:
    folder, spec = Path(sys.argv[1]), json.loads(sys.argv[2])
    torch.set_num_threads(threads())
    rows = read(folder, spec["rows"])[: spec["num_rows"]]
    steps = [rows] * spec["steps"]
    loaded = peak_gigabytes()
    found = CONTENDERS[spec["contender"]](folder, steps, spec["batch"], spec["precision"])
    found |= {"unique_tokens": sum(row.unique_tokens for row in rows)}
    print(json.dumps(spec | found | {"peak_gigabytes": peak_gigabytes(), "imports_gigabytes": loaded}))


if __name__ == "__main__":
    main()
