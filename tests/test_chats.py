"""Who answers a benchmark: a model in this process files its answers, one behind a URL is asked through the client."""

from pathlib import Path

import pytest
import runs

from starling import models
from starling.benches import chats
from starling.errors import UsageError
from starling.ledger import Ledger
from starling.records import Call, Failure, Reply


def call(text: str, **changes) -> Call:
    return Call(messages=[{"role": "user", "content": text}], **{"max_tokens": 6, "temperature": 0.7, **changes})


def test_what_a_model_here_answered_once_is_taken_from_the_ledger(tiny_model: Path, tmp_path: Path) -> None:
    told: list[Reply | Failure] = []
    calls = [call("rain"), call("town"), call("rain"), call("rain", draw=1)]
    with chats.filed(tmp_path / "out", "answers") as ledger:
        speaker = chats.open_speaker(str(tiny_model), ledger, lambda asked, reply: told.append(reply))
        first = speaker.chat.chat(calls)
        assert ledger.spent()[0].calls == 3 and ledger.spent()[0].stage == "answers"
    assert told == first and first[0] == first[2] and speaker.identity["name"] == str(tiny_model)
    with Ledger(tmp_path / "out" / "calls.sqlite", "answers") as ledger:
        again = chats.open_speaker(str(tiny_model), ledger).chat.chat(calls)
        assert ledger.spent()[0].calls == 3
    assert again == first


def test_an_answer_has_the_room_that_the_window_leaves_and_no_room_is_a_failure(
    tiny_model: Path, ledger: Ledger
) -> None:
    speaker = chats.open_speaker(str(tiny_model), ledger)
    fits, none = speaker.chat.chat([call("rain", max_tokens=100_000), call("rain " * 600)])
    assert isinstance(fits, Reply) and fits.prompt_tokens + fits.completion_tokens <= 512
    assert isinstance(none, Failure) and "the model's window of 512 tokens" in none.reason


def test_a_run_means_its_tuned_policy(tiny_model: Path, ledger: Ledger, tmp_path: Path) -> None:
    run = runs.make(tmp_path / "run")
    models.save(models.load_policy(str(tiny_model)), run.root / "tune" / "policy")
    run.finished("tune", run.facts("tune"))
    found = chats.open_speaker(str(run.root), ledger)
    assert found.identity["name"] == str(run.root) and len(found.identity["weights_sha256"]) == 64
    early = runs.make(tmp_path / "early", runs.ALL[:4])
    with pytest.raises(UsageError, match="tune is not done in"):
        chats.open_speaker(str(early.root), ledger)


def test_an_endpoint_is_known_by_model_and_host(ledger: Ledger) -> None:
    found = chats.open_speaker("openai:m@http://127.0.0.1:1/v1", ledger)
    assert found.identity == {"name": "m", "endpoint": "m@127.0.0.1:1"}
    assert (
        chats.stage_of("openai:m@http://127.0.0.1:1/v1") == "m@127.0.0.1:1" and chats.stage_of("smollm2") == "smollm2"
    )
    with pytest.raises(UsageError, match="is no endpoint"):
        chats.open_speaker("openai:m", ledger)
