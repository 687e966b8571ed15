"""Text as its tokens come."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starling import chat, models
from starling.pieces import Pieces


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return models.load_tokenizer(str(tiny_model))


def fed(tokenizer: Any, text: str, stop: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    """The pieces of a text that comes token by token, until it is stopped."""
    pieces = Pieces(tokenizer, stop)
    found = []
    for token in chat.text_ids(tokenizer, text):
        found.append(pieces.feed(token))
        if pieces.stopped:
            return found, True
    return [*found, pieces.end()], pieces.stopped


def test_all_pieces_together_are_the_text_blanks_included(tokenizer: Any) -> None:
    for text in (
        "  the rain in spain\n",
        "na\u00efve \U0001f600\U0001f468\u200d\U0001f469 \u4f60\u597d",
        "\ttabs  and  blanks ",
    ):
        found, _ = fed(tokenizer, text)
        assert "".join(found) == text
        assert len(found) > 3


def test_no_piece_holds_a_part_of_a_character(tokenizer: Any) -> None:
    found, _ = fed(tokenizer, "\U0001f600\u4f60")  # 4 + 3 bytes, each a token of its own
    assert [piece for piece in found if piece] == ["\U0001f600", "\u4f60"]


def test_what_never_becomes_a_character_comes_at_the_end(tokenizer: Any) -> None:
    pieces = Pieces(tokenizer)
    first = chat.text_ids(tokenizer, "\U0001f600")[:2]
    assert [pieces.feed(token) for token in first] == ["", ""]
    assert pieces.end() == "\ufffd"


def test_the_text_ends_before_the_stop_string_and_hides_what_could_begin_one(tokenizer: Any) -> None:
    found, stopped = fed(tokenizer, "one <en> two <end> three", ("<end>",))
    assert stopped
    assert "".join(found) == "one <en> two "
    sent = ""
    for piece in found:
        sent += piece
        assert not sent.endswith(("<", "<e", "<en", "<end"))


def test_the_first_complete_of_several_stop_strings_counts(tokenizer: Any) -> None:
    found, stopped = fed(tokenizer, "abc def ghi", ("ghi", "def"))
    assert ("".join(found), stopped) == ("abc ", True)


def test_a_beginning_of_a_stop_string_that_goes_no_further_is_given_at_the_end(tokenizer: Any) -> None:
    assert fed(tokenizer, "rain <e", ("<end>",)) == ([*fed(tokenizer, "rain ")[0][:-1], "", "", "<e"], False)


def test_a_special_token_is_no_text(tokenizer: Any) -> None:
    pieces = Pieces(tokenizer)
    assert pieces.feed(2) + pieces.end() == ""


@settings(max_examples=40)
@given(st.text(max_size=20), st.lists(st.text("ab ", min_size=1, max_size=3), max_size=3))
def test_stopping_is_the_same_as_cutting_the_whole_text(tokenizer: Any, text: str, stop: list[str]) -> None:
    text = text.encode("utf-8", "ignore").decode() + "abba ab"
    whole = chat.bare_text(tokenizer, chat.text_ids(tokenizer, text))
    places = [(whole.find(one) + len(one), whole.find(one)) for one in stop if one in whole]  # end, then beginning
    found, stopped = fed(tokenizer, text, tuple(stop))
    assert "".join(found) == (whole[: min(places)[1]] if places else whole)
    assert stopped == bool(places)
