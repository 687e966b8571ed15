"""Prompts and their answers shard by shard, so that memory does not grow with the number of rows."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

import pyarrow.parquet as pq

from starling import tables
from starling.records import Candidate, Prompt
from starling.store import Run

Item = tuple[Prompt, Sequence[Candidate]]
_ROWS_AT_ONCE = 1000
_T = TypeVar("_T")


def prompts(run: Run, *splits: str) -> Iterator[Prompt]:
    """The run's prompts of the given splits, in the table's order."""
    number = 0
    for path in sorted(run.folder("prompts").glob("*.parquet")):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    if row["split"] in splits:
                        yield tables.prompt_from_row(row, f"prompts:{number}")
                    number += 1


def batches(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """The items in lists of `size`; the last may be shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def count_answers(run: Run) -> dict[str, Any]:
    """Prompts, answers, their tokens and the share that is finished, over all of `sample/`."""
    found: set[str] = set()
    answers = tokens = finished = 0
    for path in sorted(run.folder("sample").glob("*.parquet")):
        read = pq.read_table(path, columns=["prompt_id", "num_tokens", "finished"]).to_pydict()
        found.update(read["prompt_id"])
        answers += len(read["prompt_id"])
        tokens += sum(read["num_tokens"])
        finished += sum(read["finished"])
    return {"prompts": len(found), "answers": answers, "tokens": tokens, "finished": finished / answers}


class Answers:
    """Where in `sample/` the answers of each prompt stand; only their place is in memory."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._files = sorted(run.folder("sample").glob("*.parquet"))
        self._files_of: dict[str, tuple[int, ...]] = {}
        self._count: Counter[str] = Counter()
        shared: dict[tuple[int, ...], tuple[int, ...]] = {}  # prompts of one shard share one tuple
        for number, path in enumerate(self._files):
            ids = pq.read_table(path, columns=["prompt_id"])["prompt_id"].to_pylist()
            self._count.update(ids)
            for one in dict.fromkeys(ids):
                places = (*self._files_of.get(one, ()), number)
                self._files_of[one] = shared.setdefault(places, places)

    def __len__(self) -> int:
        """How many prompts have answers."""
        return len(self._count)

    def sizes(self) -> dict[int, int]:
        """How many prompts have how many answers."""
        return Counter(self._count.values())

    def shards(self, size: int) -> Iterator[list[Item]]:
        """Validation and train prompts with their answers, in lists of one number of answers each.

        A list is as long as `size`, rounded up to a multiple of that number, so that a judge that balances orders over
        what it is given at once balances them over the whole set.
        """
        for k in sorted(set(self._count.values()), reverse=True):
            alike = (p for p in prompts(self._run, "validation", "train") if self._count.get(p.id) == k)
            for batch in batches(alike, -(-size // k) * k):
                found = self._read(batch)
                yield [(prompt, found[prompt.id]) for prompt in batch]

    def _read(self, wanted: Sequence[Prompt]) -> dict[str, list[Candidate]]:
        found: dict[str, list[Candidate]] = {prompt.id: [] for prompt in wanted}
        for number in sorted({number for one in found for number in self._files_of[one]}):
            for row in tables.read_rows(self._files[number]):
                if row["prompt_id"] in found:
                    found[row["prompt_id"]].append(Candidate(**row))
        return {one: sorted(answers, key=lambda answer: answer.draw) for one, answers in found.items()}
