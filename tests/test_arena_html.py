"""What the arena's page shows."""

import re
from html.parser import HTMLParser
from typing import Any

from starling import arena_html
from starling.benches import arena as bench
from starling.benches import ratings
from starling.benches.ratings import Verdict
from starling.records import Message

HOSTILE = '<img src=x onerror=alert(1)></div><script>alert(1)</script> **b** ${1+1} {{value}} & "q" \x1b[31m'


class Page(HTMLParser):
    """The tags and the text of a piece of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def rated() -> dict[str, Any]:
    verdicts = [Verdict(HOSTILE, "y", float(number < 9), f"p{number}") for number in range(12)]
    return ratings.rate([*verdicts, Verdict("top", "y", 1.0, "q")], resamples=50) | {"votes": 13}


def test_what_a_model_writes_is_text_and_nothing_else() -> None:
    said = [Message(role="user", content=HOSTILE), Message(role="assistant", content=HOSTILE)]
    page = Page(arena_html.panel("A", said, name=HOSTILE, won=True))
    assert page.tags == ["section", "h2", "span", "b", "div", "div"]
    assert page.text.count(HOSTILE.replace("\x1b", "\\x1b")) == 3
    assert not set("${}") & set(arena_html.panel("A", said))


def test_a_name_stands_in_a_panel_only_when_it_is_given() -> None:
    assert Page(arena_html.panel("B", [])).text == "BBoth models get the same message."
    assert Page(arena_html.panel("B", [], name="m")).text.startswith("B m")
    assert "writing" in Page(arena_html.panel("B", [], waiting=True)).text


def test_ratings_show_every_model_and_what_may_be_said() -> None:
    result = rated()
    page = Page(arena_html.ratings(result))
    assert page.tags.count("tr") == 1 + 3
    assert "has never lost to the rated models" in page.text
    assert "Ratings by 13 votes" in page.text
    assert "script" not in page.tags
    lead, length, counted, apart = bench.said(result)
    assert "leads y by 191 (" in lead
    assert length == "No ratings at equal length: 12 of 12 verdicts come without the answers' lengths."
    assert counted.startswith("12 verdicts on 12 prompts")
    assert apart == "1 verdicts are on models that are not rated."


def test_models_with_equal_ratings_stand_level() -> None:
    verdicts = [Verdict("x", "y", float(number % 2), f"p{number}") for number in range(12)]
    assert re.match(r"[xy] and [xy] stand level: 0 \(-\d+ to \+\d+\) points", bench.said(ratings.rate(verdicts))[0])


def test_where_there_are_no_ratings_the_reason_is_shown() -> None:
    page = Page(arena_html.ratings({"votes": 1, "ratings": [], "reason": "more verdicts are needed"}))
    assert page.text == "Ratings1 vote so far. More verdicts are needed."
