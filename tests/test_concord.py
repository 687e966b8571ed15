"""How far the judges of a panel agree, by hand and by another road."""

import math
from itertools import product

import numpy as np
import pytest
from test_panel_rows import UNREAD, row_of
from test_several import Says
from tolerances import EXACT

from starling import concord, panel_rows, stats
from starling.concord import Concord
from starling.judges.protocol import Judged

NAN = math.nan


def concord_of(rows: list[dict], unranked: list[dict] | None = None, judges: int = 2) -> Concord:
    found = Concord([Says(f"judge {number}", template_hash="ab") for number in range(judges)], [1] * judges)
    found.add(rows, unranked or [])
    return found


def said(*ranks: list[float] | None) -> dict:
    return row_of(*(UNREAD if one is None else Judged(ranks=one) for one in ranks))


def test_tau_is_the_mean_over_prompts_that_both_ranked_and_ties_of_all_are_counted() -> None:
    rows = [said([1, 2, 3], [1, 2, 3]), said([1, 2, 3], [2, 1, 3]), said([1, 1, 1], [1, 2, 3]), said([1, 2, 3], None)]
    (found,) = concord_of(rows).facts([None, None])["agreement"]
    assert found["between"] == ["judge 0", "judge 1"]
    # 1 and (2 - 1) / 3; the third has no tau, the fourth no second judge
    assert found["tau"]["value"] == pytest.approx((1 + 1 / 3) / 2, abs=EXACT)
    assert (found["tau"]["n"], found["all_tied"], found["alpha"]["n"]) == (2, 1, 9)


def test_judges_alike_agree_wholly_and_opposed_ones_wholly_not() -> None:
    alike = concord_of([said([1, 2, 3], [1, 2, 3]), said([2, 3, 1], [2, 3, 1])]).facts([None] * 2)["agreement"][0]
    assert (alike["tau"]["value"], alike["alpha"]["value"]) == (pytest.approx(1), pytest.approx(1))
    opposed = concord_of([said([1, 2, 3], [3, 2, 1])]).facts([None] * 2)["agreement"][0]
    # 1 2 3 twice each have the middle ranks 1.5 3.5 5.5. Within the units the two differ by 4, 0, 4: D_o = 32 / 3.
    # Of 6 x 5 ordered pairs of values 16 differ by 2 and 8 by 4: D_e = (16 x 4 + 8 x 16) / 30 = 192 / 30
    assert opposed["tau"]["value"] == pytest.approx(-1)
    assert opposed["alpha"]["value"] == pytest.approx(1 - (32 / 3) / (192 / 30))


def test_judges_that_rank_more_answers_than_a_byte_has_halves_agree_all_the_same() -> None:
    ranks = [float(rank) for rank in range(1, 101)]
    (found,) = concord_of([said(ranks, ranks)]).facts([None] * 2)["agreement"]
    assert (found["alpha"]["value"], found["alpha"]["n"]) == (pytest.approx(1), 100)


def test_of_three_judges_there_is_each_pair_and_all_of_them() -> None:
    rows = [said([1, 2, 3], [1, 3, 2], [2, 1, 3]), said([1, 2, 3], [1, 2, 3], None)]
    found = concord_of(rows, judges=3).facts([None] * 3)["agreement"]
    assert [one["between"] for one in found] == [
        ["judge 0", "judge 1"], ["judge 0", "judge 2"], ["judge 1", "judge 2"], ["judge 0", "judge 1", "judge 2"],
    ]  # fmt: skip
    assert (found[-1]["tau"], found[-1]["alpha"]["n"]) == (None, 6)
    assert [one["tau"]["n"] for one in found[:3]] == [2, 1, 1]


def test_each_member_is_told_with_what_could_not_be_read() -> None:
    prompt = {"prompt_id": "q", "reason": "judge 0: prose; judge 1: prose", "panel": said([1, 2, 3], None)["panel"]}
    members = [Says("judge 0"), Says("judge 1")]
    nobody = prompt | {"panel": panel_rows.entries(members, [UNREAD, UNREAD])}
    rows = [said([1, 2, 3], None), said([2, 1, 3], [1, 2, 3]), said([1, 2, 3], [1, 1, 3])]
    first, second = concord_of(rows, [nobody]).facts([None, {"strategy": "kwise"}])["members"]
    assert [(one["ranked"], one["unranked"]) for one in (first, second)] == [(3, 1), (2, 2)]
    assert (second["unparsed"]["value"], second["unparsed"]["n"], second["reasons"]) == (0.5, 4, {"prose": 2})
    assert first["asking"] is None
    assert (second["asking"]["strategy"], second["asking"]["unread_calls"]) == ("kwise", 2)
    assert second["tied_pairs"] == 1 / 6


def test_a_shard_more_or_less_changes_nothing() -> None:
    rows = [said([1, 2, 3], [1, 3, 2]), said([2, 1, 3], None), said([1, 1, 3], [1, 2, 3])]
    whole, parts = concord_of(rows), concord_of(rows[:1])
    for row in rows[1:]:
        parts.add([row], [])
    assert parts.facts([None] * 2) == whole.facts([None] * 2)


def test_without_rankings_there_is_no_agreement_but_a_fact(capsys: pytest.CaptureFixture[str]) -> None:
    found = concord_of([]).facts([None, None])
    assert (found["agreement"][0]["tau"]["n"], found["agreement"][0]["alpha"]["n"]) == (0, 0)
    concord.show(found, 0.2)
    assert "no cases" in capsys.readouterr().out


def test_judges_and_their_agreement_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [said([1, 2, 3], [1, 2, 3]), said([1, 2, 3], [2, 1, 3]), said([1, 2, 3], None)]
    concord.show(concord_of(rows).facts([None, None]), 0.2)
    text = " ".join(capsys.readouterr().out.split())
    assert "judge 1 2 33.3 %" in text and "n = 3" in text
    assert (
        "judge 1 could not be read on 1 of 3 prompts, which the others rank without it; most often (1): prose" in text
    )
    assert "judge 0 and judge 1 0.67 (0.33 to 1.00), n = 2" in text and "n = 6" in text


def test_a_judge_at_the_limit_is_not_named(capsys: pytest.CaptureFixture[str]) -> None:
    concord.show(concord_of([said([1, 2, 3], [1, 2, 3]), said([1, 2, 3], None)]).facts([None, None]), 0.5)
    assert "could not be read on" not in " ".join(capsys.readouterr().out.split())


# ordinal alpha

PUBLISHED = np.array([
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
    [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
]).T  # fmt: skip


def ordinal_by_counting(value_UJ: np.ndarray) -> float:
    """Krippendorff (2011), section D: coincidences, and distances counted value by value."""
    units = [[value for value in unit if not math.isnan(value)] for unit in value_UJ]
    units = [unit for unit in units if len(unit) > 1]
    n = {value: sum(unit.count(value) for unit in units) for value in sorted({v for unit in units for v in unit})}

    def distance(c: float, k: float) -> float:
        low, high = min(c, k), max(c, k)
        return (sum(n[g] for g in n if low <= g <= high) - (n[c] + n[k]) / 2) ** 2

    observed = sum(distance(a, b) / (len(unit) - 1) for unit in units for a, b in product(unit, unit))
    total = sum(n.values())
    expected = sum(n[c] * n[k] * distance(c, k) for c, k in product(n, n)) / (total - 1)
    return 1 - observed / expected


def test_ordinal_alpha_of_the_published_example() -> None:
    found = stats.ordinal_alpha("alpha", PUBLISHED, [str(unit) for unit in range(12)])
    assert (round(found.value, 3), found.n) == (0.815, 11)
    assert found.value == pytest.approx(ordinal_by_counting(PUBLISHED), abs=EXACT)
    assert found.low < found.value < found.high


@pytest.mark.parametrize("seed", range(5))
def test_ordinal_alpha_is_what_counting_gives_and_knows_only_the_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    value_UJ = rng.integers(1, 6, (30, 3)).astype(float)
    value_UJ[rng.random((30, 3)) < 0.2] = NAN
    names = [str(unit) for unit in range(30)]
    found = stats.ordinal_alpha("alpha", value_UJ, names).value
    assert found == pytest.approx(ordinal_by_counting(value_UJ), abs=1e-9)
    assert stats.ordinal_alpha("alpha", np.exp(value_UJ), names).value == pytest.approx(found, abs=1e-9)
    assert stats.ordinal_alpha("alpha", -value_UJ, names).value == pytest.approx(found, abs=1e-9)
