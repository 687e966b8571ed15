"""prompts: read the prompt files, draw evenly over families, and write one table of all three splits."""

from collections import Counter, defaultdict
from itertools import zip_longest
from pathlib import Path
from random import Random
from typing import Any

from starling import chat, models, tables
from starling.config import Config
from starling.errors import DataError
from starling.judges.checks import HELD_OUT
from starling.records import SPLITS, Prompt
from starling.store import Run


def run(run: Run) -> dict[str, Any]:
    """Write `prompts/00000.parquet`; every prompt of the run stands in it, in the order later stages use."""
    cfg = run.config.prompts
    found = [prompt for name in cfg.files for prompt in _read(name)]
    _refuse_twins(found)
    wanted = {"train": cfg.train, "validation": cfg.validation, "test": cfg.test}
    chosen = [
        prompt
        for split in SPLITS
        for prompt in spread([p for p in found if p.split == split], wanted[split], run.config.run.seed)
    ]
    _refuse_leaks(chosen)
    _refuse_long(chosen, run.config)
    tables.write_parquet(
        run.folder("prompts") / "00000.parquet", [tables.prompt_row(p) for p in chosen], tables.PROMPTS
    )
    return {
        "found": len(found),
        "used": dict(Counter(prompt.split for prompt in chosen)),
        "families": {split: len({p.family for p in chosen if p.split == split}) for split in SPLITS},
        "kinds": dict(Counter(prompt.kind for prompt in chosen)),
        "with_held_out_check": sum(any(c["check"] in HELD_OUT for c in prompt.checks) for prompt in chosen),
    }


def spread(prompts: list[Prompt], count: int, seed: int) -> list[Prompt]:
    """At most `count` prompts, one from each family in turn; the order depends on nothing but prompts and seed."""
    families: dict[str, list[Prompt]] = defaultdict(list)
    for prompt in sorted(prompts, key=lambda p: p.id):
        families[prompt.family or prompt.id].append(prompt)
    rng = Random(seed)
    queues = list(families.values())
    rng.shuffle(queues)
    for queue in queues:
        rng.shuffle(queue)
    return [prompt for layer in zip_longest(*queues) for prompt in layer if prompt is not None][:count]


def _read(name: str) -> list[Prompt]:
    return tables.builtin_prompts() if name == "builtin" else tables.read_prompts(Path(name))


def _refuse_twins(prompts: list[Prompt]) -> None:
    twins = [prompt_id for prompt_id, count in Counter(p.id for p in prompts).items() if count > 1]
    if twins:
        raise DataError(f"prompts: {len(twins)} ids stand twice, first {twins[0]!r}; ids must be unique over all files")


def _refuse_leaks(prompts: list[Prompt]) -> None:
    for split in SPLITS:
        if not any(prompt.split == split for prompt in prompts):
            raise DataError(f"prompts: no prompt of split {split!r}; give every row a `split` of {', '.join(SPLITS)}")
    split_of: dict[str, str] = {}
    for prompt in prompts:
        if prompt.family and split_of.setdefault(prompt.family, prompt.split) != prompt.split:
            raise DataError(
                f"prompts: family {prompt.family!r} stands in {split_of[prompt.family]} and {prompt.split}; "
                "a family belongs to one split"
            )


def _refuse_long(prompts: list[Prompt], config: Config) -> None:
    model, limit = config.run.model, config.prompts.max_tokens
    advice = "or raise prompts.max_tokens"
    window = models.window(model)
    answer = max(config.sample.max_new_tokens, config.tune.max_new_tokens, config.evaluate.answer_tokens)
    if window - answer < limit:
        limit = window - answer
        advice = f"since {model} has a window of {window} and answers take up to {answer}"
    tokenizer = models.load_tokenizer(model)
    lengths = {prompt.id: len(chat.prompt_ids(tokenizer, prompt.messages)) for prompt in prompts}
    long = [prompt_id for prompt_id, length in lengths.items() if length > limit]
    if long:
        raise DataError(
            f"prompts: {len(long)} of {len(prompts)} are longer than {limit} tokens, first {long[0]!r} with "
            f"{lengths[long[0]]}; shorten or remove them, {advice}"
        )
