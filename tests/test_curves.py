"""Curves in a line of a terminal: heights worked out by hand."""

import math

import pytest

from starling.curves import Curves, sparkline
from starling.metrics import Recorder


def test_eight_even_values_are_the_eight_blocks() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([7, 6, 5, 4, 3, 2, 1, 0], 8) == "█▇▆▅▄▃▂▁"


def test_a_height_is_the_eighth_of_the_span_in_which_a_value_lies() -> None:
    # span 1 to 5, so an eighth is 0.5: 1 -> 0, 2.4 -> 1.4 / 0.5 = 2.8 -> 2, 3 -> 4, 5 -> 8, which is the last, 7
    assert sparkline([1.0, 2.4, 3.0, 5.0], 10) == "▁▃▅█"


def test_columns_share_many_values_and_show_their_mean() -> None:
    # six values in three columns: means 1, 5, 7; span 6, an eighth 0.75: 0, 4 / 0.75 = 5.33 -> 5, 8 -> 7
    assert sparkline([0, 2, 4, 6, 7, 7], 3) == "▁▆█"
    # five values in two columns: [0, 2] and [4, 4, 10], means 1 and 6
    assert sparkline([0, 2, 4, 4, 10], 2) == "▁█"


def test_no_line_is_wider_than_asked_or_than_there_are_values() -> None:
    for count in range(70):
        assert len(sparkline(list(range(count)), 28)) == min(count, 28)


def test_all_alike_is_half_way_up_and_nothing_is_nothing() -> None:
    assert sparkline([0.3, 0.3, 0.3], 9) == "▄▄▄"
    assert sparkline([], 9) == ""
    assert sparkline([1.0, 2.0], 0) == ""


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf], ids=str)
def test_what_is_no_number_leaves_a_gap_and_sways_no_mean(odd: float) -> None:
    assert sparkline([1.0, odd, 3.0], 3) == "▁ █"
    assert sparkline([1.0, odd, 3.0, 3.0], 2) == "▁█"
    assert sparkline([odd, odd], 2) == "  "


@pytest.mark.parametrize("factor", [1e-9, 3.0, 1e9])
def test_scale_and_offset_do_not_matter(factor: float) -> None:
    values = [3.3, 1.0, 4.4, 1.5, 9.0, 2.6]  # none between two blocks, where rounding decides
    assert sparkline([factor * value + 100 * factor for value in values], 6) == sparkline(values, 6)


def test_rows_say_where_a_curve_is_and_where_it_began() -> None:
    curves = Curves("fit")
    assert curves.rows(28) == []
    curves.show({"stage": "fit", "step": 1, "fit/nll": 1.79176, "fit/grad_norm": 3.0})
    curves.show({"stage": "fit", "step": 2, "fit/nll": 0.5, "fit/held_out_pair_accuracy": 0.75})
    assert curves.rows(28) == [("█▁", "nll 0.500, from 1.79"), ("▄", "held-out accuracy 0.750, from 0.750")]


def test_a_value_that_is_no_number_is_said_as_it_is() -> None:
    curves = Curves("fit")
    curves.begin([{"fit/nll": 1.0}, {"fit/nll": math.inf}])
    assert curves.rows(28) == [("▄ ", "nll inf, from 1.00")]
    curves.begin([{"fit/nll": math.nan}])
    assert curves.rows(28) == [(" ", "nll nan, from nan")]


def test_a_stage_without_curves_has_no_rows() -> None:
    curves = Curves("rank")
    curves.show({"stage": "rank", "step": 1, "rank/nll": 1.0})
    assert curves.rows(28) == []


def test_a_resumed_stage_shows_what_stands_in_the_file_and_nothing_past_the_checkpoint(tmp_path) -> None:
    first = Recorder(tmp_path / "m.jsonl", "tune")
    for step in range(4):
        first.log(step, {"reward": step / 10, "objective/kl": float(step)})
    again = Recorder(tmp_path / "m.jsonl", "tune")
    again.rewind(2)
    again.log(3, {"reward": 0.7})
    assert again.curves.rows(9) == [("▁▂▃█", "reward 0.700, from 0.00"), ("▁▅█", "KL 2.00, from 0.00")]
