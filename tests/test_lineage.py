"""A ranking of a run traced back: to the calls that made it, in a ledger that a real server filled."""

import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
import runs
from made_rankings import ranking
from servers import Server, fails, ranking_judge, replies_with, says
from small_road import recipe

from starling import cli, config, data_files, lineage, progress, show, tables, unusable
from starling.stages import prompts, rank, sample
from starling.store import Run


@pytest.fixture(scope="module")
def judged(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Fifteen prompts; two generators in process and one behind a URL; a judge that first fails, then refuses once."""
    folder = tmp_path_factory.mktemp("judged")
    by_length = ranking_judge(len)

    def write(question: str) -> str:
        return "I would rather not say." if "Say one word about the rain." in question else by_length(question)

    with (
        Server(always=says("From afar.\x1b[31m", completion_tokens=4)) as generator,
        Server(fails(500), always=replies_with(write)) as judge,
    ):
        path = recipe(
            folder, tiny_model, rank__judge=f"openai:judge@{judge.url}", rank__probe_prompts=0, rank__max_unparsed=0.5
        )
        path.write_text(
            path.read_text().replace(
                '"hot"\n', f'"hot"\nmodel = "openai:far@{generator.url}"\nexamples = [["q?", "a"]]\n'
            )
        )
        run = Run.open(folder / "run", config.load(path))
        for stage in (prompts, sample, rank):
            name = stage.__name__.rpartition(".")[2]
            run.started(name)
            run.finished(name, stage.run(run))
    return run


def explained(run: Run, prompt_id: str) -> dict[str, Any]:
    (found,) = lineage.of_prompt(run, prompt_id)
    return found


def test_a_ranking_names_the_call_that_made_it_and_the_reply_is_what_the_ranks_say(judged: Run) -> None:
    found = explained(judged, "plain-1")
    (call,) = found["calls"]
    assert found["call_keys"] == [call["key"]]
    assert call["model"] == "judge" and call["endpoint"].startswith("judge@127.0.0.1")
    assert (call["prompt_tokens"], call["completion_tokens"], call["finished"]) == (7, 3, True)
    assert call["attempts"][-1]["outcome"] == "reply" and call["attempts"][-1]["ended"] >= call["attempts"][-1]["sent"]
    letters = json.loads(
        call["reply"].rpartition("Ranking: [")[2].rstrip("]").replace("[", '["').replace(", ", '", "') + '"]'
    )
    (order,) = found["orders"]
    by_letter = {letter: found["answers"][at]["model"] for letter, at in zip("ABC", order, strict=True)}
    assert [by_letter[letter] for letter in letters] == [answer["model"] for answer in found["answers"]]
    shown = call["request"]["messages"][0]["content"]
    assert all(answer["answer"].splitlines()[0] in shown for answer in found["answers"] if answer["answer"])


def test_an_attempt_that_failed_stands_beside_the_one_that_did_not(judged: Run) -> None:
    rows = data_files.read_rows(judged.root / "rank")
    outcomes = [[one["outcome"] for one in explained(judged, row["prompt_id"])["calls"][0]["attempts"]] for row in rows]
    assert sorted(map(len, outcomes))[-2:] == [1, 2]
    (failed,) = (both for both in outcomes if len(both) == 2)
    assert "500" in failed[0] and failed[1] == "reply"


def test_an_answer_from_afar_names_its_call_and_one_from_here_its_seed(judged: Run) -> None:
    answers = {answer["model"]: answer for answer in explained(judged, "plain-1")["answers"]}
    assert answers["hot"]["call"]["reply"] == "From afar.\x1b[31m"
    assert answers["hot"]["call"]["model"] == "far"
    assert answers["plain"]["call"] is None and answers["plain"]["seed"] > 0
    assert [answers[name]["generator"]["temperature"] for name in ("plain", "greedy", "hot")] == [1.0, 0.0, 1.6]


def test_a_prompt_without_a_ranking_keeps_the_calls_that_were_made_for_it(judged: Run) -> None:
    (row,) = data_files.read_rows(judged.root / "unranked" / "00000.jsonl")
    calls = lineage.calls_of(judged, row["calls"])
    assert [call["reply"] for call in calls] == row["replies"] == ["I would rather not say."] * len(calls)
    assert len({call["key"] for call in calls}) == len(calls) > 1


def test_a_key_that_the_ledger_does_not_hold_is_left_out(judged: Run) -> None:
    assert lineage.calls_of(judged, ["ab" * 32]) == []


def test_no_key_of_an_endpoint_is_shown(judged: Run) -> None:
    assert "key_env" not in json.dumps(explained(judged, "plain-1"))


def test_looking_leaves_the_ledger_as_it_was(judged: Run) -> None:
    with sqlite3.connect(judged.ledger_path) as db:
        before = list(db.iterdump())
    explained(judged, "plain-1")
    with sqlite3.connect(judged.ledger_path) as db:
        assert list(db.iterdump()) == before


def test_what_it_was_used_for_is_said_as_far_as_it_is_known(judged: Run) -> None:
    assert explained(judged, "plain-1")["used"] == ["fit: not done yet", "tune: not done yet"]


def test_a_finished_run_says_what_fit_and_tune_made_of_a_ranking(tmp_path: Path) -> None:
    run = runs.make(tmp_path / "run")
    assert explained(run, "train-0")["used"] == [
        "fit: one of 120 rankings that the reward model learns from",
        "tune: its ranked answers teach the critic and serve as rollouts",
    ]
    data_files.write_jsonl(
        run.folder("fit") / "unusable.jsonl", [unusable.note(ranking("train-0", ["a"], [1]), "answer", "empty")] * 2
    )
    assert explained(run, "train-0")["used"][0].endswith("learns from; 2 answers left out: empty")
    data_files.write_jsonl(
        run.folder("fit") / "unusable.jsonl",
        [unusable.note(ranking("train-0", ["a"], [1]), "ranking", "all answers are tied")],
    )
    assert explained(run, "train-0")["used"][0] == "fit: left out, all answers are tied"
    run.config = run.config.model_copy(update={"fit": run.config.fit.model_copy(update={"reward_model": "mine"})})
    (run.folder("fit") / "unusable.jsonl").unlink()
    assert explained(run, "train-0")["used"][0] == "fit: not used, mine is the reward model"


def test_a_row_of_a_run_that_is_older_than_the_column_is_still_explained(tmp_path: Path) -> None:
    run = runs.make(tmp_path / "run", ("prompts", "sample", "rank"))
    rows = [
        {name: value for name, value in row.items() if name != "calls"}
        for row in data_files.read_rows(run.root / "rank")
    ]
    schema = tables.RANKINGS.remove(tables.RANKINGS.get_field_index("calls"))
    data_files.write_parquet(run.root / "rank" / "00000.parquet", rows, schema)
    found = explained(run, "train-0")
    assert (found["call_keys"], found["calls"], found["judge"]) == ([], [], "rubric")


def test_json_gives_the_lineage_to_programs(judged: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", str(judged.root), "--row", "plain-1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [json.loads(json.dumps(explained(judged, "plain-1")))]
    assert progress.console.file is sys.stdout  # for people again


# on a terminal


def test_a_row_shows_who_answered_who_judged_and_by_which_calls(
    judged: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for source in (judged.root, judged.root / "rank", judged.root / "rank" / "00000.parquet"):
        show.show(source, 3, "plain-1")
        text = " ".join(capsys.readouterr().out.replace("│", " ").split())
        key = explained(judged, "plain-1")["calls"][0]["key"]
        for said in ("rank: by kwise:judge@127.0.0.1", "how it was judged", "template hash", "strategy kwise",
                     "shown in order 1 A", "judge's call 1 of 1", "sent at 20", "7 in, 3 out", "attempt 1 reply after",
                     "Ranking: [[", "fit: not done yet", "temperature 1.6",
                     "worked examples: 1", "cut by the token cap"):  # fmt: skip
            assert said in text, said
        assert key[:12] in text


def test_what_a_model_wrote_cannot_steer_the_terminal(judged: Run, capsys: pytest.CaptureFixture[str]) -> None:
    show.show(judged.root, 3, "plain-1")
    show.show(judged.folder("sample"), 30, "")
    printed = capsys.readouterr().out
    assert "\x1b[31m" not in printed and r"\x1b[31m" in printed


def test_a_prompt_that_could_not_be_ranked_shows_its_calls(judged: Run, capsys: pytest.CaptureFixture[str]) -> None:
    show.show(judged.root, 3, "rain-0")
    text = capsys.readouterr().out
    assert "no readable ranking" in text and "judge's call 2 of 2" in text and "I would rather not say." in text


def test_a_table_alone_says_that_its_calls_are_elsewhere(
    judged: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "rankings.parquet"
    copy.write_bytes((judged.root / "rank" / "00000.parquet").read_bytes())
    show.show(copy, 3, "plain-1")
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "not in a ledger here; show the run to see them" in text and "generator not known" in text


@pytest.mark.parametrize(
    ("algorithm", "warm_up", "learnt", "use"),
    [
        ("dpo", True, True, "are learnt from by their ranks"),
        ("sft", False, True, "are learnt from by their ranks"),
        ("ppo", True, False, "teach the critic"),
        ("grpo", True, False, "fix the reward's scale"),
        ("apa", False, True, "serve as rollouts"),
        ("dpo", True, False, "are not used"),  # further ones than are learnt from
    ],
)
def test_what_tune_made_of_a_ranking_depends_on_the_algorithm(
    tmp_path: Path, algorithm: str, warm_up: bool, learnt: bool, use: str
) -> None:
    run = runs.make(tmp_path / "run")
    row = {"prompt_id": "train-0", "warm_up": warm_up, "learnt": learnt}
    data_files.write_jsonl(run.folder("tune") / "ranked.jsonl", [row])
    run.config = run.config.model_copy(update={"tune": run.config.tune.model_copy(update={"algorithm": algorithm})})
    assert explained(run, "train-0")["used"][1] == f"tune: its ranked answers {use}"
    data_files.write_jsonl(run.folder("tune") / "ranked.jsonl", [row | {"prompt_id": "train-1"}])
    assert explained(run, "train-0")["used"][1] == "tune: its ranked answers are not used"
