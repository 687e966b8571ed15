"""A disk that is full, a file that the system does not take: one line, and nothing is lost or left behind."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from disks import largest_file, small_disk
from exported import NECTAR, exported, write_table
from small_road import content, recipe, write_lines

from starling import cli

Fails = Callable[..., str]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(tmp_path)


@pytest.mark.parametrize("kilobytes", [8, 40, 320])
def test_a_run_on_a_full_disk_goes_on_with_more_room(
    fails: Fails, tiny_model: Path, tmp_path: Path, kilobytes: int
) -> None:
    small = recipe(tmp_path, tiny_model)
    with small_disk(tmp_path / "disk", kilobytes) as disk:
        line = fails(1, "run", small, "--run", disk / "run")
        assert "o space left on device" in line or "full" in line, line
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert cli.main(["run", str(small), "--run", str(disk / "run")]) == 0


@pytest.mark.parametrize("kilobytes", [40, 120], ids=["checkpoint", "larger checkpoint"])
def test_the_file_of_a_run_that_is_not_taken_is_named(
    fails: Fails, tiny_model: Path, tmp_path: Path, kilobytes: int
) -> None:
    run = ["run", recipe(tmp_path, tiny_model), "--run", tmp_path / "run"]
    assert cli.main([*map(str, run), "--until", "rank"]) == 0
    with largest_file(kilobytes * 1024):
        line = fails(1, *run, "--until", "fit")
    assert f"writing {tmp_path / 'run/fit/checkpoint.pt'} failed" in line
    assert "free space" in line


@pytest.mark.parametrize("form", ["trl", "nemo-rl"])
def test_where_an_export_is_not_taken_the_old_one_stays(fails: Fails, table: Path, form: str) -> None:
    exported(table, form)
    before = content(table.parent / "out")
    row = NECTAR | {"answers": [{"answer": os.urandom(40_000).hex(), "rank": rank} for rank in (1, 2)]}
    write_lines(table, [row])
    with largest_file(20_000):
        line = fails(1, "export", table, "--to", form, "--out", table.parent / "out")
    assert line.startswith("error: writing ") and "File too large" in line
    assert content(table.parent / "out") == before
    assert not (table.parent / "out.partial").exists()


@pytest.mark.parametrize("form", ["trl", "nemo-rl"])
def test_an_export_to_a_full_disk_gives_its_room_back(fails: Fails, table: Path, form: str) -> None:
    with small_disk(table.parent / "disk", 200) as disk:
        row = {"prompt": "hi", "rejected": "no"}
        table.write_text("".join(json.dumps(row | {"chosen": os.urandom(200).hex()}) + "\n" for _ in range(2500)))
        line = fails(1, "export", table, "--to", form, "--out", disk / "out")
        assert list(disk.iterdir()) == []
    assert line.startswith("error: writing ") and "No space left on device; free space or choose" in line
