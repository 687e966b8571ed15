"""Foreign text, from models and files, made safe to show: on a terminal and in Markdown."""

import re
import unicodedata

from rich.text import Text

# Controls, marks that turn the direction of writing, and lone surrogates; tab and new line stay.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]|~$])")


def visible(text: str) -> str:
    r"""The text with every character that could steer a terminal written out: an escape becomes `\x1b`."""
    return _UNSEEN.sub(lambda match: match.group().encode("unicode_escape", "surrogatepass").decode(), text)


def terminal(text: object, style: str = "") -> Text:
    """The text as rich prints it to the letter: without escapes, and its brackets are no markup."""
    return Text(visible(str(text)), style=style)


def markdown(text: object) -> str:
    """The text as one line of Markdown that means nothing but itself, also in a table's cell."""
    line = " ".join(visible(unicodedata.normalize("NFC", str(text))).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(r"\\\1", line)
