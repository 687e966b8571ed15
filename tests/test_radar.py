"""The radar plot of a benchmark by category."""

import re
from pathlib import Path

from starling.benches import radar

FIGURES = {"ours": {"math": 2.0, "writing": 8.0, "stem": 5.0}, "rival": {"math": 3.0, "writing": 6.0}}


def test_a_plot_names_models_and_categories_and_is_the_same_each_time(tmp_path: Path) -> None:
    written = radar.draw("MT-Bench", FIGURES, (0, 10), tmp_path / "a" / "radar")
    assert [path.name for path in written] == ["radar.svg", "radar.png"]
    text = written[0].read_text()
    assert all(word in text for word in ("MT-Bench", "ours", "rival", "math", "writing", "stem"))
    radar.draw("MT-Bench", FIGURES, (0, 10), tmp_path / "b" / "radar")
    assert (tmp_path / "b" / "radar.svg").read_text() == text


def test_names_of_categories_stand_beside_the_rim_and_not_across_it(tmp_path: Path) -> None:
    text = radar.draw("MT-Bench", FIGURES, (0, 10), tmp_path / "radar")[0].read_text()
    found = {name: anchor for anchor, name in re.findall(r"text-anchor: (\w+)[^>]*>(math|writing|stem)<", text)}
    assert found == {"math": "middle", "writing": "start", "stem": "end"}  # above, on the right, on the left


def test_two_categories_span_no_area_and_give_no_plot(tmp_path: Path) -> None:
    assert radar.draw("x", {"m": {"math": 1.0, "stem": 2.0}}, (0, 10), tmp_path / "radar") == []
    assert list(tmp_path.iterdir()) == []
