"""The 25 instructions of IFEval: for each an answer that follows it and one that does not."""

import time
from typing import Any

import pytest

from starling.benches.ifeval_instructions import INSTRUCTIONS, count_sentences, fulfils, loosened, unusable

LESS, LEAST = "less than", "at least"
FRENCH = "Bonjour, je suis ravi de vous rencontrer et je vous souhaite une bonne soirée."
ENGLISH = "Good evening, I am very glad to meet you and I hope that you enjoy the party."

# id, parameters, answers that follow, answers that do not
CASES: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    ("keywords:existence", {"keywords": ["cat", "Dog"]}, ["A dog and a CATalogue."], ["A dog alone."]),
    ("keywords:frequency", {"keyword": "no", "frequency": 2, "relation": LEAST}, ["No, nothing."], ["No."]),
    ("keywords:frequency", {"keyword": "no", "frequency": 2, "relation": LESS}, ["No."], ["No, nothing."]),
    ("keywords:forbidden_words", {"forbidden_words": ["cat"]}, ["A catalogue."], ["A Cat!"]),
    ("keywords:letter_frequency", {"letter": "Q", "let_frequency": 2, "let_relation": LEAST}, ["Qq"], ["q"]),
    ("keywords:letter_frequency", {"letter": "q", "let_frequency": 2, "let_relation": LESS}, ["Q", "abc"], ["qQ"]),
    ("keywords:letter_frequency", {"letter": "#", "let_frequency": 4, "let_relation": LEAST}, ["#a #b ##"], ["aaaa #"]),
    ("language:response_language", {"language": "fr"}, [FRENCH, "42"], [ENGLISH]),
    ("language:response_language", {"language": "en"}, [ENGLISH, ENGLISH.upper()], [FRENCH]),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": LESS}, ["One."], ["One. Two."]),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": LEAST}, ["One. Two"], ["One, two."]),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, ["a\n***\nb", "***\na ***b***"],
     ["a", "a\n***\n\n***\nb", "a *** b *** c"]),
    ("length_constraints:number_words", {"num_words": 3, "relation": LEAST}, ["don't go"], ["go away"]),
    ("length_constraints:number_words", {"num_words": 3, "relation": LESS}, ["go away"], ["one two three"]),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"},
     ["First a.\n\n\"Then, b.", "a\n\nthen"], ["Then a.\n\nb", "a\n\nb\n\nthen", "a then", "a\n\nThenceforth"]),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, ["[a] and [b c] and [d]"], ["[a] and b]"]),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, ["Hi\np. s. more", "P.S. x"], ["PS more"]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["Hi\nP.P.S more"], ["P.S. more"]),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, ["* a\n- b", "  - a\n  - b"], ["* a\n** b", "- a"]),
    ("detectable_format:constrained_response", {}, ["My answer is maybe."], ["Maybe.", "my answer is maybe."]),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, ["*a* and **b**"], ["*a* and ** **"]),
    ("detectable_format:multiple_sections", {"section_spliter": "SECTION", "num_sections": 2},
     ["SECTION 1\na\nSECTION2\nb"], ["SECTION 1\na", "Section 1\na\nSection 2\nb"]),
    ("detectable_format:json_format", {}, ['{"a": [1]}', '```json\n{"a": 1}\n```'], ['Here: {"a": 1}', "{a: 1}"]),
    ("detectable_format:title", {}, ["<<A day>>\nIt rained.", "It <<rained>>."], ["<A day>", "<< >>"]),
    ("combination:two_responses", {}, ["a******b", "******a******b"], ["a", "a******a", "a******b******c"]),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi."}, ["say HI. Hi!"], ["Hi! Say hi."]),
    ("startend:end_checker", {"end_phrase": "The End."}, ['Once. "the end."', "THE END. "], ["The end. Or not"]),
    ("startend:quotation", {}, [' "Hi" '], ['"Hi', '"', "'Hi'"]),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": LEAST},
     ["I say NO"], ["I say No"]),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": LESS},
     ["I say No"], ["I'M"]),
    ("change_case:english_capital", {}, [ENGLISH.upper()], [ENGLISH, FRENCH.upper(), "42"]),
    ("change_case:english_lowercase", {}, [ENGLISH.lower()], [ENGLISH, FRENCH.lower(), "42"]),
    ("punctuation:no_comma", {}, ["Well well."], ["Well, well."]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "parameters", "yes", "no"), CASES, ids=[f"{c[0]}-{n}" for n, c in enumerate(CASES)])
def test_what_follows_an_instruction_and_what_does_not(name, parameters, yes, no) -> None:
    assert unusable(name, parameters) == ""
    assert [answer for answer in yes if not fulfils(answer, name, parameters)] == []
    assert [answer for answer in no if fulfils(answer, name, parameters)] == []


def test_there_are_25_and_each_has_its_cases() -> None:
    assert {name for name, *_ in CASES} == INSTRUCTIONS.keys()
    assert len(INSTRUCTIONS) == 25


@pytest.mark.parametrize("name", sorted({name for name, *_ in CASES}))
def test_a_blank_answer_follows_nothing(name: str) -> None:
    parameters = next(parameters for known, parameters, *_ in CASES if known == name)
    assert not fulfils(" \n", name, parameters)


@pytest.mark.parametrize(
    ("name", "parameters", "why"),
    [
        ("keywords:new_one", {}, "unknown instruction id"),
        ("length_constraints:number_words", {"num_words": 3}, "parameter relation: Missing"),
        (
            "length_constraints:number_words",
            {"num_words": 3, "relation": "more"},
            "parameter relation: Input should be",
        ),
        (
            "length_constraints:number_words",
            {"num_words": "x", "relation": LESS},
            "parameter num_words: Input should be",
        ),
        ("punctuation:no_comma", {"num_words": 3}, "parameter num_words: Unexpected"),
        ("keywords:existence", {"keywords": []}, "parameter keywords: List should have"),
    ],
)
def test_an_instruction_that_cannot_be_verified_says_why(name: str, parameters: dict[str, Any], why: str) -> None:
    assert unusable(name, parameters).startswith(why)


def test_whole_numbers_may_come_as_floats() -> None:
    assert unusable("length_constraints:number_words", {"num_words": 3.0, "relation": LESS}) == ""


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Dr. Lee met Mr. J. Smith. They spoke!", 2),
        ("Bring fruit, nuts, etc. and water. Then go.", 2),
        ("It costs 3.50 euros. Really?", 2),
        ('He said "Stop!" Then he left...', 2),
        ("Yes or no. I do. So do I.", 3),
        ("Take bus No. 5. Then walk.", 2),
        ("1. Wash\n2. Dry", 2),
        ("no full stop", 1),
        ("... 42.", 0),
        ("See Mr. . Smith", 2),
        ('Mr. J. (e.g. no.) Then?!" so', 3),
    ],
)
def test_sentences_by_hand(text: str, count: int) -> None:
    assert count_sentences(text) == count


def test_the_eight_looser_readings_by_hand() -> None:
    assert list(loosened("Sure:\n*b*\nBye")) == [
        "Sure:\n*b*\nBye", "*b*\nBye", "Sure:\n*b*", "*b*", "Sure:\nb\nBye", "b\nBye", "Sure:\nb", "b",
    ]  # fmt: skip


LONG = 100_000


@pytest.mark.parametrize(
    ("name", "parameters", "answer"),
    [
        ("length_constraints:number_sentences", {"num_sentences": 1, "relation": LESS}, "." * LONG + "x"),
        ("length_constraints:number_sentences", {"num_sentences": 1, "relation": LESS}, "Mr. " * LONG),
        ("detectable_content:number_placeholders", {"num_placeholders": 1}, "[" * LONG),
        ("detectable_format:number_bullet_lists", {"num_bullets": 1}, "\n" * LONG + "x"),
        ("detectable_format:title", {}, "<<" * LONG),
    ],
)
def test_looping_answers_cost_no_time(name: str, parameters: dict[str, Any], answer: str) -> None:
    started = time.process_time()
    fulfils(answer, name, parameters)
    assert time.process_time() - started < 5  # a hundredth of that; what grows with the square takes minutes


@pytest.mark.parametrize(
    ("text", "placeholders", "bullets", "has_title"),
    [
        ("[a] [b\nc] [[d]] []", 3, 0, False),
        ("*\n* a\n** b\n\n \t- c\n-", 0, 3, False),
        ("<<>>", 0, 0, False),
        ("<< < > >>", 0, 0, True),
        ("a <<b\n>> <<\u00e9>>>", 0, 0, True),
        ("<<<>>>", 0, 0, False),
    ],
)
def test_odd_forms_by_hand(text: str, placeholders: int, bullets: int, has_title: bool) -> None:
    for found in range(4):
        assert fulfils(text, "detectable_content:number_placeholders", {"num_placeholders": found}) == (
            found <= placeholders
        )
        assert fulfils(text, "detectable_format:number_bullet_lists", {"num_bullets": found}) == (found == bullets)
    assert fulfils(text, "detectable_format:title", {}) == has_title
