"""The rankings and the reward model that every contender of a speed measurement starts from.

    python benchmarks/speed_rows.py DATA FOLDER

From `nectar_sample` (as ranked) and `alpaca_rankings` (random draws of 7, best first by score) it takes rankings with
seven answers whose whole conversations have at most 512 tokens each, in a random order that is fixed. Peers get them
as token ids, so that all see the same tokens. The reward model is SmolLM2 with a head that is random and fixed.
"""

import json
import random
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

LIMIT = 512
NUM_ANSWERS = 7
NUM_KEPT = 64
SETS = ("nectar_sample", "alpaca_rankings")


class Row(NamedTuple):
    """A ranking as token ids: what its conversations share, and what each adds, best first."""

    shared: list[int]
    endings: list[list[int]]

    @property
    def conversations(self) -> list[list[int]]:
        return [self.shared + ending for ending in self.endings]

    @property
    def unique_tokens(self) -> int:
        return len(self.shared) + sum(map(len, self.endings))

    @property
    def longest(self) -> int:
        return len(self.shared) + max(map(len, self.endings))


def read(folder: Path, name: str) -> list[Row]:
    """The rankings of a set as token ids."""
    return [Row(*row) for row in json.loads((folder / f"{name}.ids.json").read_text())]


def pairs_by_length(rows: list[Row]) -> list[tuple[list[int], list[int]]]:
    """Every better and worse conversation of the rankings, the shortest pairs first."""
    pairs = [pair for row in rows for pair in combinations(row.conversations, 2)]
    return sorted(pairs, key=lambda pair: max(map(len, pair)))


def padded_tokens(lengths: list[int], batch: int) -> int:
    """Tokens that a padded loop processes for sequences in this order."""
    batches = [lengths[start : start + batch] for start in range(0, len(lengths), batch)]
    return sum(max(part) * len(part) for part in batches)


def main() -> None:
    data, folder = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    import torch

    from starling import models
    from starling.examples import examples_of
    from starling.tables import ranking_from_row

    torch.manual_seed(0)
    model = models.new_reward_model("smollm2")
    torch.nn.init.normal_(model.network.score.weight, std=model.network.config.initializer_range)
    models.save(model, folder / "model")
    for name in SETS:
        rows = list(_rows(name, data / f"{name}.jsonl.gz"))
        random.Random(0).shuffle(rows)
        examples, _ = examples_of(model, [ranking_from_row(row, name) for row in rows])
        found = [Row(list(example.shared), [list(ending) for ending in example.endings]) for example in examples]
        kept = [
            at for at, row in enumerate(found) if len(row.endings) == NUM_ANSWERS and row.longest <= LIMIT
        ]  # every other ranking is too long, or has an empty answer
        print(f"{name}: {len(rows)} rankings, {len(kept)} of them of {NUM_ANSWERS} answers and <= {LIMIT} tokens")
        kept = kept[:NUM_KEPT]
        (folder / f"{name}.ids.json").write_text(json.dumps([found[at] for at in kept]))
        lines = (json.dumps(_nectar(examples[at].ranking)) + "\n" for at in kept)
        (folder / f"{name}.jsonl").write_text("".join(lines))


def _rows(name: str, path: Path) -> Iterator[dict[str, Any]]:
    """Rankings of seven answers, ranks 1 to 7."""
    from starling.data_files import read_rows

    draws = random.Random(0)
    for number, row in enumerate(read_rows(path)):
        answers = row["answers"]
        if name == "alpaca_rankings":
            answers = sorted(draws.sample(answers, NUM_ANSWERS), key=lambda answer: -answer["score"])
        ranked = [{**answer, "rank": float(rank)} for rank, answer in enumerate(answers, 1)]
        yield {"prompt_id": f"{name}-{number}", "prompt": row["prompt"], "answers": ranked}


def _nectar(ranking: Any) -> dict[str, Any]:
    answers = [
        {"answer": answer.answer, "model": answer.model, "rank": rank}
        for answer, rank in zip(ranking.answers, ranking.ranks, strict=True)
    ]
    return {"prompt_id": ranking.prompt_id, "messages": list(ranking.messages), "answers": answers}


if __name__ == "__main__":
    main()
