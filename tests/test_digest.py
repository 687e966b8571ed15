"""What a run has to show."""

import json
from pathlib import Path

import pytest
import runs

from starling import digest
from starling.at_work import alone
from starling.store import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return runs.make(tmp_path / "run")


def test_a_digest_is_json_without_nan(run: Run) -> None:
    found = digest.digest(run)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_time_of_all_stages_adds_up(run: Run) -> None:
    assert digest.digest(run)["seconds"] == pytest.approx(6 * 61.0, abs=2)


def test_budgets_say_what_was_used_and_allowed(run: Run) -> None:
    parts = {part["stage"]: (part["used"], part["allowed"]) for part in digest.digest(run)["budgets"]}
    assert parts["sample"] == (48_674, 60_000)
    assert parts["fit"] == (47_915, 70_000)
    assert parts["tune"] == (45_123, 50_000)
    assert parts["evaluate"] == (17_000, 36_000)


def test_stages_stand_in_road_order_with_their_state(tmp_path: Path) -> None:
    run = runs.make(tmp_path / "run", ("prompts", "sample"))
    run.started("rank")
    with alone(run.root):
        states = [(step["stage"], step["state"]) for step in digest.digest(run)["road"]]
    assert states == [
        ("prompts", "done"), ("sample", "done"), ("rank", "under way"), ("fit", "not begun"), ("tune", "not begun"),
        ("evaluate", "not begun"),
    ]  # fmt: skip
    assert digest.digest(run)["road"][2]["state"] == "stopped"


def test_an_unfinished_run_says_which_stage_is_missing(tmp_path: Path) -> None:
    run = runs.make(tmp_path / "run", ("prompts",))
    found = digest.digest(run)
    assert found["result"] is None
    assert found["headline"][0].startswith("Not measured yet: the stage sample is not done.")


def test_prompts_won_lost_and_unread_are_counted(run: Run) -> None:
    result = digest.digest(run)["result"]
    assert result["outcomes"] == {"better": 1, "same": 0, "worse": 1, "unread": 1}
    assert result["held_out_outcomes"] == {"better": 0, "same": 0, "worse": 3}


def test_the_judges_effects_are_told(run: Run) -> None:
    judge = digest.digest(run)["judge"]
    assert judge["mean_rank"] == [
        {"model": runs.HOSTILE_NAME, "rank": 1.25, "weakened": False}, {"model": "hot", "rank": 1.75, "weakened": True},
    ]  # fmt: skip
    assert judge["probe"]["unparsed_share"] == 13 / 20


def test_a_judge_that_reads_each_answer_alone_is_said_to_see_no_order(run: Run) -> None:
    facts = run.manifest["stages"]["rank"]["facts"]
    for judge, said in (
        ("reward:rm#0a1b", True),
        ("panel of rubric, reward:rm#0a1b", True),
        ("kwise:m", False),
    ):
        facts["judge"] = judge
        told = {card["title"]: card["text"] for card in digest.digest(run)["glance"]}["Is the judge biased?"]
        assert ("The judge reads each answer alone, so order cannot sway it" in told) == said


def test_where_the_base_itself_was_kept_that_is_said_first(run: Run) -> None:
    plain = digest.digest(run)["headline"]
    run.manifest["stages"]["tune"]["facts"]["kept_step"] = 0
    assert digest.digest(run)["headline"] == [digest.KEPT_BASE, *plain]


def test_where_base_and_tuned_never_differ_the_headline_counts_no_wins(run: Run) -> None:
    cases = [{**case, "verdict": 0.5} for case in digest.read_cases(run)]
    config, facts = run.config, run.manifest["stages"]["evaluate"]["facts"]
    alike = digest.result_of(facts, cases, config, kept_base=True)["headline"]
    assert alike == [digest.KEPT_BASE, f"{digest.NEITHER} Judge: rubric, a program, not an LLM."]
    by_chance = digest.result_of(facts, cases, config, kept_base=False)["headline"]
    assert by_chance == digest.digest(run)["headline"]


def test_a_test_by_the_runs_own_reward_model_is_cautioned_in_the_headline(run: Run) -> None:
    plain = digest.digest(run)["headline"]
    run.manifest["stages"]["evaluate"]["facts"]["caution"] = "It was trained to please this judge."
    assert digest.digest(run)["headline"] == [*plain, "It was trained to please this judge."]
