"""A real llama.cpp server with the built-in model as the judge of MT-Bench and AlpacaEval, killed and gone on with."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from llama_server import serving_builtin
from small_road import recipe, write_lines

from starling import bench, cli, data_files
from starling.benches.asked import Asked

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]
SAID = {
    1: ("Write a line on rain.", "Rain taps the roof.", "Weather.", "And on snow.", "Snow hushes the street.", "No."),
    2: ("What is 6 times 7?", "42.", "It is 40.", "And half of it?", "21.", "A half."),
    3: ("Why is the sky blue?", "Air scatters blue light most.", "It is not.", "And at dusk?", "Red remains.", "Dark."),
}
CALLS = """
SELECT outcome, count(*) FROM attempts JOIN askers ON asker = askers.id WHERE stage = 'verdicts' GROUP BY outcome
"""


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The built-in model behind a llama.cpp server, as `--judge` names it."""
    with serving_builtin(tmp_path_factory.mktemp("gguf"), slots=2) as address:
        yield f"openai:smollm2@{address}/v1"


def files(folder: Path) -> dict[str, Any]:
    """Questions of two turns, and two models' answers, in FastChat's form."""
    asked = [{"question_id": at, "category": "stem", "turns": [one[0], one[3]]} for at, one in SAID.items()]
    sides = {
        name: [
            {"question_id": at, "model_id": name, "choices": [{"index": 0, "turns": [one[first], one[second]]}]}
            for at, one in SAID.items()
        ]
        for name, first, second in (("good", 1, 4), ("bad", 2, 5))
    }
    return {
        "data": str(write_lines(folder / "question.jsonl", asked)),
        "answers": write_lines(folder / "good.jsonl", sides["good"]),
        "against": str(write_lines(folder / "bad.jsonl", sides["bad"])),
    }


def calls(out: Path) -> dict[str | None, int]:
    """How many calls for verdicts ended in which way; None: not yet, or never."""
    with closing(sqlite3.connect(out / "calls.sqlite")) as db:
        return dict(db.execute(CALLS).fetchall())


def test_marks_held_to_a_schema_are_all_readable_and_on_file(judge: str, tmp_path: Path) -> None:
    given = files(tmp_path) | {"judge": (judge,), "output": "json", "out": tmp_path / "out"}
    del given["against"]
    result = bench.run("mt_bench", Asked(**given))
    rows = list(data_files.read_rows(tmp_path / "out" / "model_judgment" / "smollm2_single.jsonl"))
    print("marks", Counter(row["score"] for row in rows))
    assert len(rows) == 6 and all(1 <= row["score"] <= 10 for row in rows)
    assert all(json.loads(row["judgment"]) == {"rating": row["score"]} for row in rows)
    assert (result["rows"][0]["n"], result["left_out"]["count"], calls(tmp_path / "out")) == (6, 0, {"reply": 6})
    assert bench.run("mt_bench", Asked(**given))["rows"] == result["rows"]
    assert calls(tmp_path / "out") == {"reply": 6}


def test_after_a_kill_in_the_middle_of_pairs_no_completed_call_is_asked_again(judge: str, tmp_path: Path) -> None:
    given, out = files(tmp_path), tmp_path / "out"
    given |= {"judge": judge, "output": "json", "out": out}
    command = [sys.executable, "-m", "starling.cli", "bench", "mt_bench"]
    process = subprocess.Popen(
        [*command, *(part for key, value in given.items() for part in (f"--{key}", str(value)))],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    while process.poll() is None and not ((out / "calls.sqlite").exists() and _replies(out) >= 2):
        time.sleep(0.02)
    process.kill()
    process.wait()
    done = _replies(out)
    assert done >= 2
    result = bench.run("mt_bench", Asked(**given | {"judge": (judge,)}))
    counted = calls(out)
    print("killed after", done, "of 12 calls;", counted)
    assert counted["reply"] == 12 and sum(counted.values()) <= 12 + 8  # what was in flight may be asked again
    found = {row["name"]: row for row in result["rows"]}
    assert (found["good against bad"]["n"], found["both orders agree"]["n"]) == (6, 6)
    print({name: found[name]["value"] for name in ("good against bad", "points of the one shown first")})


def _replies(out: Path) -> int:
    try:
        return calls(out).get("reply", 0)
    except sqlite3.OperationalError:  # its tables are being laid out
        return 0


def test_preferences_held_to_a_schema_are_all_readable(judge: str, tmp_path: Path) -> None:
    sides = {
        name: write_lines(
            tmp_path / f"{name}.jsonl",
            [{"instruction": one[0], "output": one[at], "generator": name} for one in SAID.values()],
        )
        for name, at in (("good", 1), ("bad", 2))
    }
    given = {"answers": sides["good"], "against": str(sides["bad"]), "judge": (judge,), "out": tmp_path / "out"}
    result = bench.run("alpaca_eval", Asked(output="json", **given))
    assert (result["rows"][0]["n"], result["left_out"]["count"]) == (3, 0)
    rows = json.loads((tmp_path / "out" / "annotations.json").read_text())
    print("preferences", [row["preference"] for row in rows])
    assert {row["preference"] for row in rows} <= {1.0, 1.5, 2.0}


def test_a_run_has_its_policies_marked_by_it_and_asks_nothing_twice(
    judge: str, tiny_model: Path, tmp_path: Path
) -> None:
    table = (
        f'{{name = "mt_bench", judge = "{judge}", output = "json", marks = true, data = "{files(tmp_path)["data"]}"}}'
    )
    run = tmp_path / "run"
    arguments = ["run", str(recipe(tmp_path, tiny_model)), "--run", str(run)]
    assert cli.main([*arguments, "--set", f"evaluate.benchmarks=[{table}]"]) == 0
    (found,) = json.loads((run / "evaluate" / "scores.json").read_text())["benchmarks"]
    assert (found["kind"], found["judge"], found["cases"]) == ("change", "smollm2", 3)
    marks = found["rows"][0]
    assert 1 <= marks["base"]["value"] <= 10 and 1 <= marks["tuned"]["value"] <= 10
    with closing(sqlite3.connect(run / "calls.sqlite")) as db:
        of_verdicts = CALLS.replace("'verdicts'", "'evaluate mt_bench verdicts'")
        before = db.execute(of_verdicts).fetchall()
        assert cli.main([*arguments, "--set", "evaluate.benchmarks=[]"]) == 0
        assert cli.main([*arguments, "--set", f"evaluate.benchmarks=[{table}]"]) == 0
        assert db.execute(of_verdicts).fetchall() == before and dict(before)["reply"] >= 12
