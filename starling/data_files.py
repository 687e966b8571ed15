"""Rows of Parquet and JSON lines, in and out: written under a temporary name and renamed."""

import codecs
import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from starling.errors import DataError, explained


def write_parquet(path: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Write a table under a temporary name and rename it."""
    with explained(f"writing {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), partial)
        os.replace(partial, path)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a Parquet, JSONL or JSONL.gz file, or of all Parquet shards of a folder in name order."""
    return list(stream_rows(path))


def stream_rows(path: Path) -> Iterator[dict[str, Any]]:
    """What `read_rows` reads, one row after the other, so that a table larger than the memory can be read."""
    return (row for _, row in located_rows(path))


def located_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The same rows, each with where it stands: its file, and its line, or in Parquet its row."""
    if path.is_dir():
        shards = sorted(path.glob("*.parquet"))
        if not shards:
            raise DataError(f"{path}: the folder holds no Parquet files")
        for shard in shards:
            yield from located_rows(shard)
    elif not path.exists():
        raise DataError(f"{path}: there is no such file")
    elif path.suffix.lower() in (".csv", ".tsv", ".xlsx"):
        raise DataError(f"{path}: a table of {path.suffix[1:]} is not read here; write it as Parquet or JSON lines")
    elif path.suffix == ".parquet":
        yield from ((f"{path}:{number}", row) for number, row in enumerate(_parquet_rows(path), 1))
    else:
        yield from _json_lines(path)


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(1024):
                yield from batch.to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a Parquet file ({str(error).splitlines()[0]})") from None


@contextmanager
def listing(path: Path, *, keep_empty: bool = False) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield what writes a row to a JSONL file, which stands once all are written; without any row there is none, not
    even an older one, or an empty one with `keep_empty`."""
    rows = 0
    partial = path.with_name(path.name + ".partial")
    with explained(f"writing {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = partial.open("w", encoding="utf-8", errors="backslashreplace")

    def write(row: Mapping[str, Any]) -> None:
        nonlocal rows
        rows += 1
        with explained(f"writing {path}"):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

    try:
        yield write
    finally:
        with explained(f"writing {path}"):  # a full disk may show only here
            file.close()
    if rows or keep_empty:
        os.replace(partial, path)
    else:
        partial.unlink()
        path.unlink(missing_ok=True)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON lines under a temporary name and rename the file; without any row it is empty."""
    with listing(path, keep_empty=True) as write:
        for row in rows:
            write(row)


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                where, text = f"{path}:{number}", line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                if text.strip():
                    yield where, _json_object(text, where)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}:{number + 1}: cannot be read ({error})") from None


def _json_object(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode())
        if b"\\ud" in line.lower():
            json.dumps(row, ensure_ascii=False).encode()  # fails on half of a character: no tokenizer reads it
    except ValueError as error:
        advice = "; a list over several lines must become one object a line" if line.strip() == b"[" else ""
        raise DataError(f"{where}: not JSON in UTF-8 ({error}){advice}") from None
    except RecursionError:
        raise DataError(f"{where}: lists or objects stand too deep in each other") from None
    if not isinstance(row, dict):
        raise DataError(f"{where}: a line must be a JSON object")
    return row
