"""Public benchmarks by lm-evaluation-harness: losses as plain as gains."""

import importlib.util
import json
from pathlib import Path

import builtin_model
import pytest
from harness_results import results, write

from starling import cli
from starling.benches import harness, lm_eval
from starling.benches.asked import Asked
from starling.errors import UsageError

CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "Japan": "Tokyo", "Egypt": "Cairo",
    "Russia": "Moscow", "China": "Beijing", "Greece": "Athens", "Cuba": "Havana", "Kenya": "Nairobi", "Peru": "Lima",
    "England": "London", "Ireland": "Dublin", "Portugal": "Lisbon", "Austria": "Vienna", "Norway": "Oslo",
    "Sweden": "Stockholm", "Poland": "Warsaw", "Hungary": "Budapest", "Canada": "Ottawa", "Iraq": "Baghdad",
    "Iran": "Tehran", "Finland": "Helsinki",
}  # fmt: skip
TASK = """
task: capitals
dataset_path: json
dataset_kwargs:
  data_files:
    test: {rows}
output_type: multiple_choice
test_split: test
doc_to_text: "The capital of {{{{country}}}} is"
doc_to_choice: "{{{{cities}}}}"
doc_to_target: 0
metric_list:
  - metric: acc
metadata:
  version: 1.0
"""


def test_intervals_by_hand_and_shares_end_at_0_and_1(tmp_path: Path) -> None:
    rows = {row["name"]: row for row in map(lm_eval.row, harness.read(write(tmp_path / "r.json", results())).figures)}
    # 0.5 +- 1.95996 * 0.004
    assert (rows["mmlu acc"]["low"], rows["mmlu acc"]["high"]) == pytest.approx((0.49216, 0.50784), abs=1e-5)
    assert rows["lambada perplexity"]["unit"] == "points"
    near = results(acc=0.999)
    assert lm_eval.row(harness.read(write(tmp_path / "n.json", near)).figures[0])["high"] == 1.0


def test_what_fell_stands_before_what_rose_and_direction_counts(tmp_path: Path) -> None:
    before = harness.read(write(tmp_path / "a.json", results()))
    after = harness.read(write(tmp_path / "b.json", results(acc=0.45, exact=0.3, perplexity=12.0)))
    moved, lost = lm_eval.compare(before, after)
    assert [(one.name, one.says) for one in moved] == [
        ("mmlu acc", "worse"), ("lambada perplexity", "worse"), ("gsm8k exact_match (strict-match)", "better"),
        ("mmlu_law acc", "unclear"),
    ]  # fmt: skip
    assert lost == []
    # -0.05 +- 1.95996 * sqrt(2) * 0.004 = 0.011087
    assert (moved[0].low, moved[0].high) == pytest.approx((-0.061087, -0.038913), abs=1e-5)
    assert lm_eval.sentence(moved[0]) == "mmlu acc: worse, 50.0 % to 45.0 %, -5.0 pt (-6.1 to -3.9)."
    said = lm_eval.sentence(moved[3])
    # 2.80158 * sqrt(2) * 0.03 = 0.1189
    assert said.startswith("mmlu_law acc: no difference is shown, 40.0 % to 40.0 %")
    assert said.endswith("one below 11.9 pt would probably not be seen.")


def test_no_change_of_a_share_passes_100_points(tmp_path: Path) -> None:
    held = results(acc=1.0)
    held["results"]["mmlu"]["acc_stderr,none"] = 0.3
    after = results(acc=0.0)
    after["results"]["mmlu"]["acc_stderr,none"] = 0.3
    found = [harness.read(write(tmp_path / f"{name}.json", one)) for name, one in (("a", held), ("b", after))]
    # -1 +- 1.95996 * sqrt(2) * 0.3 = 0.83154
    assert (compared := lm_eval.compare(*found)[0][0]).low == -1.0
    assert compared.high == pytest.approx(-0.16846, abs=1e-5)


def test_other_shots_versions_and_missing_tasks_are_not_compared(tmp_path: Path) -> None:
    before = harness.read(write(tmp_path / "a.json", results()))
    fewer = results(**{"n-shot": {"gsm8k": 0}})
    del fewer["results"]["lambada"]
    fewer["results"]["arc"] = {"acc,none": 0.3, "acc_stderr,none": "N/A"}
    moved, lost = lm_eval.compare(before, harness.read(write(tmp_path / "b.json", fewer)))
    assert [one.name for one in moved] == ["mmlu acc", "mmlu_law acc"]
    assert sorted((one.item, one.reason) for one in lost) == [
        ("arc acc", "only the tested model has this figure"),
        ("gsm8k exact_match (strict-match)", "other shots or another version of the task"),
        ("lambada perplexity", "only the other model has this figure"),
    ]


def test_a_figure_without_error_allows_no_verdict_and_one_that_is_no_number_is_left_out(tmp_path: Path) -> None:
    bare = {"results": {"arc": {"acc,none": 0.3, "acc_norm,none": "N/A"}}}
    found = harness.read(write(tmp_path / "bare.json", bare))
    assert [(one.item, one.reason) for one in found.left_out] == [("arc acc_norm", "a figure that is no number")]
    moved, _ = lm_eval.compare(found, found)
    assert moved[0].says == "unclear"
    assert "so how sure this is cannot be said" in lm_eval.sentence(moved[0])


def test_the_command_merges_two_results_files(tmp_path: Path, capsys) -> None:
    new = write(tmp_path / "new" / "org" / "results_2.json", results(acc=0.45))
    old = write(tmp_path / "old" / "results_1.json", results())
    result = lm_eval.run(Asked(scores=str(new.parents[1]), against=str(old), out=tmp_path / "out"))
    assert (result["against"]["worse"], result["against"]["better"]) == (1, 0)
    shown = capsys.readouterr().out
    assert "Against org/model: 1 worse, 0 better, 3 unclear" in shown
    assert json.loads((tmp_path / "out" / "result.json").read_text())["judge"]["version"] == "0.4.13"


def test_without_the_harness_one_line_says_what_to_install(tiny_model, tmp_path: Path) -> None:
    if importlib.util.find_spec("lm_eval"):
        pytest.skip("lm-evaluation-harness is installed")
    with pytest.raises(UsageError, match=r"pip install '\.\[lm-eval\]'"):
        lm_eval.run(Asked(model=str(tiny_model), tasks="arc_easy", out=tmp_path))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (Asked(), "either --model MODEL with --tasks, or --scores"),
        (Asked(model="smollm2"), "needs --tasks"),
        (Asked(scores="results.json", tasks="mmlu"), "--tasks are what a MODEL is tested on"),
        (Asked(model="openai:x@http://127.0.0.1:1", tasks="mmlu"), "needs the weights"),
    ],
)
def test_what_cannot_be_run_is_refused(asked: Asked, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        lm_eval.run(asked)


def own_task(folder: Path) -> Path:
    """A folder with a task for the harness: capitals of countries, each among three others."""
    folder.mkdir()
    cities = list(CAPITALS.values())
    rows = [
        {"country": country, "cities": [cities[(at + step) % len(cities)] for step in range(4)]}
        for at, country in enumerate(CAPITALS)
    ]
    (folder / "capitals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "capitals.yaml").write_text(TASK.format(rows=folder / "capitals.jsonl"))
    return folder


def test_a_folder_without_tasks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no task in it"):
        lm_eval.run(Asked(model="smollm2", tasks="capitals", tasks_from=tmp_path))


@pytest.mark.heavy
@pytest.mark.timeout(1800)
def test_the_real_harness_tells_a_loss_as_plainly_as_a_gain(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The built-in model knows capitals, one without training does not."""
    pytest.importorskip("lm_eval", reason="needs the extra `lm-eval`: pip install 'lm-eval[hf]'")
    builtin_model.fetched()
    own, out = own_task(tmp_path / "tasks"), tmp_path / "out"
    asked = ["--tasks", "capitals", "--tasks-from", str(own)]
    assert (
        cli.main(["bench", "lm_eval", "--model", str(tiny_model), "--against", "smollm2", *asked, "--out", str(out)])
        == 0
    )
    told = capsys.readouterr().out
    assert "Against smollm2: 1 worse, 0 better, 0 unclear" in told and "capitals acc: worse" in told
    found = json.loads((out / "result.json").read_text())
    assert [(row["name"], row["n"]) for row in found["rows"]] == [("capitals acc", 24)]
    turned = ["--scores", str(out / "against"), "--against", str(out / "model"), "--out", str(tmp_path / "turned")]
    assert cli.main(["bench", "lm_eval", *turned]) == 0
    assert "capitals acc: better" in capsys.readouterr().out


def test_results_that_a_run_holds_do_not_stand_for_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "run" / "evaluate" / "results_1.json", results())
    assert lm_eval._results(str(tmp_path / "run")) is not None
    (tmp_path / "run" / "manifest.json").write_text("{}")
    assert lm_eval._results(str(tmp_path / "run")) is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs lm-evaluation-harness"):
        lm_eval.plan(Asked(model=str(tmp_path / "run"), tasks="mmlu"))
