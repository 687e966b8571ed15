"""What all commands share: help, `--json`, `--debug`, `--version`."""

import json
from pathlib import Path

import pytest
import typer
from small_road import recipe

import starling
from starling import cli
from starling.store import ROAD


@pytest.fixture
def until_prompts(tiny_model: Path, tmp_path: Path) -> list[str]:
    """A run as far as the prompts' own stage."""
    return ["run", str(recipe(tmp_path, tiny_model)), "--run", str(tmp_path / "run"), "--until", "prompts"]


def every_command() -> list[str]:
    return [str(registered.name) for registered in cli.app.registered_commands]


def test_the_commands_stand_in_road_order() -> None:
    assert [name for name in every_command() if name in ROAD] == list(ROAD)


@pytest.mark.parametrize("name", every_command())
def test_every_command_explains_itself_and_each_of_its_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([name, "--help"]) == 0
    printed = capsys.readouterr().out
    assert "--json" in printed
    assert "--debug" in printed
    parameters = typer.main.get_command(cli.app).commands[name].params  # type: ignore[attr-defined]  # a group
    assert [parameter.name for parameter in parameters if not parameter.help] == []


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"{starling.__version__}\n"


def test_no_command_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "Usage" in "".join(capsys.readouterr())


@pytest.mark.parametrize("arguments", [["--debug", "run", "nowhere"], ["run", "nowhere", "--debug"]])
def test_debug_shows_the_traceback_wherever_it_stands(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_json_stands_alone_on_stdout(
    until_prompts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*until_prompts, "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["prompts"]["used"] == {"train": 12, "validation": 3, "test": 3}
    assert "prompts: done in" in printed.err

    assert cli.main(["show", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stages"]["prompts"]["state"] == "done"
    assert cli.main(["show", str(tmp_path / "run" / "prompts"), "--n", "2", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2
    assert cli.main(["show", str(tmp_path / "run" / "prompts"), "--row", "town-1", "--json"]) == 0
    assert [row["id"] for row in json.loads(capsys.readouterr().out)] == ["town-1"]


def test_without_json_stdout_is_for_people_again(until_prompts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*until_prompts, "--json"]) == 0
    capsys.readouterr()
    assert cli.main(until_prompts) == 0
    printed = capsys.readouterr()
    assert "prompts: done already" in printed.out
    assert printed.err == ""
