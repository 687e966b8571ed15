"""A drawn plot as an element of a page."""

import re
from xml.etree import ElementTree

from matplotlib.axes import Axes

from starling import svg


def draw(axes: Axes) -> None:
    axes.plot([0, 1, 2], [0, 5, -5], "o-", color=svg.TUNED)
    axes.set_ylim(-1, 1)  # so that something is clipped, by an id
    axes.text(0.0, 0.0, "a < b & $c$")


def test_what_is_drawn_comes_with_its_name_title_and_sentence() -> None:
    found = svg.plot("one", "One", "One: a & b.", 1.5, draw)
    assert (found.name, found.title, found.summary) == ("one", "One", "One: a & b.")
    root = ElementTree.fromstring(found.svg)
    assert (root.get("role"), root.get("aria-label")) == ("img", "One: a & b.")
    assert [text.text for text in root.iter("text")].count("a < b & $c$") == 1


def test_ids_and_what_points_at_them_begin_with_the_plots_name() -> None:
    text = svg.plot("one", "One", "One.", 1.5, draw).svg
    ids = re.findall(r'\bid="([^"]*)"', text)
    pointed = re.findall(r'(?:href="#|url\(#)([^")]*)', text)
    assert ids and pointed and all(one.startswith("one-") for one in ids) and set(pointed) <= set(ids)


def test_a_colour_is_the_pages_variable_and_the_height_is_as_asked_for() -> None:
    low, high = (ElementTree.fromstring(svg.plot("one", "One", "One.", height, draw).svg) for height in (1.5, 3.0))
    assert "var(--tuned)" in ElementTree.tostring(low, encoding="unicode")
    heights = [float(root.attrib["viewBox"].split()[3]) for root in (low, high)]
    assert heights == [1.5 * 72, 3.0 * 72]  # points
