"""What the documents promise exists: commands, options, files, links."""

import os
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from starling import cli, config

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
LAYOUT = ROOT / "docs" / "layout.md"
DOCUMENTS = [
    path for path in (README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))) if path.exists()
]
FENCE = re.compile(r"^```(?:sh|bash|console|shell)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
TREE = re.compile(r"^```\n(starling/\n.*?)^```", re.MULTILINE | re.DOTALL)
NO_NOUNS = {"__init__.py"}  # packages' own files need no line

needs_readme = pytest.mark.skipif(not README.exists(), reason="README.md is not written yet")


def command_lines() -> Iterator[tuple[str, str]]:
    """Every `starling ...` line in the shell blocks of the documents, with the document's name."""
    for path in DOCUMENTS:
        for block in FENCE.findall(path.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                if words and words[0] == "starling":
                    yield path.name, shlex.join(words)


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def tree_entries(text: str) -> dict[str, str]:
    """The paths of a tree drawn by indentation, each with its line of explanation; folders end in a slash."""
    found: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    for line in text.splitlines():
        if not line.strip():
            continue
        depth = len(line) - len(line.lstrip())
        name, _, about = line.strip().partition(" ")
        parents = [(column, folder) for column, folder in parents if column < depth]
        path = "".join(folder for _, folder in parents) + name
        found[path] = about.strip()
        if name.endswith("/"):
            parents.append((depth, name))
    return found


@needs_readme
def test_the_documents_show_commands() -> None:
    assert len(list(command_lines())) > 5


@pytest.mark.parametrize(("document", "line"), list(command_lines()))
def test_every_command_line_parses(document: str, line: str) -> None:
    name, *rest = shlex.split(line)[1:]
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]  # a group, typed as a command
    assert name in commands
    with commands[name].make_context(name, rest) as context:
        for override in context.params.get("overrides") or ():
            table, key = override.partition("=")[0].split(".")
            assert key in config.Config.model_fields[table].annotation.model_fields  # type: ignore[union-attr]  # never None


@needs_readme
def test_every_make_target_that_is_named_exists() -> None:
    named = {target for path in DOCUMENTS for target in re.findall(r"\bmake ([a-z]+)\b`?", "\n".join(code_of(path)))}
    assert {"run", "test"} <= named
    assert named <= make_targets()


def code_of(path: Path) -> list[str]:
    """What stands in code blocks and between backticks."""
    text = path.read_text()
    return [*FENCE.findall(text), *re.findall(r"`([^`\n]+)`", text)]


def test_every_file_of_the_layouts_trees_exists_and_every_file_stands_in_one() -> None:
    entries = layout()
    assert [path for path in entries if not (ROOT / path).exists()] == []
    assert [path for path, about in entries.items() if not about and path != "starling/"] == []
    package = [
        path for path in (ROOT / "starling").iterdir() if path.name not in NO_NOUNS and not path.name.startswith("__")
    ]
    real = {f"starling/{path.name}{'/' * path.is_dir()}" for path in package if path.is_file() or holds_something(path)}
    assert sorted(real - entries.keys()) == []


def layout() -> dict[str, str]:
    """The entries of all trees in docs/layout.md."""
    drawn = TREE.findall(LAYOUT.read_text())
    assert drawn, "docs/layout.md shows parts of the tree of starling/ in code blocks that begin with `starling/`"
    found = [tree_entries(block) for block in drawn]
    names = [path for entries in found for path in entries if path != "starling/"]
    assert len(names) == len(set(names)), "a file stands in one tree only"
    return {path: about for entries in found for path, about in entries.items()}


def holds_something(folder: Path) -> bool:
    return any(path.is_file() and path.name not in NO_NOUNS and path.suffix != ".pyc" for path in folder.rglob("*"))


def test_the_folders_of_the_layouts_trees_name_what_is_in_them() -> None:
    for path, about in layout().items():
        if path in ("starling/stages/", "starling/losses/"):
            modules = {file.stem for file in (ROOT / path).glob("*.py")} - {"__init__"}
            assert set(re.findall(r"[a-z0-9_]+", about.partition(":")[0])) == modules, path


@pytest.mark.parametrize(
    ("document", "target"),
    [
        (path, target)
        for path in DOCUMENTS
        for target in LINK.findall(path.read_text())
        if not re.match(r"[a-z]+:|#", target)
    ],
    ids=lambda value: value.name if isinstance(value, Path) else value,
)
def test_every_relative_link_leads_somewhere(document: Path, target: str) -> None:
    assert (document.parent / target.partition("#")[0]).exists()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_no_path_of_a_machine(path: Path) -> None:
    assert re.findall(r"(?<![\w.])/(?:home|root|tmp|work|Users)/\S+", path.read_text()) == []
    assert os.path.expanduser("~") + "/" not in path.read_text()


@pytest.mark.parametrize(
    ("document", "text"),
    [
        (path.name, block)
        for path in DOCUMENTS
        for block in re.findall(r"^```toml\n(.*?)^```", path.read_text(), re.M | re.S)
    ],
    ids=lambda value: value if value.endswith(".md") else "",
)
def test_every_recipe_that_is_shown_is_valid(tmp_path: Path, document: str, text: str) -> None:
    (tmp_path / "shown.toml").write_text(text)
    config.load(tmp_path / "shown.toml")


def test_the_page_of_settings_is_what_the_tables_say():
    page = runpy.run_path(str(ROOT / "docs" / "settings.py"))["page"]

    assert (ROOT / "docs" / "settings.md").read_text() == page(), "run `python docs/settings.py`"


def test_every_setting_stands_on_the_page():
    page = (ROOT / "docs" / "settings.md").read_text()

    assert {f"## `[{name}]`" for name in ("run", "prompts", "sample", "rank", "fit", "tune", "evaluate")} <= set(
        page.splitlines()
    )
    assert all(f"\n| `{key}`" in page for key in config.TuneTable.model_fields)
