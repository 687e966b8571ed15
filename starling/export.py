"""`starling export`: the rankings of a run or a file in another tool's form, with a data card, in a folder."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from starling import cards, data_files, hub, layouts, lineage, progress, sources, tables
from starling.at_work import alone
from starling.errors import DataError, UsageError, explained
from starling.layouts import EXPORTS, Form, Item, Row
from starling.records import SPLITS
from starling.store import Run, is_run
from starling.writing import replace_folder, write_atomically, write_json

MARK = "export.json"  # stands in each of our exports, and in no other folder
CHUNK = 1000  # rows that are written at once


def export_and_push(
    source: Path, to: str, out: Path, *, pairs: str, licence: str, push: str, public: bool
) -> dict[str, Any]:
    """Export, say what was counted, and upload where that was asked for."""
    facts = export(source, to, out, pairs=pairs, licence=licence)
    for sentence in sentences(facts, out):
        progress.say(sentence)
    if push:
        facts["pushed_to"] = hub.push(hub.files_of(out), push, out, kind="dataset", public=public)
        progress.say(f"export: pushed to {facts['pushed_to']}")
    return facts


def check(to: str, pairs: str) -> Form:
    """The form of this name; refuses one that is unknown, and a choice of pairs where there are none."""
    if to not in EXPORTS:
        near = get_close_matches(to.lower(), EXPORTS, 1, 0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UsageError(f"export: there is no format {to!r}{hint} (formats: {', '.join(EXPORTS)})")
    form = EXPORTS[to]
    if pairs and form.row_is != "pair":
        raise UsageError(f"export: --pairs is for formats of pairs, {to} has none")
    if pairs and pairs not in layouts.PAIRS:
        raise UsageError(f"export: --pairs {pairs!r} is none of {', '.join(layouts.PAIRS)}")
    return form


def export(source: Path, to: str, out: Path, *, pairs: str = "", licence: str = "other") -> dict[str, Any]:
    """Write the rankings of `source` into the folder `out`, and return what was counted.

    All is written into `<out>.partial` first. `out` may be an earlier export of the same form, which is replaced.
    """
    form = check(to, pairs)
    whole = is_run(source)
    run = Run.read(source) if whole else lineage.run_of(source)
    rankings = source / "rank" if whole else source
    if run is not None:
        run.facts("rank")
        run.refuse_damage(["prompts", "rank"])
    _refuse(out, to)
    work = out.with_name(out.name + ".partial")
    _refuse_other_files(work)
    with alone(work):
        for left in work.iterdir():
            left.unlink()
        try:
            write_atomically(work / MARK, json.dumps({"format": to}) + "\n")
            counted = _write(form, rankings, work, pairs or layouts.PAIRS[0], run)
            chosen = {"pairs": pairs or layouts.PAIRS[0]} if form.row_is == "pair" else {}
            facts = {"format": to, "source": source.name} | chosen | counted | _not_ranked(run)
            if to == "llamafactory":
                info = layouts.dataset_info(facts["files"])
                write_json(work / "dataset_info.json", info)
            write_atomically(work / "README.md", cards.data_card(run, rankings, form, facts, licence))
            write_json(work / MARK, facts)
            with explained(f"writing {out}"):
                replace_folder(work, out)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)  # a full disk needs its room back
            raise
    return facts


def sentences(facts: Mapping[str, Any], out: Path) -> Iterator[str]:
    """What an export holds and what it left out, a line each."""
    row = EXPORTS[facts["format"]].row_is
    rows = ", ".join(f"{count:,} in {split}" for split, count in facts["rows"].items())
    total = sum(facts["rows"].values())
    yield f"export: {facts['rankings']:,} rankings read, {total:,} {row}s written ({rows}) -> {out}"
    for reason, count in facts["left_out"].items():
        yield f"export: left out {count:,} {reason}"


@dataclass
class _Split:
    """The file of one split: rows are written in chunks."""

    path: Path
    schema: pa.Schema | None
    count: int = 0
    _waiting: list[Row] = field(default_factory=list)
    _writer: pq.ParquetWriter | None = None

    def add(self, row: Row) -> None:
        self.count += 1
        self._waiting.append(row)
        if len(self._waiting) >= CHUNK:
            self._flush()

    def finish(self) -> None:
        self._flush()
        if self._writer is not None:
            with explained(f"writing {self.path}"):
                self._writer.close()

    def abandon(self) -> None:
        """Let the file go where writing has failed: what closing it would say is not the news."""
        if self._writer is not None:
            with suppress(OSError, pa.ArrowInvalid):
                self._writer.close()

    def _flush(self) -> None:
        rows, self._waiting = self._waiting, []
        with explained(f"writing {self.path}"):
            if self.schema is None:
                with self.path.open("a", encoding="utf-8") as file:
                    file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            else:
                self._writer = self._writer or pq.ParquetWriter(self.path, self.schema)
                self._writer.write_table(pa.Table.from_pylist(rows, schema=self.schema))


@dataclass
class _Tally:
    """What the rankings of an export say of their origin."""

    sources: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    judges: Counter[str] = field(default_factory=Counter)
    templates: Counter[str] = field(default_factory=Counter)
    not_good_natured: int = 0

    def add(self, item: Item) -> None:
        ranking = item.ranking
        self.sources.update((ranking.source or "not named").split(", "))
        self.models.update(answer.model for answer in ranking.answers)
        self.judges.update([ranking.judge] if ranking.judge else [])
        self.templates.update([ranking.template_hash] if ranking.template_hash else [])
        self.not_good_natured += not ranking.good_natured

    def facts(self) -> dict[str, Any]:
        counted = ("sources", "models", "judges", "templates")
        found = {name: dict(getattr(self, name).most_common()) for name in counted}
        return found | {"not_good_natured": self.not_good_natured}


def _write(form: Form, rankings: Path, folder: Path, pairs: str, run: Run | None) -> dict[str, Any]:
    """Write a file for each split that has rows, and count."""
    split_of = {} if run is None else tables.splits_of(run)
    systems = {} if run is None else {one.name: one.system for one in run.config.sample.generators}
    left_out: Counter[str] = Counter()
    splits: dict[str, _Split] = {}
    read: Counter[str] = Counter()
    tally = _Tally()
    try:
        for where, row in sources.table_rows(str(rankings)):
            ranking = tables.ranking_from_row(row, where)
            split = split_of.get(ranking.prompt_id, "train")
            item = Item(ranking=ranking, row=row, split=split, index=read[split], pairs=pairs, systems=systems)
            read[split] += 1
            tally.add(item)
            for made in form.write(item, left_out):
                if split not in splits:
                    splits[split] = _Split(folder / f"{split}{form.ending}", form.schema)
                splits[split].add(made)
        for one in splits.values():
            one.finish()
    except BaseException:
        for one in splits.values():
            one.abandon()
        raise
    if not read:
        raise DataError(f"export: {rankings} holds no rankings")
    if not splits:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items())
        raise DataError(
            f"export: nothing of {read.total():,} rankings in {rankings} can be written; left out: {reasons}"
        )
    named = [name for name in SPLITS if name in splits]
    return {
        "rankings": read.total(),
        "rows": {name: splits[name].count for name in named},
        "left_out": dict(left_out.most_common()),
        "files": {name: splits[name].path.name for name in named},
        **tally.facts(),
    }


def _not_ranked(run: Run | None) -> dict[str, Any]:
    """How a run's judge works, and the prompts that it could not rank, by reason."""
    if run is None:
        return {}
    shards = sorted((run.root / "unranked").glob("*.jsonl"))
    reasons = Counter(str(row["reason"]) for shard in shards for row in data_files.stream_rows(shard))
    return {"strategy": lineage.strategy(run), "unranked_reasons": dict(reasons.most_common())}


def _refuse(out: Path, to: str) -> None:
    """Refuse a place that holds anything but an export of this form."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"export: --out {out} is a file, not a folder; choose another")
    if not out.exists() or not any(out.iterdir()):
        return
    made = _marked(out)
    if made is None:
        raise UsageError(f"export: --out {out} holds other files; choose another folder")
    if made != to:
        raise UsageError(f"export: --out {out} holds an export to {made}; choose another folder for {to}")


def _refuse_other_files(work: Path) -> None:
    if work.exists() and (not work.is_dir() or (any(work.iterdir()) and not (work / MARK).exists())):
        raise UsageError(f"export: {work} is in the way, and is no export of ours; move it or choose another --out")


def _marked(folder: Path) -> str | None:
    """The form of an export of ours, None for any other folder."""
    try:
        return str(json.loads((folder / MARK).read_text())["format"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
