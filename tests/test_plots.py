"""Plots as inline SVG."""

import re
from xml.etree import ElementTree

import matplotlib
import pytest

from starling import plots
from starling.plots import Plot, Series

RATES = [
    {"label": "All $x^2$ <b>", "value": 0.573, "low": 0.521, "high": 0.624, "n": 100},
    {"label": "None", "value": None, "low": None, "high": None, "n": 0},
    {"label": "Lost", "value": 0.3, "low": 0.2, "high": 0.4, "n": 10},
]
RANKS = [
    {"model": 'a"$_{b}$<script>', "rank": 1.5, "weakened": False},
    {"model": "hot", "rank": 5.708, "weakened": True},
]


LOOKS = [
    {"step": 0, "kl": 0.0, "win_rate": 0.5, "low": 0.5, "high": 0.5, "parted": False},
    {"step": 2, "kl": 1.5, "win_rate": 0.25, "low": 0.1, "high": 0.4, "parted": True},
]


def every_plot() -> list[Plot]:
    line = Series(label="reward", x=[1, 2, 3], y=[0.1, 0.2, 0.3])
    return [
        plots.forest("rates", "Win rate", RATES),
        plots.curve("curve", "Reward", [line, Series(label="other", x=[], y=[])], kept=2),
        plots.curve("share", "Finished", [line], unit="%", level=0.5, kept=0),
        plots.reward_against_kl("path", "Reward against KL", kl=[0.0, 1.0], reward=[0.1, 0.3], steps=[1, 2], kept=2),
        plots.reliability("sure", "Sure?", [{"stated": 0.3, "observed": 0.2, "n": 5}], 0.123),
        plots.mean_ranks("ranks", "Mean rank", RANKS),
        plots.by_place("place", "First", [{"value": 0.3, "low": 0.2, "high": 0.4, "n": 9}] * 2, even=0.5, unit="%"),
        plots.reward_against_kl(
            "parting", "Reward against KL", kl=[0.0, 1.0], reward=[0.1, 0.3], steps=[1, 2], kept=2, looks=LOOKS
        ),
    ]


PLOTS = every_plot()


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.name)
def test_a_plot_is_one_accessible_svg_element(plot: Plot) -> None:
    root = ElementTree.fromstring(plot.svg)
    assert (root.tag, root.get("role"), root.get("aria-label")) == ("svg", "img", plot.summary)
    assert "width" not in root.attrib
    assert root.get("viewBox", "").startswith("0 0 ")
    assert not list(root.iter("metadata")) + list(root.iter("style")) + list(root.iter("script"))


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.name)
def test_colours_and_fonts_are_those_of_the_page(plot: Plot) -> None:
    assert re.findall(r"#[0-9a-fA-F]{6}\b", plot.svg) == []
    assert "var(--" in plot.svg
    families = re.findall(r"font-family: ([^;\"]*)", plot.svg)
    assert families and set(families) == {"var(--sans)"}


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.name)
def test_nothing_is_loaded_from_elsewhere(plot: Plot) -> None:
    assert "http" not in plot.svg
    assert all(link.startswith(f"#{plot.name}-") for link in re.findall(r'href="([^"]*)"', plot.svg))


def test_ids_are_unique_over_all_plots_and_every_reference_has_its_target() -> None:
    ids = [found for plot in PLOTS for found in re.findall(r'\bid="([^"]*)"', plot.svg)]
    assert len(ids) == len(set(ids))
    references = {found for plot in PLOTS for found in re.findall(r'(?:href="#|url\(#)([^")]*)', plot.svg)}
    assert references and references <= set(ids)


def test_labels_are_text_and_are_taken_literally() -> None:
    texts = [element.text for element in ElementTree.fromstring(PLOTS[0].svg).iter("text")]
    assert "All $x^2$ <b>" in texts
    assert "57.3 % (52.1 to 62.4), n = 100" in texts
    assert "None" not in texts


def test_a_control_character_in_a_label_is_written_out() -> None:
    plot = plots.forest("odd", "Rates", [RATES[0] | {"label": "a\x1b[2J", "group": "b\x07"}])
    drawn = "".join(ElementTree.fromstring(plot.svg.replace(plot.summary, "")).itertext())
    assert "a\\x1b[2J" in drawn and "b\\x07" in drawn


def test_a_long_label_leaves_room_for_its_figures_and_is_whole_in_the_sentence() -> None:
    plot = plots.forest("long", "Rates", [RATES[0] | {"label": "x" * 40}])
    assert "x" * 23 + "..." in plot.svg.replace(plot.summary, "")
    assert "x" * 40 in plot.summary and "x" * 24 not in plot.svg.replace(plot.summary, "")


def test_the_sentence_of_a_forest_has_its_figures() -> None:
    assert PLOTS[0].summary == (
        "Win rate: All $x^2$ <b> 57.3 % (52.1 to 62.4), n = 100; Lost 30.0 % (20.0 to 40.0), n = 10."
    )


def test_rows_of_a_group_stand_below_its_name() -> None:
    rows = [RATES[0] | {"group": "All"}, RATES[2] | {"group": "All"}, RATES[2] | {"group": "Held-out"}]
    plot = plots.forest("groups", "Win rates", rows)
    assert plot.summary == (
        "Win rates: All: All $x^2$ <b> 57.3 % (52.1 to 62.4), n = 100; Lost 30.0 % (20.0 to 40.0), n = 10. "
        "Held-out: Lost 30.0 % (20.0 to 40.0), n = 10."
    )
    drawn = "".join(ElementTree.fromstring(plot.svg).itertext())
    assert drawn.index("All") < drawn.index("Held-out") < len(drawn)
    places, headings = plots._places(rows)
    assert places == pytest.approx([0.8, 1.8, 3.6]) and headings == [(0.0, "All"), (pytest.approx(2.8), "Held-out")]


def test_the_sentence_of_a_curve_has_both_ends_and_the_kept_step() -> None:
    assert PLOTS[1].summary == "Reward: reward from 0.100 at step 1 to 0.300 at step 3. Step 2 was kept."


def test_the_sentence_of_the_ranks_marks_the_weakened() -> None:
    assert PLOTS[5].summary.endswith("hot (weakened) 5.71.")


@pytest.mark.parametrize(
    "plot",
    [
        lambda: plots.forest("a", "A", []),
        lambda: plots.curve("a", "A", []),
        lambda: plots.reliability("a", "A", [], None),
        lambda: plots.mean_ranks("a", "A", []),
        lambda: plots.reward_against_kl("a", "A", kl=[], reward=[], steps=[], kept=None),
    ],
)
def test_nothing_to_draw_is_drawn_empty(plot) -> None:
    assert plot().svg.startswith("<svg")


def test_the_plot_of_reward_against_kl_tells_what_the_judge_said() -> None:
    (plot,) = (plot for plot in PLOTS if plot.name == "parting")
    assert "The judge's win rate went from 50.0 % at KL 0.00 to 25.0 % at KL 1.50 (step 2)." in plot.summary
    assert plot.summary.endswith("Reward and judge had parted at steps 2.")
    assert "judge's win rate (squares)" in plot.svg
    assert "step 2, kept" in plot.svg  # at the look: the rollouts of step 2 are of the policy before it
    assert not any("kept" in one.svg for one in PLOTS if one.name == "path")


def test_matplotlibs_settings_are_left_as_they_were() -> None:
    before = dict(matplotlib.rcParams)
    every_plot()
    assert dict(matplotlib.rcParams) == before


def test_the_same_figures_give_the_same_svg() -> None:
    assert [plot.svg for plot in every_plot()] == [plot.svg for plot in PLOTS]


def test_a_plot_by_place_says_each_place_and_the_level_without_effect() -> None:
    scores = [{"value": 1.5, "low": 1.2, "high": 1.8, "n": 9}, {"value": 2.25, "low": None, "high": None, "n": 1}]
    plot = plots.by_place("rank", "Mean rank", scores, even=2.0)
    assert plot.summary == "Mean rank: place 1 1.50; place 2 2.25. Without any effect of place 2.00."
    # the interval of the first place leaves 2 out, so it alone is in colour
    assert "var(--base)" in plot.svg
    assert "var(--base)" not in plots.by_place("rank", "Mean rank", scores[1:], even=2.25).svg
