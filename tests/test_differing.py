"""Where two texts differ, word by word."""

import pytest

from starling import differing


def test_differing_words_are_marked_and_the_texts_stay_whole() -> None:
    base, tuned = "one two three four five six", "one two three four SIX and six"
    pieces = differing.differences(base, tuned)
    assert "".join(text for text, _ in pieces["base"]) == base
    assert "".join(text for text, _ in pieces["tuned"]) == tuned
    assert pieces["base"] == [("one two three four ", False), ("five ", True), ("six", False)]
    assert [text for text, differs in pieces["tuned"] if differs] == ["SIX and "]


def test_chance_matches_between_differences_are_marked_too() -> None:
    pieces = differing.differences("a b the c d", "x y the z w")
    assert pieces == {"base": [("a b the c d", True)], "tuned": [("x y the z w", True)]}


@pytest.mark.parametrize(
    ("base", "tuned"), [("", ""), ("", "new"), ("old", ""), ("same\n\n same", "same\n\n same"), (" x", "x ")]
)
def test_any_texts_stay_whole(base: str, tuned: str) -> None:
    pieces = differing.differences(base, tuned)
    assert ["".join(text for text, _ in pieces[side]) for side in ("base", "tuned")] == [base, tuned]


def test_texts_with_little_in_common_are_not_marked_at_all() -> None:
    pieces, alike = differing.marked("a b c d e f g", "t u v w x y z")
    assert not alike
    assert pieces == {"base": [("a b c d e f g", False)], "tuned": [("t u v w x y z", False)]}


def test_a_fifth_of_a_text_in_common_is_enough_for_marks() -> None:
    # Four of twenty equal letters stay unmarked at the start: 4 words of 2 characters of 20 x 2 = 0.2.
    same = "a b c d "
    pieces, alike = differing.marked(same + "e " * 16, same + "f " * 40)
    assert alike and pieces["base"][0] == (same, False)
    assert not differing.marked(same + "e " * 17, same + "f " * 40)[1]
