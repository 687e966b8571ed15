"""direct: the ranking at once."""

import re

from scripted import ScriptedChat, honest, item, judge


def test_one_call_without_a_word_on_pairs_ranks_all():
    chat = ScriptedChat(honest(len, "direct"))
    (verdict,) = judge(chat, strategy="direct").rank([item("p", "a", "bbb", "cc")])
    assert (verdict.ranks, verdict.agreement, verdict.good_natured) == ([3, 1, 2], None, None)
    (call,) = chat.calls
    assert not re.search(r"\bvs\b|pair", call.messages[0]["content"])


def test_a_tie_is_kept():
    (verdict,) = judge(ScriptedChat(lambda prompt: "[[A = B, C]]"), strategy="direct").rank([item("p", *"abc")])
    assert sorted(verdict.ranks) == [1, 1, 3]
