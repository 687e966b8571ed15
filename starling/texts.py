"""Foreign text, from models and files, made safe to show: on a terminal, also in tables, and in Markdown."""

import re
import unicodedata
from collections.abc import Collection

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

# Controls, marks that turn the direction of writing, and lone surrogates; tab and new line stay.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_KEY = re.compile(r"\bsk-[\w*-]+")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]|~$])")


def visible(text: str) -> str:
    r"""The text with every character that could steer a terminal written out: an escape becomes `\x1b`."""
    return _UNSEEN.sub(lambda match: match.group().encode("unicode_escape", "surrogatepass").decode(), text)


def terminal(text: object, style: str = "") -> Text:
    """The text as rich prints it to the letter: without escapes, and its brackets are no markup."""
    return Text(visible(str(text)), style=style)


def passed_on(text: object, key: str = "", most: int = 200) -> str:
    """What a server says, as one short line without the key, which some repeat when they refuse it."""
    whole = str(text).encode("utf-8", "replace").decode()
    line = visible(" ".join((whole.replace(key, "***") if key else whole).split()))
    return _KEY.sub("***", line)[:most]


def table(*columns: str, right: Collection[str] = ("n",), title: str = "", title_style: str = "") -> Table:
    """A table for a terminal, still without rows: long cells go on in the next line, numbers stand `right`."""
    found = Table(
        title=title or None,
        title_style=title_style,
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for column in columns:
        found.add_column(column, overflow="fold", justify="right" if column in right else "left")
    return found


def markdown(text: object) -> str:
    """The text as one line of Markdown that means nothing but itself, also in a table's cell."""
    line = " ".join(visible(unicodedata.normalize("NFC", str(text))).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(r"\\\1", line)
