"""Who answers in a chat."""

from pathlib import Path
from typing import Any

import pytest
import torch
from servers import Server, says

from starling import chat, models, speakers
from starling.errors import DataError
from starling.generate import stop_ids
from starling.models import Model
from starling.speakers import EndpointSpeaker, LocalSpeaker

ASK: Any = [{"role": "user", "content": "what is rain?"}]


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Model:
    return models.load_policy(str(tiny_model), torch.float32)


def test_a_model_answers_in_pieces_and_counts_its_tokens(model: Model) -> None:
    speaker = LocalSpeaker(model, "tiny")
    pieces = list(speaker.answer(ASK))
    assert "".join(pieces)
    assert speaker.tokens == len(pieces) - 1  # the last piece is what was held back
    cut = speaker.tokens == 256  # half the window
    assert speaker.remark == ("cut after 256 tokens" if cut else "")


def test_an_answer_that_does_not_end_is_cut_and_that_is_said(model: Model) -> None:
    speaker = LocalSpeaker(model, "tiny")
    ends = model.network.generation_config.eos_token_id
    model.network.generation_config.eos_token_id = None
    try:
        list(speaker.answer(ASK))
        assert (speaker.tokens, speaker.remark) == (256, "cut after 256 tokens")
    finally:
        model.network.generation_config.eos_token_id = ends
    assert stop_ids(model.network) == {0, 2}


def test_a_conversation_past_the_window_loses_its_earliest_part_aloud(model: Model) -> None:
    speaker = LocalSpeaker(model, "tiny")
    turns: Any = [
        {"role": "user" if at % 2 == 0 else "assistant", "content": f"{at} " + "the rain in spain " * 5}
        for at in range(15)
    ]
    next(speaker.answer(turns))
    left_out = int(speaker.remark.split("the first ")[1].split()[0])
    whole = len(chat.prompt_ids(model.tokenizer, turns))
    assert whole - left_out <= 256 < whole
    with pytest.raises(DataError, match="the model has room for 256; shorten it"):
        next(speaker.answer([{"role": "system", "content": "rain " * 300}, *ASK]))


def test_an_endpoint_s_own_count_replaces_the_count_of_pieces() -> None:
    with Server(says("Fine.", completion_tokens=12)) as server:
        speaker = speakers.make(f"openai:m@{server.url}")
        assert isinstance(speaker, EndpointSpeaker)
        assert "".join(speaker.answer(ASK)) == "Fine."
        assert speaker.tokens == 12


def test_an_endpoint_s_cut_answer_is_told() -> None:
    with Server(says("And then", finish="length")) as server:
        speaker = speakers.make(f"openai:m@{server.url}")
        list(speaker.answer(ASK))
        assert speaker.remark == "cut by the endpoint's token cap"
