"""The push to the Hub: only when asked for, private unless told, against a stand-in on this machine."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import hub_server
import pytest
from hub_server import SECRET, Hub

from starling import cli

ROW = {
    "prompt": "\n\nHuman: hi\n\nAssistant: ",
    "answers": [{"answer": "a", "rank": 1}, {"answer": "b", "rank": 2}],
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server.running() as server:
        yield server


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "rankings.jsonl"
    path.write_text(json.dumps(ROW) + "\n")
    return path


def exporting(table: Path, hub: Hub, *more: str) -> subprocess.CompletedProcess[str]:
    """The rankings for TRL into the folder `out` beside the table."""
    return hub_server.exporting(table, hub, "--to", "trl", "--out", str(table.parent / "out"), *more)


def test_without_the_flag_nothing_is_called(table: Path, hub: Hub) -> None:
    assert exporting(table, hub).returncode == 0
    assert hub.requests == []


def test_a_push_is_private_with_the_token_and_every_file(table: Path, hub: Hub) -> None:
    done = exporting(table, hub, "--push", "me/rankings")
    assert done.returncode == 0, done.stderr
    assert f"pushed to {hub.url}/datasets/me/rankings" in done.stdout
    assert hub.private == {"me/rankings": True}
    about_us = [authorised for _, path, authorised in hub.requests if "me/rankings" in path]
    assert about_us == [f"Bearer {SECRET}"] * 3
    out = table.parent / "out"
    assert hub.files == {path.name: path.read_bytes() for path in out.iterdir()}
    assert SECRET not in done.stdout + done.stderr + "".join(path.name for path in out.iterdir())


def test_a_public_data_set_is_made_only_when_told_and_never_by_surprise(table: Path, hub: Hub) -> None:
    assert exporting(table, hub, "--push", "me/open", "--public").returncode == 0
    assert hub.private == {"me/open": False}
    hub.files.clear()
    again = exporting(table, hub, "--push", "me/open")
    assert again.returncode == 2 and "me/open is public on the Hub; add --public" in again.stderr
    assert hub.files == {}
    hub.private["me/closed"] = True
    closed = exporting(table, hub, "--push", "me/closed", "--public")
    assert closed.returncode == 2 and "me/closed is private on the Hub" in closed.stderr
    assert hub.files == {}


def test_a_refusal_is_one_line_without_the_token_and_the_export_stands(table: Path, hub: Hub) -> None:
    hub.refuses = True
    done = exporting(table, hub, "--push", "me/rankings")
    assert done.returncode == 1
    assert done.stderr.startswith("error: export: pushing to me/rankings failed; the export stands in ")
    assert done.stderr.count("\n") == 1 and SECRET not in done.stderr
    assert (table.parent / "out" / "train.parquet").exists()


@pytest.mark.parametrize(
    ("arguments", "token", "message"),
    [
        (["--push", "me/rankings"], "", "needs a token of yours in the environment variable HF_TOKEN; it is not set"),
        (["--push", "rankings"], SECRET, "'rankings' is no name on the Hub; write OWNER/NAME"),
        (["--push", "me/a/b"], SECRET, "write OWNER/NAME"),
        (["--public"], SECRET, "--public goes with --push"),
    ],
)
def test_what_is_missing_is_one_line_before_anything_is_written(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments, token, message
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    assert cli.main(["export", str(table), "--to", "trl", "--out", str(table.parent / "out"), *arguments]) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1
    assert [path.name for path in table.parent.iterdir()] == ["rankings.jsonl"]
