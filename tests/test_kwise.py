"""kwise: pairs, then the ranking, in one call."""

import json

from scripted import ScriptedChat, honest, item, judge


def test_in_json_the_pairs_count_towards_agreement_too():
    def write(prompt):
        pairs = [{"pair": "A vs B", "winner": "A"}, {"pair": "C vs B", "winner": "C"}]
        return json.dumps({"good_natured": False, "pairs": pairs, "ranking": ["A", "B", "C"]})

    (verdict,) = judge(ScriptedChat(write), output="json").rank([item("p", "a", "bb", "ccc")])
    assert (verdict.agreement, verdict.good_natured) == (0.5, False)


def test_the_schema_asks_for_as_many_pairs_and_labels_as_there_are():
    chat = ScriptedChat(honest(len, "kwise", "json"))
    (verdict,) = judge(chat, output="json").rank([item("p", "a", "bb", "ccc", "dddd")])
    assert (verdict.ranks, verdict.agreement) == ([4, 3, 2, 1], 1.0)
    properties = chat.calls[0].schema["properties"]
    assert [properties[key]["minItems"] for key in ("pairs", "ranking")] == [6, 4]
    assert list(properties) == sorted(properties)  # the order of a canonical request is the order to think in
