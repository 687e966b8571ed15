"""The shapes in which the server answers."""

from starling import server_replies
from starling.server_replies import Choice, Envelope


def test_each_prompt_counts_once_and_each_answer_in_full() -> None:
    choices = [Choice(index=0, tokens=3), Choice(index=1, tokens=4)]
    assert server_replies.usage(choices, 10) == {"prompt_tokens": 10, "completion_tokens": 7, "total_tokens": 17}


def test_a_message_is_in_a_chat_and_a_text_in_a_plain_completion() -> None:
    choice = Choice(index=0, text="Yes.", finish="stop", tokens=2)
    spoken = Envelope(model="m", chat=True).whole([choice], 5)["choices"][0]
    assert (spoken["message"], spoken["finish_reason"]) == ({"role": "assistant", "content": "Yes."}, "stop")
    plain = Envelope(model="m", chat=False).whole([choice], 5)
    assert (plain["choices"][0]["text"], plain["object"]) == ("Yes.", "text_completion")


def test_pieces_of_one_stream_share_their_id_and_the_last_has_no_text() -> None:
    envelope = Envelope(model="m", chat=True)
    first, last = envelope.chunk(0, "Y"), envelope.last_chunk([Choice(index=0, tokens=1)], 2)
    assert first["id"] == last["id"]
    assert first["choices"][0]["delta"]["content"] == "Y"
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 3)


def test_an_event_is_one_line_of_data_whatever_the_text() -> None:
    written = server_replies.event({"text": "two\nlines\r\u2028"})
    assert written.startswith(b"data: {")
    assert written.endswith(b"}\n\n")
    assert written.count(b"\n") == 2
    assert b"\r" not in written
