"""Prompts and their answers shard by shard, so that memory does not grow with the number of rows."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

import pyarrow.parquet as pq

from starling import data_files, tables
from starling.records import Candidate, Prompt
from starling.store import Run

Item = tuple[Prompt, Sequence[Candidate]]
_T = TypeVar("_T")


def wanted(run: Run) -> Iterator[Prompt]:
    """The prompts that are answered; validation first, so that a spent budget never costs the reward model its test."""
    cfg = run.config.sample
    yield from islice(tables.stream_prompts(run, "validation"), cfg.validation_prompts)
    yield from islice(tables.stream_prompts(run, "train"), cfg.train_prompts)


def batches(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """The items in lists of `size`; the last may be shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


class Shelf:
    """Where in a folder's tables the answers of each prompt stand; only their place is in memory.

    `left_out` are the draws, by prompt, that do not count.
    """

    def __init__(self, folder: Path, left_out: Mapping[str, Collection[int]] | None = None) -> None:
        self.count: Counter[str] = Counter()
        self._files = sorted(folder.glob("*.parquet"))
        self._left_out = left_out or {}
        self._files_of: dict[str, tuple[int, ...]] = {}
        self._open: tuple[int, dict[str, list[Candidate]]] = (-1, {})
        shared: dict[tuple[int, ...], tuple[int, ...]] = {}  # prompts of one shard share one tuple
        for number, path in enumerate(self._files):
            read = pq.read_table(path, columns=["prompt_id", "draw"]).to_pydict()
            ids = [one for one, draw in zip(*read.values(), strict=True) if draw not in self._left_out.get(one, ())]
            self.count.update(ids)
            for one in dict.fromkeys(ids):
                places = (*self._files_of.get(one, ()), number)
                self._files_of[one] = shared.setdefault(places, places)

    def read(self, wanted: Iterable[Prompt]) -> dict[str, list[Candidate]]:
        """The answers of each of these prompts that has any, in the order of their draws."""
        found: dict[str, list[Candidate]] = {one.id: [] for one in wanted if one.id in self._files_of}
        for number in sorted({number for one in found for number in self._files_of[one]}):
            answers = self._read(number)
            for one in found:
                found[one] += answers.get(one, ())
        return {one: sorted(answers, key=lambda answer: answer.draw) for one, answers in found.items()}

    def _read(self, number: int) -> dict[str, list[Candidate]]:
        """The answers of one file, which is held until another is read."""
        if self._open[0] != number:
            answers: dict[str, list[Candidate]] = defaultdict(list)
            for row in data_files.stream_rows(self._files[number]):
                if row["draw"] not in self._left_out.get(row["prompt_id"], ()):
                    answers[row["prompt_id"]].append(Candidate(**row))
            self._open = number, dict(answers)
        return self._open[1]


def brought(run: Run) -> Shelf:
    """The answers that came with the prompts."""
    return Shelf(run.folder("prompts") / "answers")


class Answers:
    """The run's prompts with the answers that `sample` kept."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._shelf = Shelf(run.folder("sample"), tables.left_out_of(run))

    def __len__(self) -> int:
        """How many prompts have answers."""
        return len(self._shelf.count)

    def sizes(self) -> dict[int, int]:
        """How many prompts have how many answers."""
        return Counter(self._shelf.count.values())

    def shards(self, size: int) -> Iterator[list[Item]]:
        """Validation and train prompts with their answers, in lists of one number of answers each.

        A list is as long as `size`, rounded up to a multiple of that number, so that a judge that balances orders over
        what it is given at once balances them over the whole set.
        """
        for k in sorted(self.sizes(), reverse=True):
            alike = (
                p for p in tables.stream_prompts(self._run, "validation", "train") if self._shelf.count.get(p.id) == k
            )
            for batch in batches(alike, -(-size // k) * k):
                found = self._shelf.read(batch)
                yield [(prompt, found[prompt.id]) for prompt in batch]
