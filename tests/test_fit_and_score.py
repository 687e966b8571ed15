"""The commands `fit --rankings` and `score` on files of one's own."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from small_road import write_lines

from starling import cli

Fails = Callable[..., str]


def test_fit_and_score_on_files_of_ones_own(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twins = [{"prompt": f"rain {n}?", "chosen": "the same", "rejected": "the same"} for n in range(3)]
    others = [{"prompt": f"town {n}?", "chosen": "the river", "rejected": "no"} for n in range(3)]
    one, two = write_lines(tmp_path / "a.jsonl", twins), write_lines(tmp_path / "b.jsonl", others)
    quick = ["--set", "fit.epochs=1", "--set", "run.threads=1", "--json", "--held-out", "0"]
    arguments = ["fit", "--rankings", str(one), str(two), "--model", str(tiny_model), "--out", str(tmp_path / "rm")]
    assert cli.main([*arguments, *quick]) == 0
    printed = capsys.readouterr()
    facts = json.loads(printed.out)
    assert (facts["rankings"], facts["unusable"]) == (3, {"fewer than two answers": 3})  # twins teach nothing
    said = " ".join(printed.err.split())
    listed = tmp_path / "rm" / "unusable.jsonl"
    assert said.endswith(f"fit: reward model in {tmp_path / 'rm'}, what was left out in {listed}")
    assert len(listed.read_text().splitlines()) == 6  # of each pair the copy, and then the ranking

    rewards = tmp_path / "rewards.jsonl"
    assert cli.main(["score", "--model", str(tmp_path / "rm"), "--in", str(one), "--out", str(rewards), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"rows": 3, "out": str(rewards)}
    for text in rewards.read_text().splitlines():
        first, second = json.loads(text)["rewards"]
        assert first == pytest.approx(second)
    told = ["score", "--model", str(tmp_path / "rm"), "--in", str(one), "--out", str(rewards), "--scaled"]
    assert cli.main(told) == 1
    assert "fitted without held-out rankings" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "x.jsonl: there is no such file"),
        (b'{"a": 1}\n', "x.jsonl:1: a ranking needs"),
        (b"{\n", "x.jsonl:1: not JSON"),
        (b"[1]\n", "x.jsonl:1: a line must be a JSON object"),
        (b"\xff\xfe\x00", "x.jsonl"),
        (b'{"prompt": "", "chosen": "a", "rejected": "b"}\n', "x.jsonl:1: the user's message is empty"),
        (b'{"prompt": "a", "answers": [{"answer": "b", "rank": 1}]}\n', "fewer than two answers"),
    ],
    ids=["missing", "wrong column", "cut", "no object", "binary", "empty prompt", "K=1"],
)
def test_a_bad_file_of_ones_own_is_one_line(
    fails: Fails, tiny_model: Path, tmp_path: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "x.jsonl").write_bytes(content)
    arguments = ["--rankings", tmp_path / "x.jsonl", "--model", tiny_model, "--out", tmp_path / "rm"]
    assert message in fails(1, "fit", *arguments, "--held-out", "0")
    assert not (tmp_path / "rm").exists()


def test_a_model_that_is_no_reward_model_is_named(fails: Fails, tiny_model: Path, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [{"prompt": "a", "answer": "b"}])
    line = fails(1, "score", "--model", tiny_model, "--in", source, "--out", tmp_path / "out.jsonl")
    assert "a reward model has one label" in line
    assert not (tmp_path / "out.jsonl").exists()
