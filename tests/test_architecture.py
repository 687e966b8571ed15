"""The laws of the design, held against the source itself."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from pydantic import BaseModel

from starling.config import Config, Table

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "starling"
FILES = sorted(PACKAGE.rglob("*.py"))
CODE = [*FILES, *sorted((ROOT / "benchmarks").rglob("*.py"))]

FILE_LINES = 400
FUNCTION_LINES = 80
PARAMETERS = 8
COMMANDS = {"cli", "command", "commands", "own_files", "show", "summary"}  # what a person starts or reads
STAGE_USERS = {"commands.road", "own_files"}
LOWEST = {"records", "config", "errors"}
# Who may catch everything, and why.
CATCH_ALL = {
    "checkpoint": "a torn file makes torch.load raise almost anything, and every one of them means the same",
    "models": "a damaged file makes transformers raise almost anything, and every one of them means the same",
    "rewards": "a reward of the user's own is foreign code; whatever it raises is told as its failure",
    "tables": "a check in a user's file is tried once; whatever it raises, its parameters are what is wrong",
}
# Who may take more parameters, and why.
WIDE = {
    "sample_groups": "whom to ask, what, and how to sample are all the caller's; each is named at the call",
    "bench": "a command's parameters are its options, and each benchmark takes its own",
    "export": "a command's parameters are its options, and rankings and policies leave by the same one",
}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def name_of(path: Path) -> str:
    """`starling/losses/apa.py` -> `losses.apa`; `starling/__init__.py` -> `__init__`."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports(path: Path) -> Iterator[str]:
    """Our own modules that a file imports, as `losses.apa`; inside functions too."""
    modules = {name_of(file).removesuffix(".__init__") for file in FILES}
    for node in ast.walk(tree(path)):
        found: list[str] = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in found:
            if name.partition(".")[0] != "starling":
                continue
            own = name.removeprefix("starling").removeprefix(".")
            while own and own not in modules:
                own = own.rpartition(".")[0]
            yield own or "__init__"


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def calls(path: Path) -> Iterator[ast.Call]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield node


def everywhere(path: Path) -> str:
    return str(path.relative_to(ROOT))


# imports


def test_a_stage_never_imports_a_stage_and_only_commands_do() -> None:
    users = {name_of(path) for path in FILES if any(name.startswith("stages.") for name in imports(path))}
    assert users <= STAGE_USERS


def test_losses_import_nothing_of_ours_but_losses() -> None:
    for path in (PACKAGE / "losses").glob("*.py"):
        assert {name.partition(".")[0] for name in imports(path)} <= {"losses"}, path.name


def test_records_and_errors_import_nothing_of_ours_and_config_only_errors() -> None:
    assert [
        set(imports(PACKAGE / f"{name}.py"))
        for name in ("records", "errors", "mistakes", "settings", "judge_settings", "tune_settings", "config")
    ] == [
        set(),
        set(),
        set(),
        set(),
        {"settings"},
        {"settings"},
        {"errors", "mistakes", "settings", "judge_settings", "tune_settings"},
    ]


def test_records_know_no_tensors_and_no_files() -> None:
    text = (PACKAGE / "records.py").read_text()
    assert re.findall(r"\b(?:torch|numpy|open|Path)\b", text) == []


def test_nothing_imports_a_command_but_the_command_line() -> None:
    commands = {"show", "own_files", "cli", "commands"}
    users = {name_of(path) for path in FILES if set(imports(path)) & commands}
    assert {user.partition(".")[0] for user in users} <= {"cli", "commands", "__main__"}


def test_benches_and_judges_and_the_rest_stand_below_the_stages() -> None:
    for path in FILES:
        folder = name_of(path).partition(".")[0]
        above = {"judges": {"stages", "benches", "bench"}, "benches": {"stages", "bench"}}.get(folder, set())
        assert not {name.partition(".")[0] for name in imports(path)} & above, path.name


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {name_of(path).removesuffix(".__init__"): set(imports(path)) - {"__init__"} for path in FILES}
    while free := {name for name, needs in graph.items() if not needs & graph.keys() - {name}}:
        graph = {name: needs for name, needs in graph.items() if name not in free}
    assert {name: needs & graph.keys() for name, needs in graph.items()} == {}


def test_torch_distributed_stays_behind_its_door() -> None:
    users = {
        name_of(path)
        for path in FILES
        if re.search(r"torch\.distributed|from torch import distributed", path.read_text())
    }
    assert users <= {"device"}


def test_the_network_stays_behind_its_door() -> None:
    users = {
        name_of(path) for path in FILES if re.search(r"^\s*(?:import|from) aiohttp", path.read_text(), re.MULTILINE)
    }
    assert users == {
        "client",
        "posting",
        "endpoint_stream",
        "serve",
        "server",
        "live",
    }  # who asks, who reads along, who answers


def test_the_hub_stays_behind_its_door() -> None:
    users = {name_of(path) for path in FILES if re.search(r"\bHfApi\b|upload_folder|push_to_hub", path.read_text())}
    assert users == {"hub"}


# budgets


@pytest.mark.parametrize("path", CODE, ids=everywhere)
def test_files_functions_and_signatures_stay_within_their_budgets(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= FILE_LINES
    long = {
        node.name: size
        for node in functions(path)
        if (size := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES
    }
    assert long == {}
    wide = {}
    for node in functions(path):
        names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        if len(set(names) - {"self", "cls"}) > PARAMETERS and node.name not in WIDE:
            wide[node.name] = names
    assert wide == {}


# habits


@pytest.mark.parametrize("path", FILES, ids=everywhere)
def test_only_commands_print(path: Path) -> None:
    printing = [call.lineno for call in calls(path) if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert not printing or name_of(path) in COMMANDS


@pytest.mark.parametrize("path", FILES, ids=everywhere)
def test_plain_lines_are_said_where_they_are_made_visible(path: Path) -> None:
    printed = [
        call.lineno
        for call in calls(path)
        if ast.unparse(call.func).endswith("console.print")
        and call.args
        and (isinstance(call.args[0], ast.Constant | ast.JoinedStr) or call.keywords)
    ]
    assert not printed or name_of(path) in ("cli", "conversation", "progress"), "progress.say prints foreign words too"


@pytest.mark.parametrize("path", CODE, ids=everywhere)
def test_nothing_catches_everything_but_where_the_reason_is_known(path: Path) -> None:
    broad = [
        node.lineno
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id == "Exception"))
    ]
    assert not broad or path.stem in CATCH_ALL


def test_who_may_catch_everything_still_does() -> None:
    for name in CATCH_ALL:
        assert "except Exception" in (PACKAGE / f"{name}.py").read_text()


@pytest.mark.parametrize("path", [*CODE, *sorted((ROOT / "tests").glob("*.py"))], ids=everywhere)
def test_nothing_is_left_to_do(path: Path) -> None:
    words = "|".join(("TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"))
    assert re.findall(rf"\b(?:{words})\b", path.read_text()) == []


def test_text_becomes_ids_in_one_place() -> None:
    users = set()
    for path in FILES:
        for call in calls(path):
            if not isinstance(call.func, ast.Attribute):
                if isinstance(call.func, ast.Name) and call.func.id == "tokenizer":
                    users.add(name_of(path))
                continue
            owner = ast.unparse(call.func.value)
            encodes = call.func.attr in ("encode", "encode_plus", "batch_encode_plus") and "tokenizer" in owner
            if encodes or call.func.attr == "apply_chat_template" or call.func.attr == "tokenizer":
                users.add(name_of(path))
    assert users <= {"chat"}


@pytest.mark.parametrize("path", [file for file in FILES if file.read_text().strip()], ids=everywhere)
def test_every_file_says_in_its_first_line_what_it_is(path: Path) -> None:
    assert ast.get_docstring(tree(path)), "a module begins with a docstring"


# configuration


def tables_of(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """A model of the configuration and all that stand inside it."""
    yield model
    for field in model.model_fields.values():
        for inner in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(inner, type) and issubclass(inner, Table):
                yield from tables_of(inner)


def keys() -> list[tuple[str, str]]:
    return sorted({(model.__name__, key) for model in tables_of(Config) for key in model.model_fields})


@pytest.mark.parametrize(("table", "key"), keys())
def test_every_key_of_the_configuration_is_read(table: str, key: str) -> None:
    readers = [
        path
        for path in FILES
        if name_of(path) not in ("config", "settings", "judge_settings", "tune_settings")
        and any(
            isinstance(node, ast.Attribute) and node.attr == key and isinstance(node.ctx, ast.Load)
            for node in ast.walk(tree(path))
        )
    ]
    assert readers, f"no file reads .{key}"


@pytest.mark.parametrize("model", sorted(set(tables_of(Config)) - {Config}, key=lambda model: model.__name__))
def test_every_key_of_the_configuration_says_what_it_is(model: type[BaseModel]) -> None:
    assert [key for key, field in model.model_fields.items() if not field.description] == []
