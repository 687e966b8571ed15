"""The whole road with the tiny model: every file stands and loads; interruptions change nothing."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_road import recipe

from starling import cli, data_files, metrics, update
from starling.store import ROAD, Run

NECTAR = ["prompt", "answers", "turns", "num_responses", "source", "good_natured"]
OURS = [
    "prompt_id", "messages", "judge", "template_hash", "orders", "agreement", "rankings", "marks", "self_agreement",
    "calls", "repeats", "unread",
]  # fmt: skip
MODEL_FILES = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}


@pytest.fixture(scope="module")
def small(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recipe(tmp_path_factory.mktemp("small"), tiny_model)


@pytest.fixture(scope="module")
def unbroken(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    root = tmp_path_factory.mktemp("runs") / "unbroken"
    assert cli.main(["run", str(small), "--run", str(root)]) == 0
    return root


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """The command takes signals over for the rest of its process; here the process goes on."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


def stamps(root: Path) -> dict[str, int]:
    return {str(path.relative_to(root)): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def without_rates(root: Path) -> list[dict]:
    lines = metrics.read(root / "metrics.jsonl")
    return [{k: v for k, v in line.items() if not k.endswith(("seconds", "per_second"))} for line in lines]


def assert_same(one: Path, other: Path) -> None:
    """Bit for bit as the design defines it: rows of tables, safetensors, metrics without seconds and rates."""
    files = {
        str(path.relative_to(one)) for path in one.rglob("*") if path.suffix in (".parquet", ".jsonl", ".safetensors")
    }
    assert files == {
        str(path.relative_to(other))
        for path in other.rglob("*")
        if path.suffix in (".parquet", ".jsonl", ".safetensors")
    }
    for name in sorted(files - {"metrics.jsonl"}):
        if name.endswith(".safetensors"):
            assert (one / name).read_bytes() == (other / name).read_bytes(), name
        else:
            assert data_files.read_rows(one / name) == data_files.read_rows(other / name), name
    assert (one / "evaluate/scores.json").read_text() == (other / "evaluate/scores.json").read_text()
    assert without_rates(one) == without_rates(other)


def reaches(root: Path, stage: str, step: int) -> Callable[[], bool]:
    """Whether the run has logged that step of that stage and saved a checkpoint of it."""
    return lambda: (
        (root / stage / "checkpoint.pt").exists()
        and any(line["stage"] == stage and line["step"] >= step for line in metrics.read(root / "metrics.jsonl"))
    )


def state(root: Path, stage: str) -> str:
    return json.loads((root / "manifest.json").read_text())["stages"][stage]["state"]


def test_every_file_of_the_design_stands(unbroken: Path) -> None:
    found = set(stamps(unbroken))
    assert {"config.toml", "manifest.json", "metrics.jsonl", "calls.sqlite", "report.html"} <= found
    assert {"prompts/00000.parquet", "rank/00000.parquet", "evaluate/cases.jsonl", "evaluate/scores.json"} <= found
    assert len(list((unbroken / "sample").glob("*-0000[012].parquet"))) == 3
    assert {f"fit/model/{name}" for name in MODEL_FILES} <= found
    assert {f"tune/policy/{name}" for name in MODEL_FILES | {"generation_config.json"}} <= found
    assert [name for name in found if name.endswith((".pt", ".partial"))] == []
    assert all(Run.read(unbroken).is_done(stage) for stage in ROAD)


def test_each_test_prompt_is_answered_as_often_as_asked_for_and_like_draws_are_compared(unbroken: Path) -> None:
    cases = data_files.read_rows(unbroken / "evaluate/cases.jsonl")
    prompts = {case["prompt_id"] for case in cases}
    assert sorted((case["prompt_id"], case["draw"]) for case in cases) == [
        (p, d) for p in sorted(prompts) for d in (0, 1)
    ]
    for name in ("base", "tuned"):
        answers = {
            (a["prompt_id"], a["draw"]): a["answer"]
            for a in data_files.read_rows(unbroken / f"evaluate/{name}.parquet")
        }
        assert all(case[name]["answer"] == answers[case["prompt_id"], case["draw"]] for case in cases)


def test_rankings_read_as_nectar_everywhere(unbroken: Path, tmp_path: Path) -> None:
    import datasets

    files = str(unbroken / "rank" / "*.parquet")
    read = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
    assert read.column_names == [*NECTAR, *OURS]
    assert len(read) == 15
    for row in read:
        ranks = [answer["rank"] for answer in row["answers"]]
        assert row["prompt"].startswith("\n\nHuman: ")
        assert row["prompt"].endswith("\n\nAssistant: ")
        assert ranks == sorted(ranks)
        assert len(ranks) == row["num_responses"] == 3


def test_the_models_load_as_everybody_loads_them(unbroken: Path, tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    judge = AutoModelForSequenceClassification.from_pretrained(unbroken / "fit/model")
    assert (judge.config.num_labels, judge.score.bias) == (1, None)
    assert judge.score.weight.abs().sum() > 0
    tokenizer = AutoTokenizer.from_pretrained(unbroken / "fit/model")
    assert tokenizer.pad_token_id == judge.config.pad_token_id != tokenizer.eos_token_id

    policy = AutoModelForCausalLM.from_pretrained(unbroken / "tune/policy")
    own = AutoTokenizer.from_pretrained(unbroken / "tune/policy")
    assert own.chat_template == AutoTokenizer.from_pretrained(tiny_model).chat_template
    ids = own.apply_chat_template(
        [{"role": "user", "content": "rain"}], return_tensors="pt", add_generation_prompt=True
    )
    assert policy.generate(**ids, max_new_tokens=2, do_sample=False).shape[1] <= ids["input_ids"].shape[1] + 2


def test_only_the_last_blocks_of_the_policy_moved(unbroken: Path, tiny_model: Path) -> None:
    before = load_file(tiny_model / "model.safetensors")
    after = load_file(unbroken / "tune/policy/model.safetensors")
    moved = {name for name in after if not torch.equal(after[name], before[name].to(after[name].dtype))}
    assert Run.read(unbroken).facts("tune")["kept_step"] > 0
    assert moved
    assert all(name.startswith(("model.layers.2.", "model.layers.3.", "model.norm.")) for name in moved)


def test_the_whole_road_runs_on_either_kind_of_processor(
    products: torch.dtype, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", str(recipe(tmp_path, tiny_model)), "--run", str(tmp_path / "run")]) == 0
    told = f"atrix products in {str(products).removeprefix('torch.')}"
    assert told in " ".join(capsys.readouterr().out.split())
    assert told in (tmp_path / "run" / "report.html").read_text()
    policy = load_file(tmp_path / "run" / "tune" / "policy" / "model.safetensors")
    assert {weight.dtype for weight in policy.values()} == {products}
    name = f"tune/{update.GAP}"
    gaps = [line[name] for line in metrics.read(tmp_path / "run" / "metrics.jsonl") if name in line]
    assert gaps
    assert max(gaps) < (0.1 if products == torch.bfloat16 else 1e-4)  # sampler and trainer multiply alike


def test_a_second_call_does_nothing_twice(small: Path, unbroken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = stamps(unbroken)
    assert cli.main(["run", str(small), "--run", str(unbroken)]) == 0
    assert stamps(unbroken) == before
    printed = capsys.readouterr().out
    assert [stage for stage in ROAD if f"{stage}: done already" not in printed] == []


def test_a_run_goes_on_with_its_own_settings_where_no_recipe_is_named(unbroken: Path) -> None:
    before = stamps(unbroken)
    assert cli.main(["run", "--run", str(unbroken)]) == 0
    assert cli.main(["evaluate", "--run", str(unbroken)]) == 0
    assert stamps(unbroken) == before


def test_stage_by_stage_is_the_same_road(small: Path, unbroken: Path, tmp_path: Path) -> None:
    for stage in ROAD[:-1]:
        assert cli.main([stage, str(small), "--run", str(tmp_path / "run")]) == 0
    assert_same(tmp_path / "run", unbroken)


def test_a_finished_run_lends_the_stages_that_agree(
    small: Path, unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    arguments = ["run", str(small), "--run", str(other), "--set", "tune.lam=2.0", "--from", str(unbroken)]
    assert cli.main([*arguments, "--until", "tune"]) == 0
    said = f"from {unbroken}: prompts, sample, rank, fit; not the rest, since tune.lam: 0.5 -> 2.0"
    assert said in capsys.readouterr().out
    name = "model/model.safetensors"
    assert (other / "fit" / name).read_bytes() == (unbroken / "fit" / name).read_bytes()
    weights = "tune/policy/model.safetensors"
    assert (other / weights).read_bytes() != (unbroken / weights).read_bytes()


def test_kill_minus_nine_in_fit_and_in_tune_changes_nothing(small: Path, unbroken: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    for stage, step in (("fit", 2), ("tune", 1)):
        with (tmp_path / f"{stage}.txt").open("w") as noise:
            process = subprocess.Popen(
                [sys.executable, "-m", "starling.cli", "run", str(small), "--run", str(root)],
                stdout=subprocess.DEVNULL,
                stderr=noise,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        try:
            reached = reaches(root, stage, step)
            while process.poll() is None and not reached():
                time.sleep(0.002)
        finally:
            process.kill()
            process.wait()
        assert state(root, stage) == "running"
        assert (tmp_path / f"{stage}.txt").read_text() == ""
    assert cli.main(["run", str(small), "--run", str(root)]) == 0
    assert_same(root, unbroken)


@pytest.mark.parametrize(
    ("number", "stage"), [(signal.SIGINT, "fit"), (signal.SIGTERM, "tune")], ids=["ctrl-c", "term"]
)
def test_an_interrupted_run_says_one_line_and_goes_on(
    small: Path, unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals, stage: str
) -> None:
    root = tmp_path / "run"
    arguments = ["run", str(small), "--run", str(root)]
    assert cli.main([*arguments, "--until", ROAD[ROAD.index(stage) - 1]]) == 0
    reached = reaches(root, stage, 1)

    def interrupt() -> None:
        while not reached():
            time.sleep(0.002)
        os.kill(os.getpid(), number)

    capsys.readouterr()
    watcher = threading.Thread(target=interrupt, daemon=True)
    watcher.start()
    assert cli.main(arguments) == 130
    watcher.join()
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert errors.startswith("interrupted")
    assert state(root, stage) == "running"
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert cli.main(arguments) == 0
    assert_same(root, unbroken)
