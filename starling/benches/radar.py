"""A radar plot: figures by category on as many axes, one outline for each model."""

import math
from collections.abc import Mapping
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.projections.polar import PolarAxes

from starling.errors import explained

MOST = 6  # outlines that can be told apart
FEWEST = 3  # axes that span an area


def draw(
    title: str, by_category: Mapping[str, Mapping[str, float]], limits: tuple[float, float], stem: Path
) -> list[Path]:
    """Write `stem`.svg and `stem`.png with the first models; none where there are too few categories.

    Each axis runs from the lower limit in the centre to the upper one at the rim. A model without a figure in some
    category has a gap there.
    """
    categories = list(dict.fromkeys(name for figures in by_category.values() for name in figures))
    if len(categories) < FEWEST:
        return []
    low, high = limits
    angles = [2 * math.pi * at / len(categories) for at in range(len(categories))]
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "starling", "text.parse_math": False}):
        figure = Figure(figsize=(6.4, 5.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot(projection="polar")
        assert isinstance(axes, PolarAxes)
        axes.set_theta_offset(math.pi / 2)
        axes.set_theta_direction(-1)
        axes.set_ylim(low, high)
        axes.set_xticks(angles, [name.replace("_", " ") for name in categories])
        for name, figures in list(by_category.items())[:MOST]:
            values = [figures.get(category, math.nan) for category in categories]
            axes.plot([*angles, angles[0]], [*values, values[0]], linewidth=1.6, marker="o", markersize=3, label=name)
            axes.fill(angles, [low if math.isnan(value) else value for value in values], alpha=0.08)
        axes.tick_params(axis="x", pad=4)
        for label, angle in zip(axes.get_xticklabels(), angles, strict=True):  # beside the rim, not across it
            side = math.sin(angle)
            label.set_horizontalalignment("center" if abs(side) < 0.01 else "left" if side > 0 else "right")
        axes.set_title(title, pad=16)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), frameon=False, fontsize=8)
        written = [stem.with_name(f"{stem.name}.{ending}") for ending in ("svg", "png")]
        for path in written:
            with explained(f"writing {path}"):
                path.parent.mkdir(parents=True, exist_ok=True)
                metadata = {"Date": None} if path.suffix == ".svg" else None
                figure.savefig(path, dpi=150, metadata=metadata)
    return written
