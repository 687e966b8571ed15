"""What is wrong with a recipe, in one line that names the table, the key and the line in the file."""

import difflib
import re
from collections import Counter
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

LONGEST = 200  # characters of a value that are shown beside what is wrong with it


def explain(
    error: ValidationError, path: Path, text: str, config: type[BaseModel], overridden: AbstractSet[str] = frozenset()
) -> str:
    """What is wrong first, where it stands, and the nearest known key; `overridden` keys do not stand in the file."""
    first = error.errors()[0]
    where = [str(part) for part in first["loc"]]
    at = place(path, text, where, overridden)
    key = where[-1]
    table = f"[{'.'.join(where[:-1])}]" if where[:-1] else "the file"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, _known_keys(where[:-1], config), 1, 0.5)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(_known_keys(where[:-1], config))}"
        return f"config: {table} has no key {key!r}{hint}{at}{more}"
    if first["type"] == "missing":
        return f"config: {table} lacks {key!r} ({path}){more}"
    near = difflib.get_close_matches(str(first["input"]), _choices(first), 1, 0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    given = f" = {first['input']!r}"
    whole = len(given) <= LONGEST and "{" not in given  # tables hold more than was written
    shown = given if whole and first["type"] != "unshown" else ""
    return f"config: {table} {key}{shown}: {first['msg']}{hint}{at}{more}"


def _choices(error: Any) -> list[str]:
    """The values that a key may have, where it is one of a few."""
    return re.findall(r"'([^']*)'", error["ctx"]["expected"]) if error["type"] == "literal_error" else []


def _known_keys(where: list[str], config: type[BaseModel]) -> list[str]:
    model: Any = config
    for part in where:
        if part.isdigit():
            continue
        annotation = model.model_fields[part].annotation
        while inside := getattr(annotation, "__args__", ()):  # a tuple of tables, or none
            annotation = inside[0]
        model = annotation
    return list(model.model_fields)


def place(path: Path, text: str, where: list[str], overridden: AbstractSet[str]) -> str:
    """Where the table or key at `where` was given: on the command line, or in a line of the file."""
    return " (--set)" if ".".join(where[:2]) in overridden else line(path, text, where)


def line(path: Path, text: str, where: list[str]) -> str:
    """The first line of the table or key that stands at `where`; "" where no line names it."""
    wanted = ".".join(where) + "."
    table = ""
    seen: Counter[str] = Counter()  # [[tables]] of one name are numbered, as pydantic numbers them
    for number, line in enumerate(text.splitlines(), 1):
        key = ""
        if header := re.match(r"\s*(\[\[?)\s*([\w.-]+)", line):
            bracket, name = header.groups()
            table = f"{name}." if bracket == "[" else f"{name}.{seen[name]}."
            seen[name] += 1
        elif assigned := re.match(r"\s*([\w.-]+)\s*=", line):
            key = f"{assigned[1]}."
        if (table + key).startswith(wanted):
            return f" ({path}:{number})"
    return ""
