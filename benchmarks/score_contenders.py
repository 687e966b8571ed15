"""One way to score answers with a reward model, measured: started by score_speed.py in a process of its own.

    python benchmarks/score_contenders.py FOLDER '{"contender": "pipeline", "rows": "nectar_sample", ...}'

prints one line of JSON: seconds for all answers, text to reward, after a warm-up on one ranking; peak memory; tokens
processed; and the rewards.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from speed_rows import padded_tokens, read
from speed_runs import peak_gigabytes, threads

Found = dict[str, Any]
DTYPES = {"bf16 weights": torch.bfloat16, "float32": torch.float32}


def pipeline(folder: Path, rows: list[dict[str, Any]], batch: int, precision: str) -> Found:
    """transformers' text-classification pipeline on the conversations, those of the most tokens first."""
    from transformers import AutoTokenizer
    from transformers import pipeline as make

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    classify: Any = make(
        "text-classification",
        model=str(folder / "model"),
        tokenizer=tokenizer,
        dtype=DTYPES[precision],
        device="cpu",
        batch_size=batch,
        function_to_apply="none",
    )

    def score(some: list[dict[str, Any]]) -> list[list[float]]:
        turns = [[*row["messages"], _said(answer)] for row in some for answer in row["answers"]]
        texts = [tokenizer.apply_chat_template(turn, tokenize=False) for turn in turns]
        lengths = [length for row in some for length in row["lengths"]]
        order = sorted(range(len(texts)), key=lambda at: -lengths[at])
        rewards = [0.0] * len(texts)
        for at, found in zip(order, classify([texts[at] for at in order]), strict=True):
            rewards[at] = found["score"]
        flat = iter(rewards)
        return [[next(flat) for _ in row["answers"]] for row in some]

    return _timed(score, rows)


def starling(folder: Path, rows: list[dict[str, Any]], batch: int, precision: str) -> Found:
    """`RewardModel.score`, packed; the microbatch is its own, in tokens."""
    from starling import models, reward

    judge = reward.RewardModel(models.load_reward_model(str(folder / "model"), DTYPES[precision]))

    def score(some: list[dict[str, Any]]) -> list[list[float]]:
        return judge.score([row["messages"] for row in some], [[a["answer"] for a in row["answers"]] for row in some])

    return _timed(score, rows)


def _timed(score: Callable[[list[dict[str, Any]]], list[list[float]]], rows: list[dict[str, Any]]) -> Found:
    score(rows[:1])
    start, cpu = time.perf_counter(), time.process_time()
    rewards = score(rows)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "cores": (time.process_time() - cpu) / seconds, "rewards": rewards}


def _said(answer: dict[str, Any]) -> dict[str, str]:
    return {"role": "assistant", "content": answer["answer"]}


CONTENDERS = {"pipeline": pipeline, "starling": starling}


def main() -> None:
    folder, spec = Path(sys.argv[1]), json.loads(sys.argv[2])
    torch.set_num_threads(threads())
    lines = (folder / f"{spec['rows']}.jsonl").read_text().splitlines()[: spec["num_rows"]]
    ids = read(folder, spec["rows"])[: spec["num_rows"]]
    rows = [
        json.loads(line) | {"lengths": [len(text) for text in row.conversations]}
        for line, row in zip(lines, ids, strict=True)
    ]
    found = CONTENDERS[spec["contender"]](folder, rows, spec["batch"], spec["precision"])
    unique = sum(row.unique_tokens for row in ids)
    lengths = sorted((length for row in rows for length in row["lengths"]), reverse=True)
    processed = unique if spec["contender"] == "starling" else padded_tokens(lengths, spec["batch"])
    tokens = {"unique_tokens": unique, "processed_tokens": processed}
    print(json.dumps(spec | found | tokens | {"peak_gigabytes": peak_gigabytes()}))


if __name__ == "__main__":
    main()
