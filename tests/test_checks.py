"""Instructions whose fulfilment a program can verify."""

import inspect
import time

import pytest
from tolerances import EXACT

from starling.judges.checks import CHECKS, HELD_OUT, SEEN, contains, words

CASES = [
    # check, its parameters, the answer, how far it is fulfilled
    ("max_words", {"n": 3}, "one two three", 1.0),
    ("max_words", {"n": 4}, "a b c d e", 0.75),  # one quarter over the limit
    ("max_words", {"n": 2}, "a b c d", 0.0),  # twice the limit
    ("max_words", {"n": 2}, "a b c d e f g", 0.0),
    ("min_words", {"n": 3}, "one two three four", 1.0),
    ("min_words", {"n": 4}, "one", 0.25),
    ("min_words", {"n": 4}, "", 0.0),
    ("sentences", {"n": 2}, "One is here. Two is there!", 1.0),
    ("sentences", {"n": 2}, 'He said "No." Then he left?', 1.0),
    ("sentences", {"n": 2}, "One is here. Two is not closed", 1.0),
    ("sentences", {"n": 1}, "It costs 3.50 in the shop.", 1.0),
    ("sentences", {"n": 2}, "Only one.", 0.5),
    ("sentences", {"n": 2}, "A b. C d. E f. G h.", 0.0),
    ("sentences", {"n": 1}, "Well... that is all.", 0.0),  # an ellipsis ends a sentence
    ("bullets", {"n": 2}, "- one\n- two", 1.0),
    ("bullets", {"n": 2}, "Here:\n* one\n  • two\nDone - really.", 1.0),
    ("bullets", {"n": 4}, "- one\n- two\n- three", 0.75),
    ("bullets", {"n": 2}, "-one\n- \n1. two", 0.0),
    ("numbered", {"n": 2}, "1.\n2.\ntwo", 0.0),  # empty items
    ("numbered", {"n": 2}, "1. one\n2) two", 1.0),
    ("numbered", {"n": 3}, "1. one\n- two\n3 three", 1 / 3),
    ("includes", {"words": ["cat", "red hat"]}, "The CAT wore a red hat.", 1.0),
    ("includes", {"words": ["cat", "dog"]}, "The cats ran from the dog", 0.5),
    ("excludes", {"words": ["cat", "dog"]}, "Concatenate these.", 1.0),
    ("excludes", {"words": ["cat", "dog"]}, "A Dog.", 0.0),
    ("starts_with", {"text": "Dear"}, "  dear Ann,", 1.0),
    ("starts_with", {"text": "Dear"}, "My dear Ann,", 0.0),
    ("ends_with", {"text": "Yours, Bob"}, "... yours, bob\n", 1.0),
    ("ends_with", {"text": "Yours"}, "Yours, Bob", 0.0),
    ("lowercase", {}, "all small, 3 times.", 1.0),
    ("lowercase", {}, "One capital", 0.0),
    ("lowercase", {}, "...", 0.0),
    ("exact_words", {"n": 4}, "one two three four", 1.0),
    ("exact_words", {"n": 4}, "one two three", 0.75),
    ("exact_words", {"n": 4}, "a b c d e f", 0.5),
    ("one_of", {"options": ["yes", "no"]}, " Yes.\n", 1.0),
    ("one_of", {"options": ["yes", "no"]}, "Yes, it is.", 0.0),
    ("avoids_letter", {"letter": "e"}, "A dog sits.", 1.0),
    ("avoids_letter", {"letter": "e"}, "Every dog sits.", 0.0),
    ("avoids_letter", {"letter": "e"}, "...", 0.0),
    ("tagged", {"tag": "note"}, "<note>Back at ten.</note>\n", 1.0),
    ("tagged", {"tag": "note"}, "<note>Back at ten.", 0.0),
    ("tagged", {"tag": "note"}, "Here: <note>Back at ten.</note>", 0.0),
    ("tagged", {"tag": "a"}, "<a>", 0.0),
    ("tagged", {"tag": "note"}, "<note></note>", 0.0),
    ("labelled", {"labels": ["For", "Against"]}, "For: it is cheap.\n  against: it is slow.", 1.0),
    ("labelled", {"labels": ["For", "Against"]}, "For: it is cheap. Against: it is slow.", 0.5),
    ("labelled", {"labels": ["For", "Against"]}, "Forward we go", 0.0),
    ("parts", {"mark": "|", "n": 3}, "tea | milk | bread", 1.0),
    ("parts", {"mark": "|", "n": 3}, "| tea | milk | bread |", 1.0),
    ("parts", {"mark": "|", "n": 3}, "tea, milk and bread", 1 / 3),
    ("initial", {"letter": "b"}, "Big bears, busy!", 1.0),
    ("initial", {"letter": "b"}, "Big bears bring honey", 0.75),
    ("initial", {"letter": "b"}, "", 0.0),
    ("signed", {"name": "Ida"}, "See you soon.\n- ida", 1.0),
    ("signed", {"name": "Ida"}, "See you soon.\n\n— Ida.", 1.0),
    ("signed", {"name": "Ida"}, "See you soon - Ida", 0.0),
    ("signed", {"name": "Ida"}, "", 0.0),
    ("title_case", {}, "All Of 3 These", 1.0),
    ("title_case", {}, "Only one of them", 0.25),
    ("title_case", {}, "3 4", 0.0),
    ("in_brackets", {}, " (All of it.)", 1.0),
    ("in_brackets", {}, "(All of it).", 1.0),
    ("in_brackets", {}, "(Some) of (it)", 0.0),
    ("in_brackets", {}, "()", 0.0),
    ("no_apostrophes", {}, "It is not far.", 1.0),
    ("no_apostrophes", {}, "It isn\u2019t far.", 0.0),
    ("no_apostrophes", {}, " ", 0.0),
    ("uppercase", {}, "ALL BIG, 3 TIMES.", 1.0),
    ("uppercase", {}, "ONE SMALL i", 0.0),
    ("uppercase", {}, "", 0.0),
    ("json_keys", {"keys": ["a", "b"]}, '{"a": 1, "b": [2], "c": 3}', 1.0),
    ("json_keys", {"keys": ["a", "b"]}, '```json\n{"a": 1, "b": 2}\n```', 1.0),
    ("json_keys", {"keys": ["a", "b"]}, '{"a": 1}', 0.5),
    ("json_keys", {"keys": ["a"]}, 'Here you are: {"a": 1}', 0.0),
    ("json_keys", {"keys": ["a"]}, '["a"]', 0.0),
    ("json_keys", {"keys": ["a"]}, "[" * 100_000, 0.0),
    ("json_keys", {"keys": ["a"]}, "{'a': 1}", 0.0),
    ("one_line", {}, "  just one \n", 1.0),
    ("one_line", {}, "one\ntwo", 0.0),
    ("one_line", {}, " \n ", 0.0),
    ("no_commas", {}, "none here", 1.0),
    ("no_commas", {}, "well, no", 0.0),
    ("no_digits", {}, "three of them", 1.0),
    ("no_digits", {}, "3 of them", 0.0),
    ("quoted", {}, ' "All of it." ', 1.0),
    ("quoted", {}, "“All of it.”", 1.0),
    ("quoted", {}, '"Part" of it', 0.0),
    ("quoted", {}, '"One" and "two"', 0.0),
    ("quoted", {}, '""', 0.0),
    ("titled", {}, "<<Rain>>\nIt falls.", 1.0),
    ("titled", {}, "It falls.\n<<Rain>>", 0.0),
    ("titled", {}, "<<>> It falls.", 0.0),
    ("titled", {}, "<Rain>\nIt falls.", 0.0),
    ("word_count", {"word": "rain", "n": 2}, "Rain, more rain, and a rainbow.", 1.0),
    ("word_count", {"word": "rain", "n": 2}, "Only rain.", 0.5),
    ("word_count", {"word": "rain", "n": 1}, "rain rain rain", 0.0),
    ("ends_with_question", {}, "Is it? ", 1.0),
    ("ends_with_question", {}, "Is it? Yes.", 0.0),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "parameters", "answer", "expected"), CASES, ids=[f"{name}-{at}" for at, (name, *_) in enumerate(CASES)]
)
def test_fulfilment_by_hand(name: str, parameters: dict, answer: str, expected: float) -> None:
    assert CHECKS[name](answer, **parameters) == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize("name", CHECKS)
def test_every_check_has_a_case_where_it_holds_and_one_where_it_fails(name: str) -> None:
    results = [expected for check, _, _, expected in CASES if check == name]
    assert 1.0 in results
    assert min(results) < 1.0


# Awkward values for every parameter of every check.
EXAMPLES = {
    "n": 3, "words": ["a(b", "c"], "text": "(", "keys": ["k"], "word": "a+", "options": ["(", "no"], "letter": "e",
    "tag": "a(", "labels": ["("], "mark": "(", "name": "a+",
}  # fmt: skip


def with_examples(name: str, answer: str) -> float:
    names = list(inspect.signature(CHECKS[name]).parameters)[1:]
    return CHECKS[name](answer, **{key: EXAMPLES[key] for key in names})


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("answer", ["", " ", "\n\n", "word", "🙂", "(", "\\", "a" * 5000], ids=repr)
def test_every_check_gives_a_share_for_any_answer(name: str, answer: str) -> None:
    assert 0.0 <= with_examples(name, answer) <= 1.0


@pytest.mark.parametrize("name", [name for name in CHECKS if name not in ("excludes", "max_words")])
def test_no_positive_instruction_is_fulfilled_by_silence(name: str) -> None:
    assert with_examples(name, "") == 0.0


def test_no_check_is_both_seen_and_held_out() -> None:
    assert not set(SEEN) & set(HELD_OUT)
    assert set(CHECKS) == set(SEEN) | set(HELD_OUT)
    assert all(check.__name__ == name for name, check in CHECKS.items())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It's a well-known rule, isn't it?", ["It's", "a", "well-known", "rule", "isn't", "it"]),
        ("3 cats_and 2.5 dogs", ["3", "cats", "and", "2", "5", "dogs"]),
        ("naïve café", ["naïve", "café"]),
        ("- ... !", []),
    ],
    ids=["apostrophes and hyphens", "numbers", "accents", "no words"],
)
def test_words_of_a_text(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("text", "phrase", "expected"),
    [
        ("The Cat sat", "cat", True), ("concatenate", "cat", False), ("cats", "cat", False), ("a cat.", "cat", True),
        ("in C++ and", "C++", True), ("New  York", "New York", False), ("it costs $5", "$5", True), ("15", "5", False),
    ],
)  # fmt: skip
def test_contains_finds_whole_words(text: str, phrase: str, expected: bool) -> None:
    assert contains(text, phrase) == expected


@pytest.mark.parametrize(
    ("name", "answer"), [("sentences", "." * 50_000 + "x"), ("json_keys", "```" + "\n" * 50_000 + "x")]
)
def test_looping_answers_cost_no_time(name: str, answer: str) -> None:
    started = time.process_time()
    assert with_examples(name, answer) < 1
    assert time.process_time() - started < 5  # a hundredth of that; what grows with the square takes minutes
