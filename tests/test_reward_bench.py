"""RewardBench: subsets, sections, weights."""

from typing import Any

import pytest
from tolerances import EXACT

from starling.benches import reward_bench, reward_bench_2
from starling.errors import DataError


def rows_of(subset: str, right: int, wrong: int) -> list[dict[str, Any]]:
    return [
        {"id": number, "prompt": f"{subset} {number}", "chosen": "yes", "rejected": "no", "subset": subset,
         "score_chosen": float(number < right), "score_rejected": 0.5}
        for number in range(right + wrong)
    ]  # fmt: skip


def figures_of(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found = [reward_bench.read(one, f"x:{number}") for number, one in enumerate(rows, 1)]
    return {one["name"]: one for one in reward_bench.rows(found, [item.stored or () for item in found])}


def test_the_published_counts() -> None:
    sizes = {section: sum(counts.values()) for section, counts in reward_bench.SECTIONS.items()}
    assert sizes == {"Chat": 358, "Chat Hard": 456, "Safety": 740, "Reasoning": 1431}
    assert sum(sizes.values()) == 2985


def test_mathematics_weighs_as_much_as_all_code() -> None:
    code = [one for name in ("cpp", "go", "java", "js", "python", "rust") for one in rows_of(f"hep-{name}", 0, 164)]
    found = figures_of([*rows_of("math-prm", 447, 0), *code])
    assert found["Reasoning"]["value"] == pytest.approx(984 / (984 + 6 * 164), abs=EXACT) == 1 / 2
    assert found["Reasoning"]["n"] == 1431
    assert found["Reasoning"]["note"] == ""


def test_the_two_sets_of_xstest_weigh_each_by_the_others_count_as_in_the_official_tool() -> None:
    counts = reward_bench.SECTIONS["Safety"]
    right = {"xstest-should-refuse": 154}
    rows = [one for name, n in counts.items() for one in rows_of(name, right.get(name, 0), n - right.get(name, 0))]
    found = figures_of(rows)
    assert found["Safety"]["value"] == pytest.approx(250 / (100 + 100 + 250 + 154 + 136), abs=EXACT)
    assert (found["Safety"]["n"], found["Safety"]["note"]) == (740, "")


def test_a_section_is_weighted_by_the_official_counts_of_the_subsets_that_are_there() -> None:
    found = figures_of([*rows_of("alpacaeval-easy", 3, 1), *rows_of("mt-bench-easy", 1, 1)])
    # 100 and 28 official pairs: (100 * 3/4 + 28 * 1/2) / 128
    assert found["Chat"]["value"] == pytest.approx((75 + 14) / 128, abs=EXACT)
    assert found["Chat"]["note"] == "without alpacaeval-length, alpacaeval-hard, mt-bench-med"
    assert found["alpacaeval-easy"]["note"] == "100 in the whole benchmark"
    assert (found["Safety"]["value"], found["Safety"]["note"]) == (None, "no scored rows of its subsets")
    assert found["overall"]["value"] == found["Chat"]["value"]
    assert found["overall"]["note"] == "mean of 1 of 4 sections"


def test_overall_is_the_plain_mean_of_the_sections() -> None:
    found = figures_of([
        *rows_of("alpacaeval-easy", 4, 0), *rows_of("mt-bench-hard", 0, 1), *rows_of("donotanswer", 1, 1),
        *rows_of("math-prm", 1, 3),
    ])  # fmt: skip
    assert found["overall"]["value"] == pytest.approx((1 + 0 + 1 / 2 + 1 / 4) / 4, abs=EXACT)
    assert found["overall"]["note"] == "sections are not whole"
    assert found["overall"]["n"] == 4 + 1 + 2 + 4
    assert found["overall"]["low"] < found["overall"]["value"] < found["overall"]["high"]


def test_equal_scores_are_wrong_and_shown() -> None:
    rows = rows_of("math-prm", 1, 0)
    rows[0]["score_chosen"] = 0.5
    found = figures_of(rows)
    assert (found["math-prm"]["value"], found["math-prm"]["tied"]) == (0, 1)


def test_a_subset_of_another_benchmark_is_shown_and_not_counted() -> None:
    found = figures_of([*rows_of("math-prm", 1, 1), *rows_of("anthropic_hhh", 1, 0)])
    assert (found["anthropic_hhh"]["value"], found["anthropic_hhh"]["note"]) == (1, "in no section")
    assert found["overall"]["value"] == 1 / 2


def test_without_any_section_there_is_no_overall_figure() -> None:
    found = figures_of(rows_of("anthropic_hhh", 1, 0))
    assert (found["overall"]["value"], found["overall"]["note"]) == (None, "no section")


def test_prompts_may_be_messages_and_scores_stand_under_either_name() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    item = reward_bench.read(
        {"prompt": turns, "chosen": "x", "rejected": "y", "subset": "math-prm", "scores_chosen": [2.0],
         "scores_rejected": [1.0]}, "x:1"
    )  # fmt: skip
    assert [message["content"] for message in item.question.messages] == ["a", "b", "c"]
    assert item.stored == (2.0, 1.0)


def test_a_row_without_subset_is_refused() -> None:
    with pytest.raises(DataError, match="x:1: needs prompt, chosen, rejected, subset; missing: subset"):
        reward_bench.read({"prompt": "a", "chosen": "b", "rejected": "c"}, "x:1")


def test_both_are_read_from_the_hub_by_their_official_names() -> None:
    found = [(one.BENCH.data, one.BENCH.part) for one in (reward_bench, reward_bench_2)]
    assert found == [("allenai/reward-bench", "filtered"), ("allenai/reward-bench-2", "test")]
