"""benchmarks/tune_algorithms.py: equal tokens for all, and what best-of-n counts as."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from compared_cases import assessment, case
from small_road import recipe
from tolerances import EXACT

from starling import config
from starling.store import Run
from starling.tune_settings import READS, TuneTable, algorithm_key

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark_module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


@pytest.fixture
def tune_variants(benchmark_module: Callable[[str], Any]) -> Any:
    return benchmark_module("tune_variants")


@pytest.fixture
def measured(benchmark_module: Callable[[str], Any]) -> Any:
    return benchmark_module("measured")


@pytest.fixture
def tune_algorithms(benchmark_module: Callable[[str], Any]) -> Any:
    return benchmark_module("tune_algorithms")


def table(settings: dict[str, Any]) -> TuneTable:
    return TuneTable.model_validate(
        {key: value for key, value in settings.items() if key not in ("ranked_share", "label")}
    )


def test_every_algorithm_is_compared_with_settings_that_it_takes(tune_variants: Any) -> None:
    found = tune_variants.variants([])
    tables = [table(settings) for candidates in found.values() for settings in candidates]
    assert {algorithm_key(one) for one in tables} == set(READS)
    assert [one["label"] for one in found["ppo"]] == ["ppo learning_rate=0.0001", "ppo learning_rate=0.0003"]
    assert len({len(candidates) for candidates in found.values()}) == 1  # as many tries for each
    for candidates in found.values():
        for settings in candidates:
            ranked = "ranked_prompts" in READS[algorithm_key(table(settings))]
            assert settings["ranked_share"] == 0 or ranked


def test_all_learn_from_about_equally_many_tokens(tune_variants: Any) -> None:
    found = tune_variants.Material(rankings=240, ranking_tokens=180.0, rollout_tokens=26.0)
    for candidates in tune_variants.variants([]).values():
        for tokens in (20_000, 60_000, 100_000):
            plan = table(tune_variants.budgeted(candidates[0], tokens, found))
            fresh = plan.steps * plan.prompts_per_step * plan.rollouts_per_prompt * 26
            ranked = plan.ranked_prompts * plan.ranked_epochs * 180
            assert fresh + ranked == pytest.approx(tokens, rel=0.06)
            assert plan.ranked_prompts <= 240


def test_a_case_of_best_of_n_has_the_figures_of_a_tuned_policys(
    measured: Any, tiny_model: Path, tmp_path: Path
) -> None:
    run = Run.open(tmp_path / "run", config.load(recipe(tmp_path / "recipe", tiny_model)))
    judged = case(1.0, assessed=(assessment(0.5), assessment(1.0)), rewards=(1.0, 3.0), answers=("wet", "dry"))
    found = measured._of_case(run, judged, 4.0)
    assert {name: value for name, (value, _weight) in found.items()} == {
        "win_rate": 1.0,
        "win_rate_held_out_checks": 1.0,
        "win_rate_within_length_band": 1.0,
        "win_rate_without_finish_and_repetition": 0.5,
        "held_out_checks": 1.0,
        "tokens": 3.0,
        "reward": 0.5,
    }


def test_the_budget_by_hand(tune_variants: Any) -> None:
    found = tune_variants.Material(rankings=100, ranking_tokens=200.0, rollout_tokens=25.0)
    both = {"ranked_share": 0.5, "prompts_per_step": 16, "rollouts_per_prompt": 4, "updates_per_step": 4}
    # 30,000 ranked in 2 passes over 75 of 100 rankings of 200; 30,000 in 18.75 steps of 64 answers of 25
    assert tune_variants.budgeted(both, 60_000, found) == {
        "prompts_per_step": 16, "rollouts_per_prompt": 4, "updates_per_step": 4,
        "ranked_prompts": 75, "ranked_epochs": 2, "steps": 19,
    }  # fmt: skip
    offline = tune_variants.budgeted({**both, "ranked_share": 1.0}, 60_000, found)
    assert (offline["ranked_prompts"], offline["ranked_epochs"], offline["steps"]) == (100, 3, 0)
    online = tune_variants.budgeted({**both, "ranked_share": 0.0}, 60_000, found)
    assert (online["ranked_prompts"], online["ranked_epochs"], online["steps"]) == (0, 1, 38)


def test_a_choice_among_answers_counts_each_by_its_share(measured: Any) -> None:
    answers = [
        {"win_rate": (1.0, 1.0), "tokens": (10.0, 1.0)},
        {"win_rate": (0.0, 1.0), "tokens": (30.0, 1.0), "alike": (0.0, 1.0)},
        {"tokens": (90.0, 1.0), "alike": (1.0, 1.0)},
    ]
    found = measured.mixed("rain", answers, [0.5, 0.25, 0.25])
    assert found.figures["tokens"] == (35.0, 1.0)  # 5 + 7.5 + 22.5
    assert found.figures["win_rate"] == pytest.approx((2 / 3, 0.75), abs=EXACT)
    assert found.figures["alike"] == pytest.approx((0.5, 0.5), abs=EXACT)
    assert "alike" not in measured.mixed("rain", answers, [1.0, 0.0, 0.0]).figures


def test_cases_count_by_their_weight_in_the_pooled_figure(measured: Any) -> None:
    cases = [
        measured.Case("a", {"win_rate": (1.0, 0.75)}),
        measured.Case("b", {"win_rate": (0.0, 0.25)}),
        measured.Case("c", {}),
    ]
    found = measured.pooled("win_rate", cases)
    assert (found.value, found.n) == (0.75, 2)


def test_copies_of_the_reward_model_take_no_room_and_hold_the_same(tune_variants: Any, tmp_path: Path) -> None:
    own, copies = tmp_path / "own", tmp_path / "copies"
    for folder in (own, copies):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
        (folder / "config.json").write_text("{}")
    for _ in range(2):
        tune_variants._share_weights(own, copies)
        assert (copies / "model.safetensors").samefile(own / "model.safetensors")
        assert sorted(path.name for path in copies.iterdir()) == ["config.json", "model.safetensors"]
    assert not (copies / "config.json").samefile(own / "config.json")


@pytest.mark.parametrize(
    ("section", "name"),
    [("default", "tune_algorithms_default.svg"), ("a first (part)", "tune_algorithms_a_first_part_.svg")],
)
def test_a_picture_of_a_section_has_a_name_that_a_link_takes(section: str, name: str, tune_algorithms: Any) -> None:
    assert tune_algorithms.picture_name(section) == name
