"""Both sides of MT-Bench marked, and the change from one to the other."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from servers import Server, replies_with
from small_road import write_lines

from starling import bench, data_files
from starling.benches import told
from starling.benches.asked import Asked
from starling.errors import UsageError

TURNS = [{"question_id": at, "category": "stem", "turns": [f"Ask {at}.", f"More {at}."]} for at in range(1, 9)]


def side(folder: Path, name: str, marks: dict[int, tuple[float, float]]) -> Path:
    """Answers that say which mark they deserve."""
    rows = [
        {"question_id": at, "model_id": name, "choices": [{"index": 0, "turns": [f"worth {one}", f"worth {two}"]}]}
        for at, (one, two) in marks.items()
    ]
    return write_lines(folder / f"{name}.jsonl", rows)


def honest(prompt: str) -> str:
    """The mark that the last answer asks for; prose of one that asks for none."""
    mark = float(re.findall(r"worth ([\d.]+)", prompt)[-1])
    return f"Rating: [[{mark:g}]]" if mark else "I would rather not say."


def options(folder: Path, **more: Any) -> dict[str, Any]:
    ours = dict.fromkeys(range(1, 9), (8.0, 6.0))
    theirs = dict.fromkeys(range(1, 9), (6.0, 6.0))
    ours[8], theirs[7] = (0.0, 6.0), (6.0, 0.0)  # the judge says nothing of one turn on either side
    return {
        "answers": side(folder, "tuned", ours), "against": str(side(folder, "base", theirs)), "marks": True,
        "data": str(write_lines(folder / "question.jsonl", TURNS)), "out": folder / "out",
    } | more  # fmt: skip


def test_both_sides_get_marks_and_the_change_is_over_the_turns_that_both_have(tmp_path: Path) -> None:
    with Server(always=replies_with(honest)) as server:
        result = bench.run("mt_bench", Asked(judge=(f"openai:j@{server.url}",), **options(tmp_path)))
        again = bench.run("mt_bench", Asked(judge=(f"openai:j@{server.url}",), **options(tmp_path)))
        assert len(server.requests) == 2 * 16 + 2  # each turn of each side, and what could not be read once more
    assert again["rows"] == result["rows"]
    rows = {row["name"]: row for row in result["rows"]}
    before = {row["name"]: row for row in result["against"]["rows"]}
    # tuned: 7 turns of 8 and 8 of 6 = 104 / 15; base: 15 of 6
    assert (rows["mean mark"]["value"], rows["mean mark"]["n"]) == (pytest.approx(104 / 15), 15)
    assert (before["mean mark"]["value"], before["turn 2"]["n"]) == (6.0, 7)
    whole, first, second = result["against"]["changes"]
    # turn 1: questions 1 to 7, +2 each; turn 2: all but question 7, 0 each: 14 / 14
    assert (whole["value"], whole["n"], whole["clusters"], whole["gained"]) == (1.0, 14, 8, 7)
    assert (first["value"], first["n"], second["value"], second["n"]) == (2.0, 7, 0.0, 7)
    # of 8 questions 7 rose: 2 of 2^7 ways to swap them are as far from 0
    assert whole["p"] == pytest.approx(2 / 128) and whole["says"] == "better" and second["says"] == "unclear"
    assert result["against"]["says"][0].startswith("mean mark: better, +1.0")
    assert result["left_out"]["reasons"] == {"unreadable verdict": 2}
    entry = told.told("mt_bench", json.loads((tmp_path / "out" / "result.json").read_text()))
    assert entry["kind"] == "change" and entry["rows"][0]["base"]["value"] == 6.0
    assert entry["rows"][0]["kind"] == "number" and entry["rows"][0]["change"]["value"] == 1.0
    written = data_files.read_rows(tmp_path / "out" / "model_judgment" / "j_single.jsonl")
    assert sorted({row["model"] for row in written}) == ["base", "tuned"] and len(written) == 32


def test_a_panel_marks_both_sides_too(tmp_path: Path) -> None:
    def kinder(prompt: str) -> str:
        return "Rating: [[10]]" if "worth 8" in prompt else "Rating: [[6]]"

    with Server(always=replies_with(honest)) as one, Server(always=replies_with(kinder)) as other:
        judges = (f"openai:j@{one.url}", f"openai:k@{other.url}")
        result = bench.run("mt_bench", Asked(judge=judges, **options(tmp_path)))
    assert [row["name"] for row in result["rows"][:3]] == ["mean mark", "by j", "by k"]
    assert result["against"]["rows"][0]["value"] == 6.0
    assert "panel" in result and "panel" in result["against"]


def test_the_estimate_counts_the_marks_of_both_sides(tmp_path: Path) -> None:
    asked = Asked(judge=("openai:j@http://127.0.0.1:1/v1",), estimate=True, **options(tmp_path))
    (part,) = bench.run("mt_bench", asked)["estimate"]
    assert (part["purpose"], part["calls"]) == ("verdicts", 32)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"against": ""}, "--marks compares the marks of two sides; add --against"),
        (
            {"answers": None, "judgments": Path("x.jsonl"), "judge": ()},
            "leave out --answers, --judge, --output, --marks",
        ),
    ],
)
def test_marks_of_one_side_are_not_compared(more: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        bench.run("mt_bench", Asked(**{"judge": ("openai:j@http://127.0.0.1:1/v1",)} | options(tmp_path) | more))
