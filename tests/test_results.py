"""What a benchmark of chat models found: on a terminal, and in the file."""

import json
from pathlib import Path

import pytest

from starling.benches import results
from starling.benches.left_out import LeftOut
from starling.records import Score


def found() -> dict:
    rows = [
        results.row(Score(name="m", value=6.75, low=6.0, high=7.5, n=4), unit="points"),
        results.row(Score(name="wins", value=0.25, low=float("nan"), high=float("nan"), n=4), unit="share", level=1),
    ]
    return results.result(
        "mt_bench", model={"name": "m", "endpoint": "m@here"}, judge={"name": "j", "template_hash": "0123456789abcdef"},
        data={"name": "builtin", "cases": 24, "sha256": "f" * 64}, rows=rows,
        without=[LeftOut("7", "answered twice", "f:1"), LeftOut("9", "answered twice")], more={"against": None},
    )  # fmt: skip


def test_the_terminal_names_model_judge_data_figures_and_what_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    results.show(found(), "two turns", unit="questions", notes=["a [remark]"])
    told = capsys.readouterr().out
    for text in (
        "mt_bench: two turns", "model: m m@here", "judge: j, template 0123456789ab", "builtin, 24 questions",
        "6.75 (6.00 to 7.50), n = 4", "25.0 %, n = 4", "a [remark]", "Left out: 2\n", "2 x answered twice, first 7",
    ):  # fmt: skip
        assert text in told, text


def test_the_file_is_json_without_nan(tmp_path: Path) -> None:
    results.write(tmp_path, found())
    text = (tmp_path / "result.json").read_text()
    assert "NaN" not in text
    written = json.loads(text)
    assert written["rows"][1]["low"] is None and written["left_out"]["count"] == 2
    assert written["date"].endswith("+00:00") and written["versions"]["starling"]
