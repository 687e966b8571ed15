"""A plot as inline SVG: text stays text, colours are the page's CSS variables, ids are unique to the plot.

Drawn small, so that it fits a phone.
"""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Colours that stand for CSS variables until the SVG is written; no two alike, none used otherwise.
_COLOURS = {
    "ink": "#0a0b01",
    "muted": "#0a0b02",
    "grid": "#0a0b03",
    "base": "#0a0b04",
    "tuned": "#0a0b05",
    "good": "#0a0b06",
    "bad": "#0a0b07",
}
INK, MUTED, GRID, BASE, TUNED, GOOD, BAD = _COLOURS.values()
_STYLE: Any = {  # rc_context takes only a closed set of keys as its type
    "svg.fonttype": "none",
    "svg.hashsalt": "starling",
    "text.parse_math": False,
    "font.size": 8.5,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "legend.frameon": False,
}
_WIDTH = 3.85


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A drawn plot: its title, one sentence with its figures, and the SVG."""

    name: str
    title: str
    summary: str
    svg: str


def plot(name: str, title: str, summary: str, height: float, draw: Callable[[Axes], None]) -> Plot:
    """What `draw` draws, under a title and with its sentence; `height` is in inches."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        draw(axes)
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    return Plot(name=name, title=title, summary=summary, svg=_for_page(buffer.getvalue(), name, summary))


def _for_page(svg: str, name: str, summary: str) -> str:
    """The bare `<svg>` element, as HTML wants it: no namespaces, no fixed size, no style of its own, ids of its own."""
    root = ElementTree.fromstring(svg)
    for parent in root.iter():
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        element.attrib = {_local(key): _own(_local(key), value, name) for key, value in element.attrib.items()}
        element.tail = None
    box = root.attrib["viewBox"]
    root.attrib = {"class": "plot", "role": "img", "aria-label": summary, "viewBox": box}
    return ElementTree.tostring(root, encoding="unicode")


def _local(name: Any) -> str:
    return str(name).rpartition("}")[2]


def _own(key: str, value: str, name: str) -> str:
    """An attribute with ids made the plot's own, and colours and fonts made the page's."""
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return f"#{name}-{value[1:]}"
    value = re.sub(r"(?<=url\(#)", f"{name}-", value)
    if key == "style":
        value = re.sub(r"font-family: [^;]*", "font-family: var(--sans)", value)
        value = re.sub(r"(font: [^;]*?\dpx) [^;]*", r"\1 var(--sans)", value)
    for variable, colour in _COLOURS.items():
        value = value.replace(colour, f"var(--{variable})")
    return value
