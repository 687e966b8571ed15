"""A run is a folder."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from stored import finish, settings

import starling
from starling import config, errors, store, writing
from starling.errors import DataError, StarlingError, UsageError
from starling.store import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.open(tmp_path / "run", settings())


def manifest(run: Run) -> dict:
    return json.loads((run.root / "manifest.json").read_text())


def test_a_new_run_has_its_configuration_and_an_empty_manifest(run: Run) -> None:
    assert config.load(run.root / "config.toml") == settings()
    assert (manifest(run)["format"], manifest(run)["stages"]) == (store.FORMAT, {})
    assert manifest(run)["versions"]["starling"] == starling.__version__


def test_a_run_is_opened_again_with_the_same_settings(run: Run) -> None:
    finish(run, "prompts", count=3)
    again = Run.open(run.root, settings())
    assert again.is_done("prompts")
    assert again.facts("prompts") == {"count": 3}


def test_a_run_of_which_nothing_is_done_takes_other_settings(run: Run) -> None:
    run.started("prompts")
    assert Run.open(run.root, settings("tune.lam=0.25")).config.tune.lam == 0.25
    assert Run.read(run.root).config.tune.lam == 0.25
    run.started("sample")  # begun, so perhaps paid for
    with pytest.raises(UsageError, match="other settings"):
        Run.open(run.root, settings("tune.lam=0.75"))


def test_other_settings_are_refused_and_named_and_the_run_is_left_alone(run: Run) -> None:
    finish(run, "prompts")
    before = {path.name: path.read_bytes() for path in run.root.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=r"other settings \(tune\.lam: 0\.5 -> 0\.25\)"):
        Run.open(run.root, settings("tune.lam=0.25"))
    assert {path.name: path.read_bytes() for path in run.root.rglob("*") if path.is_file()} == before


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="holds other files"):
        Run.open(tmp_path, settings())
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_an_empty_folder_becomes_a_run(tmp_path: Path) -> None:
    Run.open(tmp_path, settings())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.toml", "manifest.json"]


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(UsageError, match="is a file, not a folder"):
        Run.open(tmp_path / "run", settings())


def test_a_run_of_another_format_names_the_version_that_made_it(run: Run) -> None:
    (run.root / "manifest.json").write_text(json.dumps({"format": 99, "versions": {"starling": "9.9"}}))
    with pytest.raises(DataError, match=r"format 99 \(starling 9\.9\), this is format 1"):
        Run.read(run.root)


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "{}", "null", "\x00",
        '{"format": 1, "versions": 3}', '{"format": 1}', '{"format": 1, "stages": []}',
        '{"format": 1, "stages": {"fit": null}}', '{"format": 1, "stages": {"fit": {"state": "running"}}}',
        '{"format": 1, "stages": {"fit": {"state": "done", "seconds": 1.0}}}',
    ],
)  # fmt: skip
def test_a_broken_manifest_is_named(run: Run, content: str) -> None:
    (run.root / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=r"manifest\.json is not a manifest"):
        Run.read(run.root)


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no run in"):
        Run.read(tmp_path)


@pytest.mark.parametrize("left", ["config.toml", "config.toml.partial", "manifest.json.partial"])
def test_a_run_killed_before_its_manifest_stood_can_be_opened(tmp_path: Path, left: str) -> None:
    (tmp_path / left).write_text(config.dump(settings()))
    Run.open(tmp_path, settings())
    assert Run.read(tmp_path).config == settings()


def test_a_foreign_config_toml_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[server]\n")
    with pytest.raises(UsageError, match="holds other files"):
        Run.open(tmp_path, settings())
    assert (tmp_path / "config.toml").read_text() == "[server]\n"


def test_a_stage_is_done_only_when_the_manifest_says_so(run: Run) -> None:
    assert not run.is_done("prompts")
    run.started("prompts")
    assert not Run.read(run.root).is_done("prompts")
    run.finished("prompts", {})
    assert Run.read(run.root).is_done("prompts")


def test_facts_of_an_unfinished_stage_are_refused(run: Run) -> None:
    run.started("fit")
    with pytest.raises(UsageError, match=r"fit: not done yet in .*--until fit"):
        run.facts("fit")


def test_a_finished_stage_has_the_hash_of_every_output(run: Run) -> None:
    run.started("rank")
    (run.folder("rank") / "deep").mkdir()
    (run.folder("rank") / "deep" / "a.txt").write_text("abc")
    (run.folder("rank") / "checkpoint.pt").write_text("does not last")
    (run.folder("rank") / "checkpoint.pt.partial").write_text("of a save that was killed")
    (run.folder("rank") / "policy.old-x7").mkdir()  # of a folder that was being replaced
    (run.folder("rank") / "policy.old-x7" / "b.txt").write_text("old")
    (run.folder("rank") / "m.old-x7-00000.parquet").write_text("abc")  # of a model of that name
    run.finished("rank", {})
    expected = hashlib.sha256(b"abc").hexdigest()
    outputs = {"rank/deep/a.txt": expected, "rank/m.old-x7-00000.parquet": expected}
    assert manifest(run)["stages"]["rank"]["outputs"] == outputs
    assert sorted(path.name for path in run.folder("rank").iterdir()) == ["deep", "m.old-x7-00000.parquet"]


def test_a_checkpoint_stays_until_the_stage_is_noted_as_done(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.started("fit")
    saved = run.folder("fit") / "checkpoint.pt"
    saved.write_text("all that a kill must not cost")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Run, "_save", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        run.finished("fit", {})
    assert saved.exists()
    run.finished("fit", {})
    assert not saved.exists()


def test_time_of_interrupted_attempts_adds_up_and_the_highest_memory_stays(run: Run) -> None:
    run.started("fit", threads=1, products="bfloat16")
    run.spent("fit", 1.5, 700)
    run.started("fit", threads=2, products="float32")
    run.spent("fit", 2.25, 300)
    run.finished("fit", {})
    found = manifest(run)["stages"]["fit"]
    assert found["seconds"] == pytest.approx(3.75, abs=0.1)
    assert (found["peak_memory_mib"], found["threads"], found["products"]) == (700, 2, ["bfloat16", "float32"])


def at(run: Run, monkeypatch: pytest.MonkeyPatch, second: int, torch: str, model: str = "sha256:1") -> None:
    """`fit` starts at this second, on this version of PyTorch, from this model."""
    monkeypatch.setattr(store, "versions", lambda: {"starling": "0.2.0", "torch": torch})
    monkeypatch.setattr(store, "_now", lambda: f"2026-11-28T00:00:{second:02}+00:00")
    run.started("fit", inputs={"models": {"smollm2": model}})


def test_a_stage_has_its_start_and_end_its_versions_seed_and_inputs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    at(run, monkeypatch, 1, "1.0")
    assert "ended" not in manifest(run)["stages"]["fit"]
    monkeypatch.setattr(store, "_now", lambda: "2026-11-28T00:00:09+00:00")
    run.finished("fit", {})
    monkeypatch.setattr(store, "versions", lambda: {"starling": "0.2.0", "torch": "2.0"})
    run.started("tune")
    found = manifest(run)["stages"]["fit"]
    assert (found["began"], found["ended"]) == ("2026-11-28T00:00:01+00:00", "2026-11-28T00:00:09+00:00")
    assert (found["versions"], found["seed"]) == ({"starling": "0.2.0", "torch": "1.0"}, 42)
    assert found["inputs"] == {"models": {"smollm2": "sha256:1"}} and "resumed" not in found
    assert run.versions == {"starling": "0.2.0", "torch": "1.0 and 2.0"}


def test_times_are_utc(run: Run) -> None:
    finish(run, "prompts")
    entry = manifest(run)["stages"]["prompts"]
    began, ended = (datetime.fromisoformat(entry[name]) for name in ("began", "ended"))
    assert began.utcoffset() == timedelta(0) and timedelta(0) <= ended - began < timedelta(minutes=1)
    assert abs(datetime.now(UTC) - began) < timedelta(minutes=1)


def test_a_stage_that_goes_on_keeps_how_it_began(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    at(run, monkeypatch, 1, "1.0")
    at(run, monkeypatch, 2, "1.0")
    at(run, monkeypatch, 3, "2.0", model="sha256:2")
    run.finished("fit", {})
    found = manifest(run)["stages"]["fit"]
    assert (found["began"], found["versions"]["torch"]) == ("2026-11-28T00:00:01+00:00", "1.0")
    assert found["inputs"] == {"models": {"smollm2": "sha256:1"}}
    assert found["resumed"] == [
        {"began": "2026-11-28T00:00:02+00:00"},
        {"began": "2026-11-28T00:00:03+00:00", "versions": {"starling": "0.2.0", "torch": "2.0"},
         "inputs": {"models": {"smollm2": "sha256:2"}}},
    ]  # fmt: skip
    assert run.versions["torch"] == "1.0 and 2.0"


def test_a_run_from_before_stages_noted_all_that_goes_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    old = {"state": "running", "threads": 2, "seconds": 5.0, "peak_memory_mib": 7}
    done = old | {"state": "done", "facts": {"count": 3}, "outputs": {}}
    made = {"format": store.FORMAT, "versions": {"torch": "0.9"}, "stages": {"prompts": done, "fit": old}}
    (run.root / "manifest.json").write_text(json.dumps(made))
    again = Run.open(run.root, settings())
    assert again.facts("prompts") == {"count": 3} and again.versions == {"torch": "0.9"}
    at(again, monkeypatch, 2, "1.0")
    again.finished("fit", {})
    found = Run.read(run.root).manifest["stages"]["fit"]
    assert (found["began"], found["seconds"], found["versions"]["torch"]) == ("2026-11-28T00:00:02+00:00", 5.0, "1.0")


def test_a_first_stage_that_goes_on_keeps_what_its_start_noted(run: Run) -> None:
    run.started("prompts")
    run.spent("prompts", 7.5, 300)
    again = Run.open(run.root, run.config)
    again.started("prompts")
    assert again.manifest["stages"]["prompts"]["began"] == run.manifest["stages"]["prompts"]["began"]
    assert again.manifest["stages"]["prompts"]["seconds"] == pytest.approx(7.5, abs=0.1)


def test_a_write_replaces_the_whole_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    writing.write_atomically(path, "a long first text")
    writing.write_atomically(path, "short")
    assert path.read_text() == "short"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_is_replaced_whole_and_what_stands_beside_it_stays(tmp_path: Path) -> None:
    for name, file in (("final", "old.txt"), ("partial", "new.txt"), ("final.old", "older.txt")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(file)
    writing.replace_folder(tmp_path / "partial", tmp_path / "final")
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.txt"))
    assert found == ["final.old/older.txt", "final/new.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["final", "final.old"]
    (tmp_path / "partial").mkdir()
    writing.replace_folder(tmp_path / "partial", tmp_path / "fresh")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["final", "final.old", "fresh"]


def test_the_old_folder_is_kept_where_the_new_one_cannot_take_its_place(tmp_path: Path) -> None:
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "old.txt").write_text("old")
    with pytest.raises(FileNotFoundError):
        writing.replace_folder(tmp_path / "not there", tmp_path / "final")
    assert [path.read_text() for path in tmp_path.rglob("old.txt")] == ["old"]


def test_the_systems_refusal_becomes_one_plain_line() -> None:
    expected = r"^writing x failed: No space left; free space or choose another folder$"
    with pytest.raises(StarlingError, match=expected), errors.explained("writing x"):
        raise OSError(28, "No space left")


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(KeyError), errors.explained("writing x"):
        raise KeyError


def test_settings_that_another_version_wrote_are_named_with_that_version(run: Run) -> None:
    text = (run.root / "config.toml").read_text()
    (run.root / "config.toml").write_text(text.replace("[tune]", "[tune]\nold_key = 1"))
    (run.root / "manifest.json").write_text(json.dumps(manifest(run) | {"versions": {"starling": "0.0.1"}}))
    with pytest.raises(DataError, match=r"made by starling 0\.0\.1\) do not fit .*'old_key'.*; use that version or"):
        Run.read(run.root)


@pytest.mark.parametrize("harm", ["missing", "changed"])
def test_a_file_of_a_finished_stage_that_is_not_what_it_was_stops_the_run(run: Run, harm: str) -> None:
    finish(run, "prompts")
    finish(run, "sample")
    run.refuse_damage(store.ROAD)
    file = run.root / "sample" / "table.txt"
    file.unlink() if harm == "missing" else file.write_text("cut")
    run.refuse_damage(["prompts"])
    with pytest.raises(
        DataError, match=r"1 of 2 finished files in .* are missing or changed, first sample/table\.txt;"
    ):
        run.refuse_damage(store.ROAD)


def test_a_folder_that_cannot_be_made_is_one_plain_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StarlingError, match=r"writing .* failed: Not a directory"):
        writing.write_atomically(tmp_path / "file" / "run" / "x", "")
    with pytest.raises(UsageError, match="there is no run in"):
        Run.read(tmp_path / "file")
