"""What both sides of AlpacaEval put out."""

import json
from pathlib import Path
from typing import Any

import pytest
from servers import Server, says

from starling.benches import alpaca_outputs
from starling.benches.asked import Asked
from starling.errors import DataError, UsageError


def written(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text(json.dumps(rows))
    return path


def row(instruction: str, output: str = "so", generator: str = "m") -> dict[str, str]:
    return {"instruction": instruction, "output": output, "generator": generator}


def test_instructions_are_those_of_the_data_or_of_the_rival_each_once(tmp_path: Path) -> None:
    rival = str(written(tmp_path / "rival.json", row("one"), row("two"), row("one", "else")))
    assert [one.id for one in alpaca_outputs.questions(Asked(against=rival))] == ["one", "two"]
    data = str(written(tmp_path / "data.json", {"instruction": "three"}))
    assert [one.turns for one in alpaca_outputs.questions(Asked(against=rival, data=data))] == [["three"]]


@pytest.mark.parametrize(
    ("rows", "said"),
    [([], "no instructions"), ([{"prompt": "x"}], "needs `instruction`, a text; found: prompt")],
    ids=["empty", "other columns"],
)
def test_a_file_without_instructions_is_refused(tmp_path: Path, rows: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(DataError, match=said):
        alpaca_outputs.questions(Asked(data=str(written(tmp_path / "data.json", *rows))))
    with pytest.raises(UsageError, match="is no file"):
        alpaca_outputs.questions(Asked(data=str(tmp_path)))


def test_a_file_holds_the_outputs_of_one_generator_which_names_the_side(tmp_path: Path) -> None:
    path = written(tmp_path / "x.json", row("one", "1"), row("two", "2"))
    questions = alpaca_outputs.questions(Asked(data=str(path)))
    side = alpaca_outputs.side(str(path), questions, tmp_path / "out")
    assert side.name == "m" and side.answers.by_question == {"one": ("1",), "two": ("2",)}
    with pytest.raises(DataError, match="outputs of 2 generators"):
        alpaca_outputs.of_file(written(tmp_path / "y.json", row("one"), row("two", generator="n")), questions)
    unnamed = written(tmp_path / "z.json", {"instruction": "one", "output": "1"})
    assert alpaca_outputs.of_file(unnamed, questions).name == "z"


def test_a_model_is_asked_each_instruction_and_its_outputs_are_written_as_the_tool_reads_them(tmp_path: Path) -> None:
    questions = alpaca_outputs.questions(Asked(data=str(written(tmp_path / "data.json", row("one"), row("two")))))
    with Server(always=says("an output")) as server:
        side = alpaca_outputs.side(f"openai:m@{server.url}", questions, tmp_path / "out")
        assert sorted(server.asked()) == ["one", "two"]
        assert server.requests[0]["max_tokens"] == alpaca_outputs.MAX_TOKENS
    rows = alpaca_outputs.output_rows(side)
    assert rows[0] == {"dataset": "alpaca_eval", "instruction": "one", "output": "an output", "generator": "m"}
    path = written(tmp_path / "again.json", *rows)
    assert alpaca_outputs.of_file(path, questions).answers.by_question == side.answers.by_question
