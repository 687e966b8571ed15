"""Models that speak: to a benchmark, in the arena, in a chat."""

import shutil
import time
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import runs
import torch
from servers import Server, resets, says

from starling import chat, models, speakers
from starling.errors import CallError, DataError, ModelError, UsageError
from starling.generate import stop_ids
from starling.ledger import Ledger
from starling.models import Model
from starling.records import Call, Failure, Message, Reply
from starling.speakers import EndpointVoice, LocalVoice, load_contestants

ASK: Any = [{"role": "user", "content": "what is rain?"}]
HELLO = [Message(role="user", content="what is rain?")]


def call(text: str, **changes) -> Call:
    return Call(messages=[{"role": "user", "content": text}], **{"max_tokens": 6, "temperature": 0.7, **changes})


# to a benchmark


def test_an_answer_has_the_room_that_the_window_leaves_and_no_room_is_a_failure(
    tiny_model: Path, ledger: Ledger
) -> None:
    speaker = speakers.open_speaker(str(tiny_model), ledger)
    fits, none = speaker.chat.chat([call("rain", max_tokens=100_000), call("rain " * 600)])
    assert isinstance(fits, Reply) and fits.prompt_tokens + fits.completion_tokens <= 512
    assert isinstance(none, Failure) and "the model's window of 512 tokens" in none.reason


def test_a_run_means_its_tuned_policy(tiny_model: Path, ledger: Ledger, tmp_path: Path) -> None:
    run = runs.make(tmp_path / "run")
    models.save(models.load_policy(str(tiny_model)), run.root / "tune" / "policy")
    run.finished("tune", run.facts("tune"))
    found = speakers.open_speaker(str(run.root), ledger)
    assert found.identity["name"] == str(run.root) and len(found.identity["weights_sha256"]) == 64
    early = runs.make(tmp_path / "early", runs.ALL[:4])
    with pytest.raises(UsageError, match="tune is not done in"):
        speakers.open_speaker(str(early.root), ledger)


def test_an_endpoint_is_known_by_model_and_host(ledger: Ledger) -> None:
    found = speakers.open_speaker("openai:m@http://127.0.0.1:1/v1", ledger)
    assert found.identity == {"name": "m", "endpoint": "m@127.0.0.1:1"}
    assert speakers.ledger_name("openai:m@http://127.0.0.1:1/v1") == "m@127.0.0.1:1"
    assert speakers.ledger_name("smollm2") == "smollm2"
    with pytest.raises(UsageError, match="is no endpoint"):
        speakers.open_speaker("openai:m", ledger)


# in the arena


def test_a_folder_a_run_and_an_endpoint_answer(tmp_path: Path, tiny_model: Path) -> None:
    run = runs.make(tmp_path / "run")
    shutil.copytree(tiny_model, run.root / "tune" / "policy", dirs_exist_ok=True)
    with Server(always=says("from afar")) as server:
        names = [str(tiny_model), f"{run.root}/", f"openai:afar@{server.url}"]
        found, ledgers = load_contestants(names, tmp_path / "calls.sqlite", 6)
        try:
            assert [each.name for each in found] == [names[0], str(run.root), names[2]]
            assert found[2].answer(HELLO, 1, Event()).text == "from afar"
            assert found[0].answer(HELLO, 1, Event()) == found[0].answer(HELLO, 1, Event())
            (asked,) = server.requests
            assert (asked["max_tokens"], asked["temperature"], asked["messages"]) == (6, 1.0, HELLO)
            found[2].answer(HELLO, 1, Event())
            assert len(server.requests) == 1  # the ledger has it
            found[2].answer(HELLO, 2, Event())
            assert len(server.requests) == 2
        finally:
            for ledger in ledgers:
                ledger.close()


def test_an_endpoint_that_goes_down_is_not_waited_for_while_a_person_waits(tmp_path: Path) -> None:
    with Server(says("up"), always=resets) as server:
        names = [f"openai:{name}@{server.url}" for name in "ab"]
        (found, _), ledgers = load_contestants(names, tmp_path / "calls.sqlite", 6)
        assert found.answer(HELLO, 1, Event()).text == "up"
        begun = time.monotonic()
        with pytest.raises(CallError, match="the connection broke"):
            found.answer(HELLO, 2, Event())
        assert time.monotonic() - begun < 10 and len(server.requests) == 1 + speakers.ATTEMPTS
        for ledger in ledgers:
            ledger.close()


def test_a_conversation_past_the_window_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    (found, _), _ = load_contestants([str(tiny_model), "openai:x@http://127.0.0.1:1"], tmp_path / "calls.sqlite", 100)
    with pytest.raises(ModelError, match="passes its window of 512"):
        found.answer([Message(role="user", content="rain " * 500)], 1, Event())


@pytest.mark.parametrize("names", [[], ["smollm2"], ["smollm2", "smollm2"], ["a/", "a"]])
def test_at_least_two_different_models_are_needed(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(UsageError, match="at least two models, each once"):
        load_contestants(names, tmp_path / "calls.sqlite", 6)


def test_a_run_without_a_tuned_policy_says_so(tmp_path: Path) -> None:
    run = runs.make(tmp_path / "run", runs.ALL[:4])
    with pytest.raises(UsageError, match="tune is not done in"):
        load_contestants([str(run.root), "smollm2"], tmp_path / "calls.sqlite", 6)


def test_a_wrong_name_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        load_contestants(["./missing", "openai:x@http://127.0.0.1:1"], tmp_path / "calls.sqlite", 6)


# in a chat


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Model:
    return models.load_policy(str(tiny_model), torch.float32)


def test_a_model_answers_in_pieces_and_counts_its_tokens(model: Model) -> None:
    voice = LocalVoice(model, "tiny")
    pieces = list(voice.answer(ASK))
    assert "".join(pieces)
    assert voice.tokens == len(pieces) - 1  # the last piece is what was held back
    cut = voice.tokens == 256  # half the window
    assert voice.remark == ("cut after 256 tokens" if cut else "")


def test_an_answer_that_does_not_end_is_cut_and_that_is_said(model: Model) -> None:
    voice = LocalVoice(model, "tiny")
    ends = model.network.generation_config.eos_token_id
    model.network.generation_config.eos_token_id = None
    try:
        list(voice.answer(ASK))
        assert (voice.tokens, voice.remark) == (256, "cut after 256 tokens")
    finally:
        model.network.generation_config.eos_token_id = ends
    assert stop_ids(model.network) == {0, 2}


def test_a_conversation_past_the_window_loses_its_earliest_part_aloud(model: Model) -> None:
    voice = LocalVoice(model, "tiny")
    turns: Any = [
        {"role": "user" if at % 2 == 0 else "assistant", "content": f"{at} " + "the rain in spain " * 5}
        for at in range(15)
    ]
    next(voice.answer(turns))
    left_out = int(voice.remark.split("the first ")[1].split()[0])
    whole = len(chat.prompt_ids(model.tokenizer, turns))
    assert whole - left_out <= 256 < whole
    with pytest.raises(DataError, match="the model has room for 256; shorten it"):
        next(voice.answer([{"role": "system", "content": "rain " * 300}, *ASK]))


def test_an_endpoint_s_own_count_replaces_the_count_of_pieces() -> None:
    with Server(says("Fine.", completion_tokens=12)) as server:
        voice = speakers.open_voice(f"openai:m@{server.url}")
        assert isinstance(voice, EndpointVoice)
        assert "".join(voice.answer(ASK)) == "Fine."
        assert voice.tokens == 12


def test_an_endpoint_s_cut_answer_is_told() -> None:
    with Server(says("And then", finish="length")) as server:
        voice = speakers.open_voice(f"openai:m@{server.url}")
        list(voice.answer(ASK))
        assert voice.remark == "cut by the endpoint's token cap"


def test_two_models_of_one_name_in_the_ledger_are_refused_before_they_are_asked(tmp_path: Path) -> None:
    two = ["openai:m@http://127.0.0.1:1/a/v1", "openai:m@http://127.0.0.1:1/b/v1"]
    with pytest.raises(UsageError, match="are both m@127"):
        load_contestants(two, tmp_path / "calls.sqlite", 10)
    with pytest.raises(UsageError, match="are both m@127"):
        speakers.refuse_one_name(*two, None)
    with pytest.raises(UsageError, match="both sides are called m;"):
        speakers.refuse_one_name(two[0], "openai:m@http://127.0.0.1:2/v1", None)
    speakers.refuse_one_name(two[0], "smollm2", None)
    assert not (tmp_path / "calls.sqlite").exists()
