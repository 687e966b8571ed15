"""Where prompts come from: the rows of a FILE, a folder or a `datasets` set, one at a time."""

import csv
import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from starling import data_files, forms, tables
from starling.config import Source
from starling.errors import DataError
from starling.forms import At, Found, Unusable

BUILTIN = "builtin"
_ENDINGS = (".parquet", ".jsonl", ".jsonl.gz", ".csv", ".csv.gz")
# Columns whose cells in a CSV file are JSON; those of truth values, which Python writes otherwise; and those that hold
# a text or a JSON list of messages. All others are texts.
_TRUTH_CELLS = frozenset(("good_natured", "finished"))
_JSON_CELLS = _TRUTH_CELLS | {
    "messages", "conversation", "conversations", "answers", "completions", "facts", "topic", "checks", "ranks",
    "orders", "rankings", "marks", "agreement", "self_agreement",
}  # fmt: skip
_TEXT_OR_MESSAGES = frozenset(("prompt", "chosen", "rejected"))
_PYTHON_MESSAGES = re.compile(r"\[\{'(role|content)': ")  # what str() makes of them
_ARRAY = ".json"  # one list that holds all rows; `datasets` reads it
_ABOUT = frozenset(("export.json", "dataset_info.json", "dataset_infos.json"))  # tell of the tables beside them


class Removal(NamedTuple):
    """A prompt that is left out: why, the prompt or question that it collided with, and more about it."""

    prompt_id: str
    source: str
    reason: str
    of: str = ""
    detail: str = ""


def name_of(source: Source) -> str:
    """What the source is called in the `source` column and in ids."""
    if source.name or source.path == BUILTIN:
        return source.name or "starling"
    return Path(source.path.removesuffix(".gz")).stem if is_local(source.path) else source.path


def found(source: Source) -> Iterator[Found | Removal]:
    """Every prompt of a resolved source in the order of its rows, and a removal for each row that has none."""
    if source.path == BUILTIN:
        for prompt in tables.builtin_prompts():
            yield Found(prompt=replace(prompt, source=name_of(source)))
        return
    name = name_of(source)
    first = forms.FORMS[source.form].first_turn if source.turns == "auto" else source.turns == "first"
    for number, (where, row) in enumerate(_located(source), 1):
        at = At(id=f"{name}-{number}", where=where, source=name, model=source.model or name, first_turn=first)
        try:
            yield from forms.read(row, source.form, at)
        except Unusable as unusable:
            yield Removal(at.id, name, unusable.reason, detail=str(unusable))


def resolved(source: Source) -> Source:
    """The source with the form of its rows, where need be as its first row shows it."""
    if source.path == BUILTIN or source.form != "auto":
        return source
    where, first = next(_located(source), ("", None))
    if first is None:
        raise DataError(f"prompts: the source {source.path} has no rows")
    return source.model_copy(update={"form": forms.form_of(first, where)})


def rows(source: Source) -> Iterator[dict[str, Any]]:
    """The rows of a source as they stand there."""
    return (row for _, row in _located(source))


def _located(source: Source) -> Iterator[tuple[str, dict[str, Any]]]:
    """The same rows, each with where it stands: file and line, or row where it has no lines."""
    return islice(_all_located(source), source.rows or None)


def files(folder: Path) -> list[Path]:
    """The tables in a folder, by name."""
    if (folder / "config.json").exists() and any(folder.glob("*.safetensors")):
        raise DataError(f"{folder}: a model's folder, where tables are read; name a file or a folder of rows")
    ends = (*_ENDINGS, _ARRAY)
    return sorted(file for file in folder.iterdir() if file.name.endswith(ends) and file.name not in _ABOUT)


def located_rows(path: str, part: str = "train") -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of FILE, folder or `datasets` set, each with where it stands: file and line, or name of the set and row;
    in a Parquet or JSON file it is the row as well."""
    return _located(Source(path=path, part=part))


def table_rows(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """As `located_rows`, of a stage's folder too: where there are Parquet files these alone, since what was left out
    stands beside them. A name that is neither a path nor OWNER/NAME is a file that is not there."""
    if "/" not in path and not Path(path).exists():
        raise DataError(f"{path}: there is no such file")
    folder = Path(path).expanduser()
    yield from data_files.located_rows(folder) if any(folder.glob("*.parquet")) else located_rows(path)


def _all_located(source: Source) -> Iterator[tuple[str, dict[str, Any]]]:
    path = Path(source.path).expanduser()
    if not is_local(source.path):
        yield from _data_set(source, source.path)
    elif path.is_dir():
        found_files = files(path)
        if not found_files:  # data files in folders of their own: what `datasets` knows how to lay together
            yield from _data_set(source, str(path))
        for file in found_files:
            yield from _file_rows(source, file)
    else:
        yield from _file_rows(source, path)


def _file_rows(source: Source, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if path.name.endswith((".csv", ".csv.gz")):
        yield from _csv_rows(path)
    elif path.suffix == _ARRAY and path.exists():
        yield from _data_set(source.model_copy(update={"subset": "", "part": "train"}), "json", str(path))
    else:
        yield from data_files.located_rows(path)


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows without the columns that are empty, but for `answer`: a model may have had nothing to say."""
    csv.field_size_limit(2**31 - 1)  # its own limit of 128 KiB is less than some prompts
    line = 1
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8-sig", newline="")
            if path.suffix == ".gz"
            else path.open(encoding="utf-8-sig", newline="") as file
        ):
            reader = csv.DictReader(file, strict=True)
            for row in reader:
                line = reader.line_num
                if None in row:
                    raise DataError(f"{path}:{line}: a row has more cells than the heading")
                filled = {column: text for column, text in row.items() if text or column == "answer"}
                yield (
                    f"{path}:{line}",
                    {column: _cell(column, text, f"{path}:{line}") for column, text in filled.items()},
                )
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (csv.Error, UnicodeDecodeError, OSError, EOFError) as error:
        raise DataError(f"{path}:{line}: cannot be read as CSV in UTF-8 ({error})") from None


def _cell(column: str, text: str, where: str) -> Any:
    if column in _TEXT_OR_MESSAGES:
        return _text_or_messages(column, text, where)
    if column not in _JSON_CELLS:
        return text
    try:
        return json.loads(text.lower() if column in _TRUTH_CELLS else text)
    except ValueError:
        raise DataError(f"{where}: `{column}` holds {text[:40]!r}, where JSON is expected") from None


def _text_or_messages(column: str, text: str, where: str) -> Any:
    """The messages where a cell is a JSON list of such; else the text as it stands, which may be other JSON."""
    if _PYTHON_MESSAGES.match(text):
        raise DataError(f"{where}: `{column}` holds messages as Python prints them, not as JSON: {text[:40]!r}")
    if not text.startswith("[{"):
        return text
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return found if all(isinstance(one, dict) and {"role", "content"} <= one.keys() for one in found) else text


def _data_set(source: Source, path: str, data_files: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of what `datasets.load_dataset` finds; code that a set brings along is never run."""
    from datasets import load_dataset  # loads pandas and more, which the other sources need not wait for
    from datasets.exceptions import DatasetsError

    named = data_files or path
    try:
        found = load_dataset(
            path, source.subset or None, data_files=data_files, split=source.part, streaming=source.rows > 0
        )
        yield from ((f"{named}:{number}", row) for number, row in enumerate(found, 1))
    except StopIteration:  # what an empty file makes of it
        raise DataError(f"{named}: there is no row in it") from None
    except (DatasetsError, OSError, ValueError, RuntimeError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        if isinstance(error, FileNotFoundError) and Path(path).is_dir():
            raise DataError(f"{path}: the folder holds no Parquet, JSONL, CSV or JSON files ({said[0]})") from None
        raise DataError(
            f"cannot load {named} as a data set ({said[0]}); check the name, `subset`, `part`, "
            "the network and, for a set behind a login, HF_TOKEN"
        ) from None


def is_local(path: str) -> bool:
    """Whether a path means something on this disk, there or not, rather than the name of a `datasets` set: what is
    looked for in a folder that is there is a file."""
    named = path.endswith((*_ENDINGS, _ARRAY)) or path.startswith(("/", "./", "../", "~"))
    return named or Path(path).exists() or ("/" in path and Path(path).parent.exists())
