"""prompts: read and clean the sources, draw evenly over families, and write one table of all three splits."""

import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from random import Random
from typing import Any

from starling import chat, cleaning, data_files, models, overlap, progress, sources, tables
from starling.cleaning import Remove
from starling.config import Config
from starling.errors import DataError
from starling.forms import Answer, Found
from starling.judges.checks import HELD_OUT
from starling.records import SPLITS, Candidate, Prompt
from starling.sources import Removal
from starling.store import Run

_SHARD = 1000  # prompts in a file of answers


def run(run: Run) -> dict[str, Any]:
    """Write `prompts/00000.parquet`; every prompt of the run stands in it, in the order later stages use.

    Answers that came with a prompt go to `prompts/answers/`, whatever was left out to `prompts/removed.jsonl`.
    """
    folder = run.folder("prompts")
    removed: Counter[str] = Counter()
    with _listed(folder / "removed.jsonl", removed) as remove:
        read = _read(run.config, remove)
        found = _clean(read, run.config, remove)
    chosen = _draw(found, read, run.config)
    prompts = [one.prompt for one in chosen]
    _refuse_leaks(prompts, removed)
    _refuse_long(prompts, run.config)
    data_files.write_parquet(folder / "00000.parquet", [tables.prompt_row(p) for p in prompts], tables.PROMPTS)
    answers = _write_answers(folder / "answers", chosen)
    return {
        "found": len(found),
        "used": dict(Counter(prompt.split for prompt in prompts)),
        "families": {split: len({p.family for p in prompts if p.split == split}) for split in SPLITS},
        "kinds": dict(Counter(prompt.kind for prompt in prompts)),
        "with_held_out_check": sum(any(c["check"] in HELD_OUT for c in prompt.checks) for prompt in prompts),
        "sources": _facts(read, found, chosen, run.config),
        "removed": dict(removed),
        "answers": answers,
    }


def spread(prompts: list[Prompt], count: int, seed: int) -> list[Prompt]:
    """At most `count` prompts, one from each family in turn; the order depends on nothing but prompts and seed."""
    families: dict[str, list[Prompt]] = defaultdict(list)
    for prompt in sorted(prompts, key=lambda p: p.id):
        families[prompt.cluster].append(prompt)
    rng = Random(seed)
    queues = list(families.values())
    rng.shuffle(queues)
    for queue in queues:
        rng.shuffle(queue)
    return [prompt for layer in zip_longest(*queues) for prompt in layer if prompt is not None][:count]


def mix(queues: Sequence[Sequence[Found]], weights: Sequence[float], count: int) -> list[Found]:
    """At most `count`, from each queue by its weight; any beginning of the list is mixed like the whole.

    A queue that runs out leaves its share to the others.
    """
    taken = [0] * len(queues)
    mixed: list[Found] = []
    while len(mixed) < count:
        left = [number for number, queue in enumerate(queues) if taken[number] < len(queue)]
        if not left:
            break
        most_owed = min(left, key=lambda number: (taken[number] + 1) / weights[number])
        mixed.append(queues[most_owed][taken[most_owed]])
        taken[most_owed] += 1
    return mixed


@contextmanager
def _listed(path: Path, counts: Counter[str]) -> Iterator[Remove]:
    """Yield what writes removals to a file, one by one, and counts them by reason; without any there is no file."""
    with data_files.listing(path) as write:

        def remove(removal: Removal) -> None:
            counts[removal.reason] += 1
            write(removal._asdict())

        yield remove


def _read(config: Config, remove: Remove) -> list[cleaning.Kept]:
    cleaner = cleaning.Cleaner(config.prompts, config.run.seed, remove)
    kept = []
    for source in config.prompts.sources:
        kept.append(cleaner.clean(source))
        if source.path != sources.BUILTIN:
            progress.say(f"prompts: {sources.name_of(source)}: {kept[-1].read:,} read, {len(kept[-1].found):,} kept")
    return kept


def _clean(read: Sequence[cleaning.Kept], config: Config, remove: Remove) -> list[Found]:
    """What is left when prompts of all sources are held against each other and against benchmarks."""
    cfg = config.prompts
    found = cleaning.union((one for kept in read for one in kept.found), cfg, remove)
    _refuse_twins([one.prompt for one in found])
    if cfg.decontaminate:
        found = overlap.clear_of_benchmarks(found, overlap.Benchmarks(cfg.decontaminate, cfg.ngram), remove)
    if cfg.near_duplicates:
        found = overlap.without_near_duplicates(found, cfg.near_duplicates, remove)
    if cfg.too_long == "leave_out":
        found = _without_long(found, config, remove)
    return found


def _draw(found: Sequence[Found], read: Sequence[cleaning.Kept], config: Config) -> list[Found]:
    """The prompts of the run: each split's number, from the sources by weight, evenly over families.

    A prompt that several sources have is the first one's.
    """
    cfg = config.prompts
    left = {one.prompt.id: one for one in found}
    queues: list[dict[str, list[Found]]] = []
    for kept in read:
        own = {one.prompt.id: left.pop(one.prompt.id) for one in kept.found if one.prompt.id in left}
        by_split = {split: [one.prompt for one in own.values() if one.prompt.split == split] for split in SPLITS}
        queues.append(
            {
                split: [own[prompt.id] for prompt in spread(prompts, len(prompts), config.run.seed)]
                for split, prompts in by_split.items()
            }
        )
    weights = [source.weight for source in cfg.sources]
    return [one for split in SPLITS for one in mix([queue[split] for queue in queues], weights, getattr(cfg, split))]


def _write_answers(folder: Path, chosen: Sequence[Found]) -> int:
    """Write the answers that came with the prompts as candidates, in shards; returns how many there are."""
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was broken off
    count = 0
    answered = [one for one in chosen if one.answers]
    for number, start in enumerate(range(0, len(answered), _SHARD)):
        rows = [
            asdict(_candidate(one.prompt, draw, answer))
            for one in answered[start : start + _SHARD]
            for draw, answer in enumerate(one.answers)
        ]
        count += len(rows)
        data_files.write_parquet(folder / f"{number:05d}.parquet", rows, tables.CANDIDATES)
    return count


def _candidate(prompt: Prompt, draw: int, answer: Answer) -> Candidate:
    return Candidate(
        prompt_id=prompt.id, model=answer.model, draw=draw, answer=answer.text, finished=True, rank=answer.rank
    )


def _facts(
    read: Sequence[cleaning.Kept], found: Sequence[Found], chosen: Sequence[Found], config: Config
) -> list[dict[str, Any]]:
    """Of each source: what was read, what passed the rules, and what is in the run."""
    clean, drawn = ({one.prompt.id for one in some} for some in (found, chosen))
    return [
        {
            "name": sources.name_of(source),
            "path": source.path,
            "form": kept.form,
            "read": kept.read,
            "kept": sum(one.prompt.id in clean for one in kept.found),
            "drawn": sum(one.prompt.id in drawn for one in kept.found),
            "over_limit": kept.over_limit,
            "empty_answers": kept.empty_answers,
        }
        for source, kept in zip(config.prompts.sources, read, strict=True)
    ]


def _refuse_twins(prompts: list[Prompt]) -> None:
    twins = [prompt_id for prompt_id, count in Counter(p.id for p in prompts).items() if count > 1]
    if twins:
        raise DataError(f"prompts: {len(twins)} ids stand twice, first {twins[0]!r}; ids must be unique over all files")


def _refuse_leaks(prompts: list[Prompt], removed: Counter[str]) -> None:
    for split in SPLITS:
        if not any(prompt.split == split for prompt in prompts):
            why = ", ".join(f"{reason}: {count}" for reason, count in removed.most_common(3))
            raise DataError(
                f"prompts: no prompt of split {split!r}; give rows or their source a `split` of {', '.join(SPLITS)}, "
                f"add sources, or loosen the rules (removed: {why or 'none'})"
            )
    split_of: dict[str, str] = {}
    for prompt in prompts:
        if prompt.family and split_of.setdefault(prompt.family, prompt.split) != prompt.split:
            raise DataError(
                f"prompts: family {prompt.family!r} stands in {split_of[prompt.family]} and {prompt.split}; "
                "a family belongs to one split"
            )


def _refuse_long(prompts: Sequence[Prompt], config: Config) -> None:
    limit, advice = _longest(config)
    lengths = _lengths(prompts, config)
    long = [prompt_id for prompt_id, length in lengths.items() if length > limit]
    if long:
        raise DataError(
            f"prompts: {len(long)} of {len(prompts)} are longer than {limit} tokens, first {long[0]!r} with "
            f'{lengths[long[0]]}; shorten or remove them, set prompts.too_long = "leave_out", {advice}'
        )


def _without_long(found: Sequence[Found], config: Config, remove: Remove) -> list[Found]:
    limit, _ = _longest(config)
    lengths = _lengths([one.prompt for one in found], config)
    for one in found:
        if lengths[one.prompt.id] > limit:
            detail = f"{lengths[one.prompt.id]} tokens"
            remove(Removal(one.prompt.id, one.prompt.source, "too_long", detail=detail))
    return [one for one in found if lengths[one.prompt.id] <= limit]


def _longest(config: Config) -> tuple[int, str]:
    """The most tokens that a prompt may have, and what helps against that."""
    model, limit = config.run.model, config.prompts.max_tokens
    window = models.window(model)
    answer = max(config.sample.max_new_tokens, config.tune.max_new_tokens, config.evaluate.answer_tokens)
    if window - answer < limit:
        return window - answer, f"since {model} has a window of {window} and answers take up to {answer}"
    return limit, "or raise prompts.max_tokens"


def _lengths(prompts: Sequence[Prompt], config: Config) -> Mapping[str, int]:
    tokenizer = models.load_tokenizer(config.run.model)
    return {prompt.id: len(chat.prompt_ids(tokenizer, prompt.messages)) for prompt in prompts}
