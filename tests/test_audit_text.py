"""What `starling audit` says on a terminal."""

import json
from pathlib import Path

import pytest
from test_judgements import HOSTILE, shown, write

from starling import audit_text, cli

BACK = "[['B', 'A', 'C']]"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    hostile = [{"answer": text, "model": "[bold]<b>${x}$"} for text in HOSTILE]
    return write(tmp_path / "log.jsonl", shown(), shown(BACK), shown("?"), shown(answers=hostile))


def audited(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert cli.main(["audit", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_every_figure_is_shown_with_its_n_and_interval(log: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = audited(capsys, log)
    assert "4 calls, 1 prompt, 3 answers each; judge's replies; judge: not named" in text
    # 2 of 3 readable replies put C first, which was shown third: expected 1 each, (1 + 0 + 1) / 1 = 2
    assert "chi-square 2.0 with 2 degrees of freedom, p = 0.37, n = 3" in text
    assert "fewer than 5 first places" in text
    assert "25.0 % (0 to 79.3), n = 4" in text and "1 x no list in brackets" in text
    assert "of 9 pairs 2 without a winner, 5 without a verdict" in text


def test_what_cannot_be_had_is_said_with_the_reason(tmp_path: Path, capsys) -> None:
    pair = write(tmp_path / "pairs.jsonl", {"prompt": "Which?", "chosen": "longer", "rejected": "short"})
    text = " ".join(audited(capsys, pair).split())
    assert "Not to be had from this log:" in text
    assert "position: no ranking says in which one order its answers were shown" in text
    assert "100 % (no interval), n = 1" in text


def test_of_a_log_that_is_too_short_for_any_figure_no_empty_table_is_shown(tmp_path: Path, capsys) -> None:
    answers = [{"answer": "x", "rank": 1, "model": "m"}, {"answer": "y", "rank": 2, "model": "n"}]
    short = write(tmp_path / "short.jsonl", {"prompt": "Which?", "answers": answers})
    text = audited(capsys, short)
    assert "Of models nothing can be said: 2 models with fewer than 10 ranks, 2 in all." in text
    assert "\u2500" not in text  # the line under a table's head


def test_several_logs_stand_side_by_side_and_against_each_other(log: Path, tmp_path: Path, capsys) -> None:
    other = write(tmp_path / "other.jsonl", shown(BACK))
    found = json.loads(audited(capsys, log, other, "--json"))
    assert [one["name"] for one in found["logs"]] == [str(log), str(other)]
    # C A B against B A C is -1, B A C against itself 1; the hostile answers are other answers
    assert (found["between"][0]["value"], found["between"][0]["n"]) == (0, 2)


def test_pooled_logs_are_one_log_with_repeats(log: Path, tmp_path: Path, capsys) -> None:
    other = write(tmp_path / "other.jsonl", shown(BACK))
    (found,) = json.loads(audited(capsys, log, other, "--pool", "--json"))["logs"]
    assert (found["calls"], found["repeats"]["n"]) == (5, 3)
    assert found["repeats"]["value"] == pytest.approx((-1 - 1 + 1) / 3)


def test_what_models_are_called_is_no_markup(log: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(audit_text, "FEW", 1)
    assert "[bold]<b>${x}$" in audited(capsys, log)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["missing.jsonl"], 1, "there is no such file"),
        ([], 2, "Missing argument"),
        (["--out", "page.txt", "log.jsonl"], 2, "is to be an .html file"),
    ],
)
def test_wrong_arguments_get_one_line(arguments, code, message, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["audit", *arguments]) == code
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1 and message in printed


def test_short_names_stay_distinct() -> None:
    names = [{"name": "a/x.jsonl.gz"}, {"name": "b/y.parquet"}]
    assert audit_text.short_names(names) == {"a/x.jsonl.gz": "x", "b/y.parquet": "y"}
    same = [{"name": "a/x.jsonl"}, {"name": "b/x.jsonl"}]
    assert audit_text.short_names(same) == {"a/x.jsonl": "a/x.jsonl", "b/x.jsonl": "b/x.jsonl"}
