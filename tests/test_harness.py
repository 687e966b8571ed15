"""lm-evaluation-harness in a process of its own, and its results files."""

from pathlib import Path

import pytest
from harness_results import results, write

from starling import device
from starling.benches import harness
from starling.errors import DataError, StarlingError, UsageError


def test_figures_are_read_with_error_cases_level_and_direction(tmp_path: Path) -> None:
    found = harness.read(write(tmp_path / "r.json", results()))
    told = [(one.key.name, one.value, one.error, one.n, one.good, one.level) for one in found.figures]
    assert told == [
        ("mmlu acc", 0.5, 0.004, 250, 1, 0),  # a group's cases are its tasks'
        ("mmlu_law acc", 0.4, 0.03, 250, 1, 1),
        ("gsm8k exact_match (strict-match)", 0.2, 0.01, 9, 1, 0),
        ("lambada perplexity", 10.0, 0.3, 0, -1, 0),
    ]
    assert (found.model, found.version, found.left_out) == ("org/model", "0.4.13", [])


def test_where_all_or_none_are_right_the_error_is_not_zero(tmp_path: Path) -> None:
    held = results(acc=1.0, exact=0.0, perplexity=0.0)
    held["results"]["mmlu"]["acc_stderr,none"] = held["results"]["gsm8k"]["exact_match_stderr,strict-match"] = 0.0
    held["results"]["lambada"]["perplexity_stderr,none"] = 0.0
    found = {one.key.task: one.error for one in harness.read(write(tmp_path / "r.json", held)).figures}
    # Wilson's interval of 250 of 250 begins at n / (n + z^2) = 250 / 253.8415, that of 0 of 9 ends at z^2 / (n + z^2)
    assert 1 - 1.959964 * found["mmlu"] == pytest.approx(250 / 253.841459, abs=1e-6)
    assert 1.959964 * found["gsm8k"] == pytest.approx(3.841459 / 12.841459, abs=1e-6)
    assert found["lambada"] == 0.0  # no share
    held["results"]["mmlu"]["acc,none"] = 0.5
    assert harness.read(write(tmp_path / "r.json", held)).figures[0].error == 0.0  # what the harness says


@pytest.mark.parametrize("text", ["no json", "[]", '{"scores": {}}', '{"results": [1]}', '{"results": {"a": 1}}'])
def test_a_file_of_another_form_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=r"holds no table `results`"):
        harness.read(tmp_path / "x.json")


HARNESS = """
import json, pathlib, sys
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert given["--model"] == "hf" and given["--model_args"].startswith("pretrained=")
if given["--tasks"] == "broken":
    sys.exit("no such task: broken")
out = pathlib.Path(given["--output_path"], "model")
out.mkdir(parents=True, exist_ok=True)
held = {"results": {given["--tasks"]: {"acc,none": 0.5, "acc_stderr,none": 0.1}}, "model_name": "fake"}
(out / f"results_{len(list(out.iterdir()))}.json").write_text(json.dumps(held))
"""


@pytest.fixture
def fake_harness(tmp_path: Path, monkeypatch) -> Path:
    """A package of the harness's name, found here and by the process that is started."""
    folder = tmp_path / "site"
    (folder / "lm_eval").mkdir(parents=True)
    (folder / "lm_eval" / "__init__.py").write_text("")
    (folder / "lm_eval" / "__main__.py").write_text(HARNESS)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_the_harness_runs_once_for_the_same_tasks_and_weights(fake_harness, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = harness.run("folder", "arc", out, {"weights_sha256": "a"})
    assert harness.run("folder", "arc", out, {"weights_sha256": "a"}) == first
    assert harness.run("folder", "arc", out, {"weights_sha256": "b"}) != first
    assert harness.read(first).model == "fake"


def test_a_harness_that_fails_is_quoted(fake_harness, tmp_path: Path) -> None:
    with pytest.raises(StarlingError, match="code 1, saying 'no such task: broken'"):
        harness.run("folder", "broken", tmp_path / "out", {"weights_sha256": "a"})
    with pytest.raises(UsageError, match="no path with a comma"):
        harness.run("a,b", "arc", tmp_path / "out", {"weights_sha256": "a"})


def test_a_model_is_tested_in_what_the_machine_multiplies_and_again_on_another_kind(
    fake_harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, paths = tmp_path / "out", []
    for has_bfloat16, dtype in [(True, "bfloat16"), (False, "float32")]:
        monkeypatch.setattr(device, "_multiplies_bfloat16", lambda _kind, has=has_bfloat16: has)
        assert f"pretrained=folder,dtype={dtype}" in harness.command("folder", "arc", out)
        paths.append(harness.run("folder", "arc", out, {"weights_sha256": "a"}))
    assert paths[0] != paths[1]


def test_tasks_of_a_folder_are_known_to_the_harness_and_run_again_when_they_change(
    fake_harness, tmp_path: Path
) -> None:
    own, out, identity = tmp_path / "tasks", tmp_path / "out", {"weights_sha256": "a"}
    own.mkdir()
    (own / "arc.yaml").write_text("task: arc")
    assert harness.command("folder", "arc", out, own)[-2:] == ["--include_path", str(own)]
    assert "--include_path" not in harness.command("folder", "arc", out)
    first = harness.run("folder", "arc", out, identity, own)
    assert harness.run("folder", "arc", out, identity, own) == first
    (own / "arc.yaml").write_text("task: arc # changed")
    assert harness.run("folder", "arc", out, identity, own) != first
