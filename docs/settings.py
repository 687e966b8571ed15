"""Write docs/settings.md: every setting of a CONFIG with its values, default and help, from the tables themselves.

python docs/settings.py
"""

from collections.abc import Container, Iterator
from pathlib import Path
from types import NoneType
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from starling.config import Config
from starling.judge_settings import JudgeTable, PanelTable
from starling.settings import Table
from starling.tune_settings import READS, TuneTable

PAGE = Path(__file__).parent / "settings.md"
HEAD = """# Settings

Every key of a CONFIG, written by `python docs/settings.py` from the tables in `starling/`. A recipe sets some of them:
`starling run RECIPE --dry-run` prints what holds. `--set TABLE.KEY=VALUE` sets one for a run. Keys marked *, and the
address in `tune.sampler`, may change in a run that was begun; any other wants a run of its own (`--from` takes over
what agrees).
"""
_SIGNS = {Ge: (">=", "ge"), Gt: (">", "gt"), Le: ("<=", "le"), Lt: ("<", "lt")}
_APA = {"apa": "apa, anchor initial", "apa_sampling": "apa, anchor sampling"}


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_tables(Config, "")])


def _tables(table: type[Table], path: str) -> Iterator[str]:
    """The tables within a table, each with its keys, then those within it."""
    for key, field in table.model_fields.items():
        inner = _inner(field.annotation)
        if inner is None or inner is table:
            continue
        name = f"{path}{key}"
        yield f"## `{f'[[{name}]]' if _is_list(field.annotation) else f'[{name}]'}`\n"
        if inner is JudgeTable:
            yield f"The keys of `[{path[:-1]}]` from `judge` to `max_new_tokens`, for each judge of a panel.\n"
            continue
        if name == "evaluate":
            yield "The keys of `[rank]` from `judge` to `judges`, here for the test, and:\n"
        yield from _rows(inner, leave_out=PanelTable.model_fields if name == "evaluate" else ())
        yield ""
        yield from _tables(inner, f"{name}.")


def _rows(table: type[Table], leave_out: Container[str]) -> Iterator[str]:
    reads = table is TuneTable
    yield "| key | values | default | what it says |" + (" read by |" if reads else "")
    yield "|---|---|---|---|" + ("---|" if reads else "")
    for key, field in table.model_fields.items():
        if key in leave_out:
            continue
        star = " *" if key in table.may_change | table.may_grow else ""
        cells = [f"`{key}`{star}", _values(field), _default(field), _text(field.description or "")]
        yield "| " + " | ".join([*cells, _readers(key)] if reads else cells) + " |"


def _readers(key: str) -> str:
    names = [name for name, keys in READS.items() if key in keys]
    if len(names) in (0, len(READS)):
        return "all"
    if names == [name for name, keys in READS.items() if "rollouts_per_prompt" in keys]:
        return "all that sample"
    both = {"apa", "apa_sampling"} <= set(names)
    return ", ".join(name if both else _APA.get(name, name) for name in names if not (both and name == "apa_sampling"))


def _inner(annotation: Any) -> type[Table] | None:
    """The table that a field holds, or a list of."""
    if isinstance(annotation, type) and issubclass(annotation, Table):
        return annotation
    return next((found for one in get_args(annotation) if (found := _inner(one))), None)


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) is tuple or any(_is_list(one) for one in get_args(annotation))


def _values(field: FieldInfo) -> str:
    bounds = [
        f"{sign} {getattr(one, name)}"
        for kind, (sign, name) in _SIGNS.items()
        for one in field.metadata
        if isinstance(one, kind)
    ]
    return _text(", ".join([_kind(field.annotation), *bounds]))


def _kind(annotation: Any) -> str:
    """What may stand there, in words."""
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{_toml(one)}`" for one in get_args(annotation))
    if _inner(annotation):
        return "tables" if _is_list(annotation) else "table"
    if get_origin(annotation) is tuple:
        return f"list of {_kind(get_args(annotation)[0])}"
    if get_origin(annotation) is Union or NoneType in get_args(annotation):
        return " or ".join(_kind(one) for one in get_args(annotation) if one is not NoneType)
    return {str: "text", int: "whole number", float: "number", bool: "`true`, `false`"}[annotation]


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "must be given"
    return "none" if field.default is None else f"`{_toml(field.default)}`"


def _toml(value: Any) -> str:
    if isinstance(value, Table):
        return "{" + ", ".join(f"{key} = {_toml(getattr(value, key))}" for key in value.model_fields_set) + "}"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def _text(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
