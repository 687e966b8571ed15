"""Several runs side by side."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import runs

from starling import comparison, config, data_files
from starling.config import Config
from starling.errors import UsageError
from starling.store import Run


@pytest.fixture
def pair(tmp_path: Path) -> list[Run]:
    return [runs.make(tmp_path / name) for name in ("one", "two")]


def with_cases(run: Run, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Run:
    """The run with other test answers."""
    path = run.root / "evaluate" / "cases.jsonl"
    data_files.write_jsonl(path, change(data_files.read_rows(path)))
    return run


def with_settings(run: Run, /, **tables: dict[str, Any]) -> Run:
    """The run as if it had been made with other settings."""
    settings = run.config.model_dump(mode="json")
    for table, values in tables.items():
        settings[table] |= values
    (run.root / "config.toml").write_text(config.dump(Config.model_validate(settings)))
    return Run.read(run.root)


def test_the_numbers_are_json_without_nan(pair: list[Run]) -> None:
    numbers = comparison.compare(pair).numbers
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers


def test_the_headline_says_which_tuned_model_is_better_than_its_base(tmp_path: Path) -> None:
    made = [
        runs.make(tmp_path / "up"),
        runs.make(tmp_path / "down", win_rate={"value": 0.4, "low": 0.3, "high": 0.49}),
        runs.make(tmp_path / "same", win_rate={"value": 0.5, "low": 0.4, "high": 0.6}),
        runs.make(tmp_path / "early", ("prompts", "sample")),
    ]
    numbers = comparison.compare(made).numbers
    assert numbers["headline"][0] == (
        "Better than its base: up. Worse than its base: down. No difference from its base is shown: same. "
        "Not measured: early."
    )
    assert [run["tone"] for run in numbers["runs"]] == ["better", "worse", "unclear", "none"]
    assert [run["evaluated"] for run in numbers["runs"]] == [True, True, True, False]
    assert "the stage rank is not done" in numbers["runs"][3]["headline"][0]


def test_every_evaluated_run_is_compared_with_the_first_evaluated_one(tmp_path: Path) -> None:
    made = [runs.make(tmp_path / "early", ("prompts",)), *(runs.make(tmp_path / name) for name in "abc")]
    numbers = comparison.compare(made).numbers
    assert [pair["title"] for pair in numbers["pairs"]] == ["b against a", "c against a"]
    assert [(pair["first"], pair["other"], pair["prompts"]) for pair in numbers["pairs"]] == [(1, 2, 3), (1, 3, 3)]
    sentence = (
        "Win rate over the base: no difference is shown, +0.0 pt (no interval) (0 up, 0 down of 2 prompts; p = 1.000)"
    )
    assert [line.partition(";")[0] for line in numbers["headline"][1:]] == [
        f"{name} against a: {sentence.partition(';')[0]}" for name in "bc"
    ]


def test_one_evaluated_run_is_shown_and_nothing_is_compared(tmp_path: Path) -> None:
    found = comparison.compare([runs.make(tmp_path / "a"), runs.make(tmp_path / "b", ())])
    assert found.numbers["pairs"] == [] and found.numbers["notes"] == []
    assert [list(case) for case in found.cases] == [[0]] * 3
    assert comparison.compare([runs.make(tmp_path / name, ()) for name in "cd"]).cases == []


def test_only_the_settings_that_differ_are_listed(pair: list[Run]) -> None:
    assert comparison.compare(pair).numbers["settings"] == []
    generators = [item.model_dump(mode="json") for item in pair[1].config.sample.generators]
    generators[1]["temperature"] = 0.125
    other = with_settings(pair[1], run={"seed": 7}, sample={"generators": generators[:2]}, evaluate={"judge": "x"})
    rows = {row["key"]: row["values"] for row in comparison.compare([pair[0], other]).numbers["settings"]}
    assert rows["run.seed"] == ["42", "7"]
    assert rows["sample.generators.plain.temperature"] == ["0.7", "0.125"]
    assert rows["sample.generators.hot.weakened"] == ["true", None]
    assert json.loads(rows["sample.generators"][1]) == [runs.HOSTILE_NAME, "plain"]
    assert rows["evaluate.judge"] == ["rubric", "x"]
    assert len(rows) == 4 + len(generators[2]) - 1


def test_versions_that_differ_are_listed(pair: list[Run]) -> None:
    own = pair[1].manifest["stages"]["tune"]["versions"]["torch"]
    pair[1].manifest["stages"]["tune"]["versions"]["torch"] = "9.9"
    (row,) = comparison.compare(pair).numbers["settings"]
    assert (row["key"], row["values"]) == ("version of torch", [own, f"{own} and 9.9"])


def test_names_are_as_long_as_it_takes_to_tell_folders_apart(tmp_path: Path) -> None:
    made = [runs.make(tmp_path / name, ()) for name in ("a/run", "b/run", "b/other")]
    assert [run["name"] for run in comparison.compare(made).numbers["runs"]] == ["a/run", "b/run", "b/other"]
    assert [run["name"] for run in comparison.compare(made[1:]).numbers["runs"]] == ["run", "other"]


def test_the_same_run_twice_is_refused(tmp_path: Path) -> None:
    run = runs.make(tmp_path / "run", ())
    (tmp_path / "link").symlink_to(run.root)
    for other in (run.root, tmp_path / "link", tmp_path / "x" / ".." / "run"):
        with pytest.raises(UsageError, match="are the same run; name each run once"):
            comparison.compare([run, Run(other, run.config, run.manifest)])


def test_prompts_that_not_all_runs_have_are_counted_and_listed(pair: list[Run]) -> None:
    with_cases(pair[0], lambda cases: cases[:2])
    found = comparison.compare(pair)
    assert [[case[0]["prompt_id"], case[1]["prompt_id"]] for case in found.cases] == [["test-0"] * 2, ["test-1"] * 2]
    shared = found.numbers["prompts"]
    assert shared["common"] == 2
    assert shared["left_out"] == [{"run": 1, "name": "two", "count": 1, "ids": ["test-2"]}]
    assert found.numbers["notes"] == [
        "two: 1 of its 3 test prompts are not in every other evaluated run; its own figures count them, the answers "
        "below leave them out."
    ]


def test_draws_that_not_all_runs_have_are_counted(pair: list[Run]) -> None:
    with_cases(pair[1], lambda cases: [case | {"draw": draw} for case in cases for draw in range(3)])
    found = comparison.compare(pair)
    assert len(found.cases) == len(found.numbers["cases"]) == 3
    assert found.numbers["prompts"]["draws_left_out"] == 3 * 2
    assert "6 further answers are in the figures, not below" in found.numbers["notes"][0]


def test_what_is_not_measured_alike_is_said_and_not_compared(tmp_path: Path) -> None:
    made = [runs.make(tmp_path / "a"), runs.make(tmp_path / "b", judge="openai:big@here")]
    numbers = comparison.compare(made).numbers
    sentences = [one["sentence"] for one in numbers["pairs"][0]["figures"]]
    assert sentences[0] == "Win rate over the base: not compared, since the judges are not the same."
    assert "held-out checks: no difference is shown" in sentences[1]
    assert numbers["notes"][0].startswith(
        "Judges of the test differ (a: rubric, a program, not an LLM; b: openai:big@here"
    )
    made[1] = with_settings(made[1], run={"model": "another"})
    sentences = [one["sentence"] for one in comparison.compare(made).numbers["pairs"][0]["figures"]]
    assert all("not compared, since the base models are not the same" in sentence for sentence in sentences[:2])
    assert "Rubric score: no difference" in sentences[2]


def test_reward_and_kl_are_those_of_the_kept_step(tmp_path: Path) -> None:
    made = [runs.make(tmp_path / "a"), runs.make(tmp_path / "b", ("prompts",))]
    looks = [
        {"step": float(step), "win_rate": 0.5 + step / 10, "reward": step / 4, "kl": 1.5 * step} for step in range(4)
    ]
    made[0].manifest["stages"]["tune"]["facts"]["looks"] = looks
    tuned, untouched = (run["tune"] for run in comparison.compare(made).numbers["runs"])
    assert (tuned["kept_step"], tuned["reward"], tuned["kl"], tuned["win_rate"]["value"]) == (2, 0.5, 3.0, 0.7)
    assert untouched["done"] is False and untouched["reward"] is None


def test_time_and_tokens_of_each_stage_stand_beside_their_sums(pair: list[Run]) -> None:
    run = comparison.compare(pair).numbers["runs"][0]
    tokens = {stage["stage"]: stage["tokens"] for stage in run["stages"]}
    assert tokens == {
        "prompts": None,
        "sample": 48_674,
        "rank": None,
        "fit": 47_915,
        "tune": 45_123,
        "evaluate": 17_000,
    }
    assert run["tokens"] == 48_674 + 47_915 + 45_123 + 17_000
    assert run["seconds"] == pytest.approx(sum(stage["seconds"] for stage in run["stages"]))
    assert run["asked"] is False and not any(stage["asked"] for stage in run["stages"])


def test_prompts_are_told_apart_by_how_far_the_runs_scores_are(pair: list[Run]) -> None:
    def change(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
        cases[1]["tuned"]["score"] = 0.125
        return cases

    with_cases(pair[1], change)
    assert [case["apart"] for case in comparison.compare(pair).numbers["cases"]] == [0.0, 0.625 - 0.125, 0.0]
