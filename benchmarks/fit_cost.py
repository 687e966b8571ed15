"""What a ranking costs `starling fit` by the number of answers and by length: seconds against tokens.

    python benchmarks/fit_cost.py DATA [--out runs/speed]

Forward and backward of one microbatch of one ranking made from real text cut to length, the least of three. Prints
Markdown: unique tokens are the prompt's once and its answers'; repeated tokens count the prompt once an answer.
"""

import time
from typing import Any

import speed_runs
from speed_rows import SETS, read

BY_ANSWERS = [(256, 64, count) for count in (2, 4, 7, 11, 16)]  # prompt tokens, answer tokens, answers
BY_LENGTH = [(length, length, 7) for length in (32, 64, 128, 256, 512)]


def main() -> None:
    from starling import device, models

    folder = speed_runs.options(__doc__, "runs/speed").out
    device.setup(0, 0)
    network = models.load_reward_model(str(folder / "model")).network.train()
    text = [token for name in SETS for row in read(folder, name) for ids in row.endings for token in ids]
    _seconds(network, text, *BY_ANSWERS[0])
    print("| prompt | an answer | answers | unique tokens | repeated tokens | seconds | unique tokens/s |")
    print("|---|---|---|---|---|---|---|")
    for prompt, answer, count in [*BY_ANSWERS, *BY_LENGTH]:
        unique, repeated = prompt + count * answer, count * (prompt + answer)
        seconds = min(_seconds(network, text, prompt, answer, count) for _ in range(3))
        print(
            f"| {prompt} | {answer} | {count} | {unique:,} | {repeated:,} | {seconds:.2f} | {unique / seconds:.0f} |",
            flush=True,
        )


def _seconds(network: Any, text: list[int], prompt: int, answer: int, count: int) -> float:
    from starling import device, heads, packing

    start = prompt
    endings = [text[start + at * answer : start + (at + 1) * answer] for at in range(count)]
    packed = packing.pack([(text[:prompt], endings)])
    network.zero_grad(set_to_none=True)
    began = time.perf_counter()
    with device.autocast(network.device):
        reward_N = heads.rewards(network, packed)
    reward_N.logsumexp(0).backward()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
