"""The whole road by reward models: another one ranks, several judge the test, and the run's own is cautioned."""

import json
import shutil
from pathlib import Path
from typing import Any

import known_rewards
import pytest
from page_reader import Page, wrong_numbers
from small_road import recipe

from starling import cli, config, data_files, models
from starling.judges.by_reward import RewardJudge
from starling.records import Candidate
from starling.store import Run
from starling.tables import prompts_of

QUICK: dict[str, Any] = {
    "rank__probe_prompts": 0, "fit__checkpoint_seconds": 60, "tune__checkpoint_seconds": 60, "fit__epochs": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def road(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Rankings by a known reward model; the test by the rubric and that model."""
    folder = tmp_path_factory.mktemp("rewarded")
    judge = known_rewards.save(tiny_model, folder / "rm")
    path = recipe(folder, tiny_model, **QUICK, rank__judge=judge, evaluate__judges=["rubric", judge])
    assert cli.main(["run", str(path), "--run", str(folder / "run")]) == 0
    return folder / "run", judge


def scores_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "evaluate" / "scores.json").read_text())


def test_the_panels_member_prefers_what_it_rewards_more(road: tuple[Path, str]) -> None:
    root, judge = road
    table, cases = scores_of(root), data_files.read_rows(root / "evaluate" / "cases.jsonl")
    rewarding = RewardJudge(judge)
    assert table["judge"] == f"panel of rubric, {rewarding.name}"
    assert (table["reward_models"], "caution" in table) == ([rewarding.identity], False)
    prompts = {prompt.id: prompt for prompt in prompts_of(Run.read(root), "test")}
    for case in cases:
        base, tuned = (
            Candidate(prompt_id=case["prompt_id"], model=side, draw=0, answer=case[side]["answer"],
                      finished=case[side]["finished"])
            for side in ("base", "tuned")
        )  # fmt: skip
        one, other = rewarding.rank([(prompts[case["prompt_id"]], [base, tuned])])[0].marks
        assert case["verdicts"][rewarding.name] == (0.5 if one == other else float(other > one))
    assert [member["judge"] for member in table["panel"]["members"]] == ["rubric", rewarding.name]


def test_the_report_names_the_reward_model_and_its_numbers_are_those_beside_it(road: tuple[Path, str]) -> None:
    root, judge = road
    page = Page((root / "report.html").read_text())
    assert wrong_numbers(page, json.loads((root / "report.json").read_text())) == []
    assert f"{RewardJudge(judge).name}, a reward model" in page.text
    assert "The judge reads each answer alone, so order cannot sway it" in page.text


def test_the_runs_own_reward_model_as_judge_is_cautioned_everywhere(
    road: tuple[Path, str], tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, judge = road
    own = root / "fit" / "model"
    path = recipe(tmp_path, tiny_model, **QUICK, rank__judge=judge, evaluate__judge=str(own))
    shutil.copy(root.parent / "prompts.jsonl", tmp_path / "prompts.jsonl")
    path.write_text(path.read_text().replace(str(tmp_path / "prompts.jsonl"), str(root.parent / "prompts.jsonl")))
    assert cli.main(["run", str(path), "--run", str(tmp_path / "run"), "--from", str(root)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "from " in printed and "prompts, sample, rank, fit, tune" in printed
    table = scores_of(tmp_path / "run")
    assert table["judge"].startswith(f"reward:{own}#")
    assert table["caution"] in printed
    assert table["caution"] in " ".join(Page((tmp_path / "run" / "report.html").read_text()).text.split())
    for case in data_files.read_rows(tmp_path / "run" / "evaluate" / "cases.jsonl"):
        rewards = [case[side]["reward"] for side in ("base", "tuned")]
        if abs(rewards[1] - rewards[0]) > 0.05:  # in bfloat16 the figure `reward` is rougher than the judge's
            assert case["verdict"] == float(rewards[1] > rewards[0])


def test_what_a_person_gets_wrong_is_one_line_before_anything_is_sampled(
    road: tuple[Path, str], tiny_model: Path, tmp_path: Path, fails: Any, reward_model: Any
) -> None:
    root, judge = road
    taken = str(tmp_path / "taken")
    models.save(reward_model, tmp_path / "taken")
    wrong = {
        "no such folder": {"rank__judge": str(tmp_path / "absent")},
        "is a run; name its reward model": {"evaluate__judge": str(root)},
        "is fit.reward_model too": {"rank__judge": taken, "fit__reward_model": taken},
        "tune.rewards names the judge": {"rank__judge": judge, "tune__rewards": ["judge"]},
    }
    for number, (said, changes) in enumerate(wrong.items()):
        path = recipe(tmp_path / str(number), tiny_model, **changes)
        code = 1 if "folder" in said else 2
        assert said in fails(code, "run", path, "--run", tmp_path / str(number) / "run")
        assert not (tmp_path / str(number) / "run" / "sample").exists()
    assert config.load(path).rank.judge == judge
