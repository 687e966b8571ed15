"""The ledger of a benchmark: what was answered once is not asked again."""

from pathlib import Path

import pytest

from starling.benches import filing
from starling.errors import UsageError
from starling.ledger import Ledger
from starling.records import Call
from starling.speakers import open_speaker


def call(text: str, **changes) -> Call:
    return Call(messages=[{"role": "user", "content": text}], **{"max_tokens": 6, "temperature": 0.7, **changes})


def test_what_a_model_here_answered_once_is_taken_from_the_ledger(tiny_model: Path, tmp_path: Path) -> None:
    told: list[object] = []
    calls = [call("rain"), call("town"), call("rain"), call("rain", draw=1)]
    with filing.filed(tmp_path / "out", "answers") as ledger:
        speaker = open_speaker(str(tiny_model), ledger, lambda asked, reply: told.append(reply))
        first = speaker.chat.chat(calls)
        assert ledger.spent()[0].calls == 3 and ledger.spent()[0].stage == "answers"
    assert told == first and first[0] == first[2] and speaker.identity["name"] == str(tiny_model)
    with Ledger(tmp_path / "out" / "calls.sqlite", "answers") as ledger:
        again = open_speaker(str(tiny_model), ledger).chat.chat(calls)
        assert ledger.spent()[0].calls == 3
    assert again == first


def test_a_folder_is_held_while_its_calls_are_made(tmp_path: Path) -> None:
    with filing.filed(tmp_path / "one", "verdicts"):
        with (
            pytest.raises(UsageError, match="another starling is at work in"),
            filing.filed(tmp_path / "one", "answers"),
        ):
            pass
        with filing.filed(tmp_path / "two", "answers"):
            pass
    with filing.filed(tmp_path / "one", "answers"):
        pass
