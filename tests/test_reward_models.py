"""Reward models on benchmarks: from rows and a model, or scores that are there, to the table and the file."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_road import write_lines

from starling import bench, cli, models, reward
from starling.benches.asked import Asked

SUBSETS = ("alpacaeval-easy", "mt-bench-hard", "donotanswer", "math-prm")


def rows() -> list[dict[str, Any]]:
    return [
        {"id": number, "prompt": f"what is the {word}?", "chosen": f"the {word} in the plain",
         "rejected": word * number, "subset": SUBSETS[number % 4]}
        for number, word in enumerate(("rain", "river", "town", "name", "spain", "plain"), 1)
    ]  # fmt: skip


def with_scores(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one | {"score_chosen": float(one["id"] % 2), "score_rejected": 0.5} for one in found]


def run(name: str, **options: Any) -> dict[str, Any]:
    return bench.run(name, Asked(**options))


@pytest.fixture
def saved(reward_model: Any, tmp_path: Path) -> Path:
    """The folder of the tiny reward model."""
    models.save(reward_model, tmp_path / "rm")
    return tmp_path / "rm"


def test_a_models_rewards_are_those_of_score_and_stand_in_the_file(saved: Path, tmp_path: Path) -> None:
    data, out = write_lines(tmp_path / "rows.jsonl", rows()), tmp_path / "out.json"
    result = run("reward_bench", model=str(saved), data=str(data), out=out)
    expected = reward.load_reward_model(str(saved)).score(
        [one["prompt"] for one in rows()], [[one["chosen"], one["rejected"]] for one in rows()]
    )
    written = json.loads(out.read_text())
    assert [one["scores"] for one in written["items"]] == [pytest.approx(scores, abs=1e-5) for scores in expected]
    right = [chosen > rejected for chosen, rejected in expected]
    found = {one["name"]: one for one in result["rows"]}
    assert found["mt-bench-hard"]["value"] == (right[0] + right[4]) / 2  # rows 1 and 5
    assert written["rows"] == json.loads(json.dumps(result["rows"]))
    assert written["model"] == models.identity(str(saved)) | {"dtype": "float32"}
    assert re.fullmatch(r"[0-9a-f]{64}", written["model"]["weights_sha256"])
    assert re.fullmatch(r"[0-9a-f]{16}", written["model"]["template_hash"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", written["date"])


def test_a_score_file_gives_the_same_figures_again_without_a_model(saved: Path, tmp_path: Path) -> None:
    data, out = write_lines(tmp_path / "rows.jsonl", rows()), tmp_path / "out.json"
    first = run("reward_bench", model=str(saved), data=str(data), out=out)
    again = run("reward_bench", scores=str(out), data=str(data))
    assert again["rows"] == first["rows"]
    assert again["model"] == {**first["model"], "scores": str(out)}


def test_scores_of_other_rows_are_not_taken(saved: Path, tmp_path: Path) -> None:
    data, out = write_lines(tmp_path / "rows.jsonl", rows()), tmp_path / "out.json"
    run("reward_bench", model=str(saved), data=str(data), out=out)
    changed = rows()
    changed[2]["rejected"] += "!"
    result = run("reward_bench", scores=str(out), data=str(write_lines(tmp_path / "changed.jsonl", changed)))
    assert result["left_out"]["reasons"] == {f"no scores in {out}": 1}
    assert result["left_out"]["items"][0]["item"] == "math-prm:3"


def test_rows_that_the_model_cannot_read_are_left_out_counted_and_listed(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = rows()
    found[0]["rejected"] = " \n"
    found[1]["chosen"] = "rain " * 600
    result = run("reward_bench", model=str(saved), data=str(write_lines(tmp_path / "rows.jsonl", found)))
    assert result["left_out"]["reasons"] == {"too long for the model": 1}  # a blank answer is one to be scored
    assert [left["item"] for left in result["left_out"]["items"]] == ["donotanswer:2"]
    assert "the reward model's window is 512" in result["left_out"]["items"][0]["detail"]
    assert sum(one["n"] for one in result["rows"] if one["level"] == 1) == 5
    printed = capsys.readouterr().out
    assert "Left out: 1 of 6 rows" in printed
    assert "1 x too long for the model, first donotanswer:2" in printed


def test_turns_that_the_template_refuses_are_left_out_too(saved: Path, tmp_path: Path) -> None:
    template = saved / "chat_template.jinja"
    refuse = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    template.write_text(refuse + template.read_text())
    found: list[dict[str, Any]] = rows()
    found[0]["prompt"] = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "rain?"}]
    result = run("reward_bench", model=str(saved), data=str(write_lines(tmp_path / "rows.jsonl", found)))
    assert result["left_out"]["reasons"] == {"refused by the chat template": 1}
    assert "no system role" in result["left_out"]["items"][0]["detail"]


def test_the_data_may_be_parquet_packed_lines_or_a_folder(tmp_path: Path) -> None:
    found = with_scores(rows())
    plain = write_lines(tmp_path / "a.jsonl", found)
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write(plain.read_text())
    (tmp_path / "folder").mkdir()
    pq.write_table(pa.Table.from_pylist(found[:2]), tmp_path / "folder" / "0.parquet")
    write_lines(tmp_path / "folder" / "1.jsonl", found[2:])
    results = [
        run("reward_bench", scores="stored", data=str(tmp_path / name)) for name in ("a.jsonl", "b.jsonl.gz", "folder")
    ]
    assert results[0]["rows"] == results[1]["rows"] == results[2]["rows"]
    assert len({result["data"]["sha256"] for result in results}) == 1
    assert results[0]["rows"][0]["value"] is not None


def test_rows_of_the_second_benchmark_are_scored_packed(saved: Path, tmp_path: Path) -> None:
    found = [
        {"id": "1", "prompt": "rain?", "chosen": ["the rain"], "rejected": ["a", "b", "c"], "subset": "Math"},
        {"id": "ref:1", "prompt": "name?", "chosen": ["the name"], "rejected": ["a"], "num_correct": 1,
         "subset": "Ties"},
        {"id": "tied:1", "prompt": "town?", "chosen": ["a", "b"], "rejected": ["c"], "num_correct": 2,
         "subset": "Ties"},
    ]  # fmt: skip
    out = tmp_path / "out.json"
    result = run("reward_bench_2", model=str(saved), data=str(write_lines(tmp_path / "r.jsonl", found)), out=out)
    assert [len(one["scores"]) for one in json.loads(out.read_text())["items"]] == [4, 2, 3]
    assert [one["name"] for one in result["rows"] if one["level"] == 0 and one["n"]] == ["overall", "Math", "Ties"]


def test_the_command_prints_a_table_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(write_lines(tmp_path / "rows.jsonl", with_scores(rows())))
    assert cli.main(["bench", "reward_bench", "--scores", "stored", "--data", data]) == 0
    printed = capsys.readouterr().out
    for text in (
        "reward_bench: chosen against rejected",
        "length alone",
        "overall",
        "math-prm",
        "within a factor of 1.25",
    ):
        assert text in printed
    assert cli.main(["bench", "reward_bench", "--scores", "stored", "--data", data, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["rows"][0]["name"] == "overall"
    assert set(result["rows"][0]["by_length"]) == {"shorter", "like", "longer"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["reward_bench_3", "--model", "x"], 2, "no benchmark 'reward_bench_3'; benchmarks: starling_rm, reward_bench"),
        (["reward_bench"], 2, "give either --model MODEL or --scores"),
        (["reward_bench", "--model", "x", "--scores", "stored"], 2, "give either --model MODEL or --scores"),
        (["starling_rm", "--model", "x"], 2, "starling_rm needs --data"),
        (["reward_bench", "--scores", "gone.json", "--data", "DATA"], 2, "--scores gone.json: there is no such file"),
        (["reward_bench", "--scores", "DATA", "--data", "DATA"], 1, "not what `starling bench --out` writes"),
        (["reward_bench", "--scores", "stored", "--data", "DATA"], 1, "none of the 6 rows of .*: 6 x no stored scores"),
        (["reward_bench", "--scores", "stored", "--data", "gone.jsonl"], 1, "gone.jsonl: there is no such file"),
        (["reward_bench", "--model", "./gone", "--data", "DATA"], 1, "./gone: there is no such folder"),
        (["reward_bench", "--scores", "stored", "--data", "EMPTY"], 1, "holds no rows"),
        (["starling_rm", "--scores", "stored", "--data", "DATA"], 1, "DATA:1: needs prompt, response_a, response_b"),
        (["reward_bench", "--scores", "stored", "--data", "DATA", "--out", "FOLDER"], 2, "is a folder"),
        (["reward_bench", "--scores", "stored", "--data", "DATA", "--dtype", "bfloat16"], 2, "--dtype is what a MODEL"),
    ],
    ids=lambda case: " ".join(case)[:50] if isinstance(case, list) else "",
)  # fmt: skip
def test_what_is_wrong_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str],
    code: int, message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    places = {"DATA": str(write_lines(tmp_path / "rows.jsonl", rows())), "EMPTY": str(tmp_path / "empty.jsonl")}
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "folder").mkdir()
    places["FOLDER"] = str(tmp_path / "folder")
    assert cli.main(["bench", *(places.get(word, word) for word in arguments)]) == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message.replace("DATA", re.escape(places["DATA"])), error), error
