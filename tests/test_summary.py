"""What `starling run` says before it begins and when it is done."""

from pathlib import Path
from typing import Any

import pytest
import runs

from starling import comparison, models, summary
from starling.config import Config


def settings(**tables: dict[str, Any]) -> Config:
    return Config.model_validate(
        {
            table: values | tables.get(table, {})
            for table, values in runs.SETTINGS.model_dump(exclude={"endpoints"}).items()
        }
    )


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("COLUMNS", "100")
    return lambda: capsys.readouterr().out


def test_the_plan_has_derived_numbers() -> None:
    lines = summary.plan(settings())
    assert "sample: 120 + 24 prompts x 3 answers (1 generator weakened), <= 34,560 tokens" in lines
    assert "fit: 120 rankings, 4 a step, 30 steps, <= 70,000 tokens" in lines
    assert (
        "tune: apa, 2 passes over up to 140 ranked prompts, then 16 steps of 16 prompts x 4 = 64 answers, "
        "1 update each, <= 81,920 tokens, to the one that reaches 50,000"
    ) in lines
    assert any(line.endswith("with validation <= 36,000 tokens") for line in lines)


def test_a_reward_model_that_is_there_already_is_named() -> None:
    lines = summary.plan(settings(fit={"reward_model": "mine"}))
    assert "fit: nothing, mine is the reward model" in lines
    assert lines[0] == "model: smollm2, which the policy starts from"


def test_a_judge_is_told_for_what_it_is(reward_model: Any, tmp_path: Path) -> None:
    models.save(reward_model, tmp_path / "rm")
    rm = str(tmp_path / "rm")
    panel = {"judge": "panel", "judges": ["rubric", rm]}
    lines = summary.plan(settings(rank=panel, evaluate={"judge": str(tmp_path / "absent")}))
    by = f"rank: by a panel: rubric, a program, not an LLM; {rm}, a reward model, which is asked nothing"
    assert any(line.startswith(by) for line in lines)
    assert any(f"{tmp_path / 'absent'}, a language model, asked kwise" in line for line in lines)


def test_the_bound_that_binds_is_named() -> None:
    # 144 prompts x 3 answers x 80 tokens = 34,560; 1 step x 16 x 4 x 80 tokens = 5,120.
    lines = summary.plan(
        settings(
            sample={"token_budget": 30_000},
            tune={"steps": 1, "ranked_prompts": 0},
            fit={"token_budget": 0, "epochs": 2},
            evaluate={"token_budget": 0},
        )
    )
    assert any("<= 30,000 tokens" in line for line in lines)
    assert any(line.startswith("tune: apa, 1 step of 16 prompts") and "<= 5,120 tokens" in line for line in lines)
    assert "fit: 120 rankings x 2 epochs, 4 a step, 60 steps, no token limit" in lines
    assert any(line.endswith("with validation no token limit") for line in lines)


def test_the_plan_names_the_judge_and_what_it_is() -> None:
    assert any("rank: by rubric, a program, not an LLM" in line for line in summary.plan(settings()))
    named = summary.plan(settings(rank={"judge": "openai:big@localhost"}))
    assert any("openai:big@localhost, a language model, asked kwise in text, 1 call a prompt" in line for line in named)


def test_the_plan_is_printed(printed) -> None:
    summary.print_plan(settings())
    assert printed().startswith("model: smollm2")


def test_the_summary_ends_with_tables_costs_and_the_place_of_the_report(tmp_path: Path, printed) -> None:
    run = runs.make(tmp_path / "run")
    run.report_path.write_text("")
    summary.print_summary(run)
    text = printed()
    assert "It got better: the tuned model wins against the base model in 57.3 % (52.1 to 62.4), n = 100." in text
    assert "Rubric score" in text and "0.562" in text and "0.731" in text
    assert "Without finish, repetition" in text and "56.0 % (51.0 to 61.0), n = 100" in text
    assert "48,674 of 60,000 sampled for ranking" in text
    assert "6 min" in text and "peak memory 3.5 GiB" in text
    assert text.rstrip().endswith("report.html")
    for row in ("Held-out checks", "Key facts", "Finished", "Tokens an answer", "KL to the base"):
        assert row in text


def test_the_summary_of_an_unfinished_run_says_so(tmp_path: Path, printed) -> None:
    summary.print_summary(runs.make(tmp_path / "run", ("prompts",)))
    text = printed()
    assert "Not measured yet" in text and "Rubric score" not in text and "report.html" not in text


def test_runs_stand_below_each_other_with_what_they_won_and_took(tmp_path: Path, printed) -> None:
    made = [runs.make(tmp_path / "one"), runs.make(tmp_path / "[red]two", ("prompts",))]
    numbers = comparison.compare(made).numbers
    summary.print_comparison(numbers)
    text = printed()
    assert text.startswith("Better than its base: one. Not measured: [red]two.")
    (row,) = (line for line in text.splitlines() if "57.3 % (52.1 to 62.4)" in line)
    assert row.split()[0] == "one" and "55.0 % (46.0 to 64.0)" in row and "46.8" in row and "3.21" in row
    assert any("[red]two" in line and "not evaluated" in line and "1 min 1 s" in line for line in text.splitlines())
    assert "cost" not in text
    numbers["runs"][0] |= {"asked": True, "usd": 0.25}
    summary.print_comparison(numbers)
    assert "$0.2500" in printed()


def test_the_names_of_runs_are_whole_in_80_columns(tmp_path: Path, printed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    names = ("lam-1-of-seed-1", "lam-1-of-seed-2")
    summary.print_comparison(comparison.compare([runs.make(tmp_path / name) for name in names]).numbers)
    lines = printed().splitlines()
    rows = [line for line in lines if "57.3 %" in line]
    assert [row.split()[0] for row in rows] == [*names]
    assert max(map(len, rows)) <= 80


def test_the_plan_names_every_judge_of_a_panel() -> None:
    panel = {"judge": "panel", "judges": ["rubric", {"judge": "openai:big@localhost", "strategy": "pairwise"}]}
    told = summary.plan(settings(rank=panel, evaluate=panel))
    for stage in ("rank: by", "judge:"):
        assert any(
            f"{stage} a panel: rubric, a program, not an LLM; openai:big@localhost, a language model" in line
            for line in told
        )
