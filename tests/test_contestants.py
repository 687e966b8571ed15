"""The models that meet in the arena, by their names."""

import shutil
from pathlib import Path

import pytest
import runs
from servers import Server, says

from starling.contestants import load
from starling.errors import ModelError, UsageError
from starling.records import Message

HELLO = [Message(role="user", content="what is rain?")]


def test_a_folder_a_run_and_an_endpoint_answer(tmp_path: Path, tiny_model: Path) -> None:
    run = runs.make(tmp_path / "run")
    shutil.copytree(tiny_model, run.root / "tune" / "policy", dirs_exist_ok=True)
    with Server(always=says("from afar")) as server:
        names = [str(tiny_model), f"{run.root}/", f"openai:afar@{server.url}"]
        found, ledgers = load(names, tmp_path / "calls.sqlite", 6)
        try:
            assert [each.name for each in found] == [names[0], str(run.root), names[2]]
            assert found[2].answer(HELLO, 1).text == "from afar"
            assert found[0].answer(HELLO, 1) == found[0].answer(HELLO, 1)
            (asked,) = server.requests
            assert (asked["max_tokens"], asked["temperature"], asked["messages"]) == (6, 1.0, HELLO)
            found[2].answer(HELLO, 1)
            assert len(server.requests) == 1  # the ledger has it
            found[2].answer(HELLO, 2)
            assert len(server.requests) == 2
        finally:
            for ledger in ledgers:
                ledger.close()


def test_a_conversation_past_the_window_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    (found, _), _ = load([str(tiny_model), "openai:x@http://127.0.0.1:1"], tmp_path / "calls.sqlite", 100)
    with pytest.raises(ModelError, match="passes its window of 512"):
        found.answer([Message(role="user", content="rain " * 500)], 1)


@pytest.mark.parametrize("names", [[], ["smollm2"], ["smollm2", "smollm2"], ["a/", "a"]])
def test_at_least_two_different_models_are_needed(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(UsageError, match="at least two models, each once"):
        load(names, tmp_path / "calls.sqlite", 6)


def test_a_run_without_a_tuned_policy_says_so(tmp_path: Path) -> None:
    run = runs.make(tmp_path / "run", runs.ALL[:4])
    with pytest.raises(UsageError, match="tune is not done in"):
        load([str(run.root), "smollm2"], tmp_path / "calls.sqlite", 6)


def test_a_wrong_name_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        load(["./missing", "openai:x@http://127.0.0.1:1"], tmp_path / "calls.sqlite", 6)
