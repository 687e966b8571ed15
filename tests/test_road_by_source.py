"""The whole road on rankings that came with the prompts: nobody is asked for them, and dpo learns from them."""

import json
from pathlib import Path
from typing import Any

import pytest
from page_reader import Page, wrong_numbers
from small_road import prompt_rows, recipe, write_lines

from starling import cli, data_files
from starling.store import Run

RANKS = (2, 1, 2)  # of the answers to each train prompt, as they stand in its row
SETTINGS = ("sample.generators=[]", "rank.judge=source", "rank.probe_prompts=0", "tune.algorithm=dpo", "fit.epochs=1")


def sources(folder: Path, *ranks: float | None) -> str:
    """Three answers to each train prompt, in Nectar's form with these ranks; pairs to choose by; prompts to test on."""
    by_split: dict[str, list[dict[str, Any]]] = {"train": [], "validation": [], "test": []}
    for number, row in enumerate(prompt_rows()):
        told = {key: row[key] for key in ("id", "prompt")}
        texts = [f"the {word} {number}" for word in ("rain", "plain", "river")]
        if row["split"] == "train":
            answers = [{"answer": text, "model": text.split()[1]} for text in texts]
            told["answers"] = [answer | {"rank": rank} for answer, rank in zip(answers, ranks, strict=True)]
        elif row["split"] == "validation":
            told |= {"chosen": texts[0], "rejected": texts[1]}
        by_split[row["split"]].append(told)
    by_split["train"][0]["answers"][1]["rank"] = None
    paths = {split: write_lines(folder / f"{split}.jsonl", rows) for split, rows in by_split.items()}
    tables = (f'{{path = "{path}", split = "{split}"}}' for split, path in paths.items())
    return f"prompts.sources=[{', '.join(tables)}]"


def settings(*overrides: str) -> list[str]:
    return [word for override in overrides for word in ("--set", override)]


@pytest.fixture(scope="module")
def road(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    path, root = recipe(folder, tiny_model), folder / "run"
    chosen = settings(sources(folder, *RANKS), *SETTINGS)
    assert cli.main(["run", str(path), "--run", str(root), *chosen]) == 0
    return root


def test_ranks_pass_through_with_their_ties_and_nothing_is_claimed_beside_them(road: Path) -> None:
    rows = data_files.read_rows(road / "rank")
    train = [row for row in rows if row["num_responses"] == 3]
    assert (len(train), len(rows)) == (11, 14)
    for row in train:
        placed = sorted((answer["rank"], answer["model"]) for answer in row["answers"])
        assert placed == [(1, "plain"), (2, "rain"), (2, "river")]
        assert [answer["rank"] for answer in row["answers"]] == [1, 2, 2]  # best first
    for row in rows:
        assert (row["judge"], row["template_hash"], row["agreement"], row["self_agreement"]) == (
            "source",
            "",
            None,
            None,
        )
        assert (row["orders"], row["rankings"], row["calls"], row["unread"]) == ([], [], [], 0)
    pairs = [[answer["answer"].split()[1] for answer in row["answers"]] for row in rows if row not in train]
    assert pairs == [["rain", "plain"]] * 3


def test_a_prompt_of_which_a_rank_is_missing_is_kept_apart_and_counted(road: Path) -> None:
    (kept,) = (row for shard in (road / "unranked").iterdir() for row in data_files.read_rows(shard))
    assert (kept["prompt_id"], kept["reason"]) == ("rain-0", "not every answer came with a rank")
    facts = Run.read(road).facts("rank")
    assert (facts["judge"], facts["ranked"], facts["unranked"]) == ("source", 14, 1)
    assert (facts["asking"], facts["position_effects"], facts["probe"], facts["spending"]) == (None, [], None, [])


def test_dpo_learns_from_them_and_the_rubric_chooses_and_tests(road: Path) -> None:
    steps = [json.loads(line) for line in (road / "metrics.jsonl").read_text().splitlines()]
    assert any("tune/rewards/accuracies" in step for step in steps)
    assert json.loads((road / "evaluate" / "scores.json").read_text())["judge"] == "rubric"


def test_report_audit_and_lineage_say_whose_ranks_they_are(road: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = Page((road / "report.html").read_text())
    assert wrong_numbers(page, json.loads((road / "report.json").read_text())) == []
    assert "Judge: source, the ranks that came with the answers" in " ".join(page.text.split())
    assert "whether order swayed whoever made them is not known" in page.text
    assert cli.main(["audit", str(road), "--json"]) == 0
    (log,) = json.loads(capsys.readouterr().out)["logs"]
    assert {"position", "pair verdicts", "self-agreement"} <= set(log["missing"])
    assert cli.main(["show", str(road), "--row", "rain-1", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["judge"], row["strategy"], row["calls"]) == ("source", "by the ranks that came with the answers", [])


def test_without_any_ranks_one_line_says_so_before_anything_is_ranked(
    tiny_model: Path, tmp_path: Path, fails: Any
) -> None:
    path, root = recipe(tmp_path, tiny_model), tmp_path / "run"
    train = sources(tmp_path, None, None, None)
    only = settings(train, *SETTINGS, "sample.validation_prompts=1")
    rows = data_files.read_rows(tmp_path / "validation.jsonl")
    write_lines(tmp_path / "validation.jsonl", [{key: row[key] for key in ("id", "prompt")} for row in rows])
    said = fails(1, "run", path, "--run", root, "--until", "rank", *only)
    assert "none of 12 prompts in " in said and "(no answer came with a rank: 12)" in said
    assert "name a judge that ranks them" in said
    assert not list((root / "rank").glob("*")) and not (root / "unranked").exists()


def test_past_the_limit_of_unranked_prompts_the_advice_is_of_sources(
    tiny_model: Path, tmp_path: Path, fails: Any
) -> None:
    path = recipe(tmp_path, tiny_model)
    only = settings(sources(tmp_path, 1, 2, None), *SETTINGS)
    said = fails(1, "run", path, "--run", tmp_path / "run", "--until", "rank", *only)
    assert "12 of 15 prompts have no readable ranking" in said
    assert "not every answer came with a rank; judge: source. Leave the sources without ranks out" in said
