"""What a benchmark will take: calls, tokens and money, less what is on file."""

from pathlib import Path

import pytest

from starling.benches import cost
from starling.benches.answers import Question
from starling.benches.cost import Part
from starling.ledger import Ledger
from starling.records import Reply

MODEL = "openai:gpt-4o-mini@https://api.openai.com/v1"


def test_the_turns_of_a_question_are_calls_that_read_the_earlier_ones_again() -> None:
    part = cost.of_answers("answers", MODEL, [Question(id="a", turns=("four", "12345678"))], 100)
    assert (part.calls, part.characters, part.read) == (2, 4 + 12, 1)


def test_tokens_in_and_out_are_expected_and_at_most(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = Part(purpose="answers", model="smollm2", calls=10, characters=400, max_tokens=100, read=5, read_cap=100)
    found = cost.estimate([part], tmp_path / "none.sqlite")["estimate"][0]
    # in: 400 / 4 + half of 5 x 100 = 350, at most 400 / 2 + 500 = 700; out: 10 x 50, at most 10 x 100
    assert found["prompt_tokens"] == {"expected": 350, "at_most": 700}
    assert found["completion_tokens"] == {"expected": 500, "at_most": 1000}
    assert found["usd"] == {"expected": 0.0, "at_most": 0.0}
    assert "answers: smollm2: 10 calls" in capsys.readouterr().out


def test_a_reply_of_known_length_is_expected_at_that_and_said_to_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {"purpose": "verdicts", "model": MODEL, "calls": 10, "characters": 400, "max_tokens": 2048}
    found = cost.estimate([Part(**asked, written=14), Part(**asked)], tmp_path / "none.sqlite")["estimate"]
    # 10 x 14, and half of 10 x 2048; at most the cap either way
    assert [part["completion_tokens"]["expected"] for part in found] == [140, 10_240]
    assert {part["completion_tokens"]["at_most"] for part in found} == {20_480}
    said = capsys.readouterr().out
    assert "a reply takes 50% of its cap, a verdict alone 14 tokens; what was seen" in said
    cost.estimate([Part(**asked)], tmp_path / "none.sqlite")
    assert "alone" not in capsys.readouterr().out


def test_calls_on_file_are_not_counted_again_and_say_how_long_replies_are(tmp_path: Path) -> None:
    path = tmp_path / "calls.sqlite"
    with Ledger(path, "answers") as ledger:
        attempt = ledger.sent("00" * 32, name="smollm2", model="w", request="{}", draw=0)
        ledger.replied(attempt, Reply(text="x", finished=True, prompt_tokens=5, completion_tokens=10))
    part = Part(purpose="answers", model="smollm2", calls=4, characters=400, max_tokens=100)
    found = cost.estimate([part], path)["estimate"][0]
    assert (found["calls"], found["on_file"]) == (3, 1)
    # three of four calls: 400 / 4 x 3/4 in, 3 x 10 out
    assert (found["prompt_tokens"]["expected"], found["completion_tokens"]["expected"]) == (75, 30)
