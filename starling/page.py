"""A page that needs nothing but itself, and whose every number is the one in the JSON file beside it."""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from starling import figures
from starling.writing import write_atomically, write_json


def render(template: str, numbers: Mapping[str, Any], scripts: Sequence[str], **texts: Any) -> str:
    """The page of a template that extends `page.html.jinja`.

    Its `figure(kind, *path)` writes the number at that place of `numbers`, which is `found` there, and names the
    place. The `scripts` of `pages/` run one after the other; no other script may.
    """

    script = "".join(map(_file, scripts))
    return environment().get_template(template).render(
        found=numbers,
        figure=partial(figure, numbers),
        css=_file("report.css"),
        script=script,
        script_hash="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **texts,
    )  # fmt: skip


def figure(numbers: Mapping[str, Any], kind: str, *path: str | int) -> Markup:
    """The number at a place as people read it, marked with its kind and its place."""
    value: Any = numbers
    for part in path:
        value = value[part]
    text = figures.FORMATS[kind](value).replace(" %", "\u00a0%").replace("n = ", "n\u00a0=\u00a0")  # not torn apart
    return Markup('<span data-figure="{}" data-at="{}">{}</span>').format(kind, pointer(path), text)


def environment() -> Environment:
    """The templates of `pages/`, where all that is not marked as safe is escaped."""
    return Environment(
        loader=PackageLoader("starling", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )


def write(path: Path, page: str, numbers: Mapping[str, Any]) -> None:
    """Write the numbers beside the page, then the page."""
    write_json(path.with_suffix(".json"), numbers)
    write_atomically(path, page)


def pointer(path: Iterable[str | int]) -> str:
    """The place of a number in the JSON file as a JSON pointer (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def _file(name: str) -> str:
    return (files("starling") / "pages" / name).read_text(encoding="utf-8")
