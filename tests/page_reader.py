"""A page of ours as a browser would see it."""

import html
import re
from functools import reduce
from html.parser import HTMLParser
from typing import Any

from starling import figures

VOID = {"meta", "input", "br", "img", "link", "hr"}


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, texts of marked numbers, and the text of the body."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.numbers: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.text = ""
        self._number: tuple[str, str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        found = dict(attrs)
        if "data-figure" in found:
            self._number = (str(found["data-figure"]), str(found["data-at"]))
            self.numbers.append((*self._number, ""))

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)
        self._number = None if tag == "span" else self._number

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("script", "style"):
            return
        self.text += data
        if self._number:
            kind, at, text = self.numbers[-1]
            self.numbers[-1] = (kind, at, text + data.replace("\u00a0", " "))

    def ids(self) -> list[str]:
        return [str(attributes["id"]) for _, attributes in self.elements if "id" in attributes]


def wrong_numbers(page: Page, numbers: Any) -> list[tuple[str, str]]:
    """Place and text of each marked number that is not what the JSON has at that place."""
    return [(place, text) for kind, place, text in page.numbers if figures.FORMATS[kind](at(numbers, place)) != text]


def typed_numbers(text: str, *without: str) -> set[str]:
    """The numbers of the body that are not marked, outside plots, texts of models and the elements `without`."""
    body = text.partition("<body>")[2]
    apart = (
        f"<({'|'.join(('script', 'svg', *without))})\\b.*?</\\1>",
        "<span data-figure.*?</span>",
        '<div class="text">.*?</div>',
        '"opening">.*?</span>',
    )
    rest = html.unescape(re.sub(r"<[^>]*>", " ", re.sub(f"(?s){'|'.join(apart)}", "", body)))
    return set(re.findall(r"(?<![\w-])\d[\d.,]*\b", rest))


def at(numbers: Any, pointer: str) -> Any:
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    return reduce(lambda inner, part: inner[int(part)] if isinstance(inner, list) else inner[part], parts, numbers)
