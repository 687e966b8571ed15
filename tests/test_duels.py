"""Verdicts from whatever holds them."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import runs
from small_road import write_lines

from starling.benches import duels
from starling.benches.ratings import Verdict


def read(folder: Path, *rows: dict[str, Any]) -> tuple[list[Verdict], list[str]]:
    found, left_out = duels.read(write_lines(folder / "rows.jsonl", rows))
    return found, [left.reason for left in left_out]


@pytest.mark.parametrize(
    ("winner", "score"), [("model_a", 1.0), ("model_b", 0.0), ("tie", 0.5), ("tie (bothbad)", 0.5)]
)
def test_chatbot_arenas_rows_are_read_with_their_lengths(tmp_path: Path, winner: str, score: float) -> None:
    said = [
        [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": text}] for text in ("Be-cause.", "No.")
    ]
    row = {"model_a": "x", "model_b": "y", "winner": winner, "conversation_a": said[0], "conversation_b": said[1]}
    (found,), lost = read(tmp_path, row)
    assert found == Verdict("x", "y", score, "Why?", math.log(10 / 4))  # 9 and 3 characters, each with one more
    assert lost == []


def test_an_answer_is_as_long_as_its_text_and_unknown_without_one(tmp_path: Path) -> None:
    plain = {"model_a": "x", "model_b": "y", "winner": "tie"}
    (with_texts, without), _ = read(tmp_path, plain | {"response_a": "", "response_b": "abc"}, plain)
    assert with_texts.log_length == -math.log(4)
    assert without.log_length is None


def test_fastchats_two_games_agree_or_are_a_tie(tmp_path: Path) -> None:
    row = {"question_id": 81, "model_1": "x", "model_2": "y"}
    games = [("model_1", "model_1"), ("model_1", "model_2"), ("tie", "model_2"), ("model_2", "model_2")]
    found, lost = read(
        tmp_path,
        *(row | {"g1_winner": one, "g2_winner": two} for one, two in games),
        row | {"g1_winner": "error", "g2_winner": "model_1"},
    )
    assert [verdict.score_a for verdict in found] == [1.0, 0.5, 0.5, 0.0]
    assert {verdict.cluster for verdict in found} == {"81"}
    assert lost == ["g1_winner is 'error', not one of model_1, model_2, tie"]


def test_a_winner_that_is_no_word_is_a_row_left_out(tmp_path: Path) -> None:
    found, lost = read(
        tmp_path,
        {"model_a": "x", "model_b": "y", "winner": ["model_a"]},
        {"verdict": 1.0, "base": "one text", "tuned": "another"},
        {"verdict": "won", "base": {"answer": "a"}, "tuned": {"answer": "b"}},
    )
    assert (len(found), len(lost)) == (0, 3)
    assert lost[0].startswith("winner is \"['model_a']\"")


def test_a_runs_cases_are_verdicts_on_its_models_and_an_unread_one_is_left_out(tmp_path: Path) -> None:
    run = runs.make(tmp_path / "run")
    found, lost = duels.read(run.root)
    base = run.config.run.model
    assert [(v.model_a, v.model_b, v.score_a) for v in found] == [
        (str(run.root), base, 1.0), (str(run.root), base, 0.0)
    ]  # fmt: skip
    assert [left.reason for left in lost] == ["the judge's verdict could not be read"]


def test_a_ranking_is_a_verdict_on_every_pair_of_different_models(tmp_path: Path) -> None:
    answers = [
        {"answer": "aa", "model": "x", "rank": 1}, {"answer": "b", "model": "y", "rank": 2},
        {"answer": "c", "model": "x", "rank": 2}, {"answer": "d", "model": "z", "rank": 4},
    ]  # fmt: skip
    found, _ = read(tmp_path, {"prompt": "Why?", "prompt_id": "p", "answers": answers})
    assert [(v.model_a, v.model_b, v.score_a) for v in found] == [
        ("x", "y", 1.0), ("x", "z", 1.0), ("y", "x", 0.5), ("y", "z", 1.0), ("x", "z", 1.0)
    ]  # fmt: skip
    assert found[0].log_length == math.log(3 / 2)
    assert {v.cluster for v in found} == {"p"}


def test_two_answers_without_a_place_are_no_verdict(tmp_path: Path) -> None:
    answers = [{"answer": name, "model": name, "rank": rank} for name, rank in (("x", 0), ("y", 1), ("z", 0))]
    found, _ = read(tmp_path, {"prompt": "Why?", "answers": answers})
    assert [(v.model_a, v.model_b, v.score_a) for v in found] == [("x", "y", 0.0), ("y", "z", 1.0)]


def test_what_holds_no_verdict_is_left_out_with_the_reason(tmp_path: Path) -> None:
    arena = {"model_a": "x", "model_b": "y", "winner": "tie"}
    found, lost = read(
        tmp_path,
        arena | {"winner": "both"},
        arena | {"model_b": "x"},
        arena | {"model_a": None},
        {"hello": 1},
        {"prompt": "Why?", "answers": [{"answer": "a", "model": "x", "rank": 1}]},
        arena | {"conversation_a": json.dumps([{"role": "assistant"}])},
        arena | {"winner": "both", "conversation_a": [{"role": "user"}]},
    )
    assert found == []
    assert lost == [
        "winner is 'both', not one of model_a, model_b, tie, tie (bothbad)",
        "one model on both sides",
        "a model's name is 'None'",
        "no known form of verdict, columns hello",
        "no two answers by different models",
        "the conversation is no list of messages",
        "winner is 'both', not one of model_a, model_b, tie, tie (bothbad)",
    ]
