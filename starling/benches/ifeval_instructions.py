"""The 25 instructions of IFEval, each with the program that verifies it.

A rule is a function `(answer, **parameters) -> fulfilled` under the id that the official file uses, and it reads the
official parameters under their names. The meaning is that of Zhou et al. (arXiv:2311.07911) and of their published
checks. We differ in five places. Sentences are split by a rule of our own, since theirs needs a data file, and a piece
without a letter is none. Languages are told by `py3langid`, where texts in capitals are lower-cased first. Words in
capitals are runs of letters and digits that full stop and hyphen may join. Keywords are plain text and no
patterns. A sign that is to stand so often ("#" and "!" in two rows) is counted itself, where theirs draws a letter.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, validate_call

Rule = Callable[..., bool]
Relation = Literal["less than", "at least"]
Count = Annotated[int, Field(ge=0)]
Words = Annotated[list[str], Field(min_length=1)]
Text = Annotated[str, Field(min_length=1)]

_WORD = re.compile(r"\w+")
_TOKEN = re.compile(r"\w+(?:[.-]\w+)*")
_END = re.compile(r"(?<![.!?])[.!?]++[\"'”’)\]*_]*+(?=\s++(\S?)|$)")  # and the next sign after it
_TITLES = {"mr", "mrs", "ms", "dr", "prof", "sr", "jr", "st", "vs"}
_ABBREVIATIONS = {"etc", "e.g", "i.e", "approx", "cf", "al", "no", "fig"}
_ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_STARS = re.compile(r"\s?\*\*\*\s?")


def _meets(found: int, wanted: int, relation: Relation) -> bool:
    return found < wanted if relation == "less than" else found >= wanted


@cache
def _detector() -> Callable[[str], str]:
    from py3langid import langid  # its model takes a second to load

    return lambda text: str(langid.classify(text)[0])


def _is_in(text: str, language: str) -> bool:
    """Whether a text is in a language, by its two-letter code; one without a letter is in every language."""
    if not any(character.isalpha() for character in text):
        return True
    return _detector()(text.lower() if text.isupper() else text) == language.lower().partition("-")[0]


def count_sentences(text: str) -> int:
    """Pieces with a letter in them between full stops, question and exclamation marks, abbreviations left alone."""
    pieces, start, past = [], 0, 0
    for end in _END.finditer(text):
        before, after, past = text[past : end.start()].split()[-1:], end[1] or "", end.end()
        word = before[0].lower().lstrip("([\"'“‘") if before else ""
        initial = len(word) == 1 and word.isalpha() and word != "i" and before[0].isupper()
        if end.group() == "." and after and (word in _TITLES or initial):
            continue
        if end.group() == "." and word in _ABBREVIATIONS and (after.islower() or after.isdigit()):
            continue
        pieces.append(text[start:past])
        start = past
    return sum(any(map(str.isalpha, piece)) for piece in [*pieces, text[start:]])


def keywords_existence(answer: str, *, keywords: Words) -> bool:
    """Every keyword stands somewhere, whatever the case; inside a longer word too."""
    return all(word.lower() in answer.lower() for word in keywords)


def keywords_frequency(answer: str, *, keyword: Text, frequency: Count, relation: Relation) -> bool:
    """The keyword stands so often, inside longer words too."""
    return _meets(answer.lower().count(keyword.strip().lower()), frequency, relation)


def keywords_forbidden_words(answer: str, *, forbidden_words: Words) -> bool:
    """None of the words stands anywhere as a whole word."""
    return not any(re.search(rf"\b{re.escape(word)}\b", answer, re.IGNORECASE) for word in forbidden_words)


def keywords_letter_frequency(answer: str, *, letter: Text, let_frequency: Count, let_relation: Relation) -> bool:
    """The letter stands so often, small or capital."""
    return _meets(answer.lower().count(letter.strip().lower()), let_frequency, let_relation)


def response_language(answer: str, *, language: Text) -> bool:
    """The whole answer is in the language."""
    return _is_in(answer, language)


def number_sentences(answer: str, *, num_sentences: Count, relation: Relation) -> bool:
    """So many sentences."""
    return _meets(count_sentences(answer), num_sentences, relation)


def number_paragraphs(answer: str, *, num_paragraphs: Count) -> bool:
    """Exactly so many paragraphs with `***` between them; only before the first and after the last may be nothing."""
    paragraphs = _STARS.split(answer)
    blank = [place for place, paragraph in enumerate(paragraphs) if not paragraph.strip()]
    inner = set(blank) - {0, len(paragraphs) - 1}
    return not inner and len(paragraphs) - len(blank) == num_paragraphs


def number_words(answer: str, *, num_words: Count, relation: Relation) -> bool:
    """So many runs of letters and digits."""
    return _meets(len(_WORD.findall(answer)), num_words, relation)


def nth_paragraph_first_word(answer: str, *, num_paragraphs: Count, nth_paragraph: Count, first_word: Text) -> bool:
    """Exactly so many paragraphs with an empty line between them, and the n-th begins with the word."""
    paragraphs = answer.split("\n\n")
    filled = sum(bool(paragraph.strip()) for paragraph in paragraphs)
    if filled != num_paragraphs or not 1 <= nth_paragraph <= filled:
        return False
    words = paragraphs[nth_paragraph - 1].split()
    opening = words[0].lstrip("'").lstrip('"') if words else ""
    return bool(words) and re.split(r"[.,?!'\"]", opening)[0].lower() == first_word.lower()


def number_placeholders(answer: str, *, num_placeholders: Count) -> bool:
    """At least so many `[placeholders]`."""
    return sum(map(bool, re.findall(r"\[[^\]\n]*+(\]?)", answer))) >= num_placeholders


def postscript(answer: str, *, postscript_marker: Text) -> bool:
    """The marker of a postscript stands somewhere; a space may follow each of its full stops."""
    pattern = "".join(r"\.\s?" if mark == "." else re.escape(mark) for mark in postscript_marker.strip().lower())
    return re.search(pattern, answer.lower()) is not None


def number_bullet_lists(answer: str, *, num_bullets: Count) -> bool:
    """Exactly so many lines that begin with one star or with a dash."""
    stars = re.findall(r"^[^\S\n]*+\*[^*].*$", answer, re.MULTILINE)
    return len(stars) + len(re.findall(r"^[^\S\n]*+-.*$", answer, re.MULTILINE)) == num_bullets


def constrained_response(answer: str) -> bool:
    """One of the three allowed sentences stands in the answer."""
    return any(allowed in answer for allowed in _ANSWERS)


def number_highlighted_sections(answer: str, *, num_highlights: Count) -> bool:
    """At least so many *highlights* or **highlights** that are not blank."""
    single = [found for found in re.findall(r"\*[^\n*]*\*", answer) if found.strip("*").strip()]
    double = [found for found in re.findall(r"\*\*([^\n*]*)\*\*", answer) if found.strip()]
    return len(single) + len(double) >= num_highlights


def multiple_sections(answer: str, *, section_spliter: Text, num_sections: Count) -> bool:
    """At least so many headings of the word and a number, such as `Section 1`."""
    return len(re.findall(rf"{re.escape(section_spliter.strip())}\s?\d+", answer)) >= num_sections


def json_format(answer: str) -> bool:
    """JSON and nothing else; a code fence is allowed."""
    text = answer.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def title(answer: str) -> bool:
    """A title in double angle brackets stands somewhere and is not blank."""
    inner = (line.partition("<<")[2].rpartition(">>")[0] for line in answer.split("\n"))
    return any(found.lstrip("<").rstrip(">").strip() for found in inner)


def two_responses(answer: str) -> bool:
    """Two different answers with six stars between them."""
    parts = answer.split("******")
    filled = [part.strip() for part in parts if part.strip()]
    inner_blank = any(not part.strip() for part in parts[1:-1])
    return not inner_blank and len(filled) == 2 and filled[0] != filled[1]


def repeat_prompt(answer: str, *, prompt_to_repeat: Text) -> bool:
    """The answer begins with the request, word for word, whatever the case."""
    return answer.strip().lower().startswith(prompt_to_repeat.strip().lower())


def end_checker(answer: str, *, end_phrase: Text) -> bool:
    """The answer ends with the phrase, whatever the case; quotation marks around it all are left aside."""
    return answer.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def quotation(answer: str) -> bool:
    """The answer stands between double quotation marks."""
    text = answer.strip()
    return len(text) > 1 and text[0] == '"' == text[-1]


def capital_word_frequency(answer: str, *, capital_frequency: Count, capital_relation: Relation) -> bool:
    """So many words in capitals."""
    return _meets(sum(word.isupper() for word in _TOKEN.findall(answer)), capital_frequency, capital_relation)


def english_capital(answer: str) -> bool:
    """English, and no small letter anywhere."""
    return answer.isupper() and _is_in(answer, "en")


def english_lowercase(answer: str) -> bool:
    """English, and no capital letter anywhere."""
    return answer.islower() and _is_in(answer, "en")


def no_comma(answer: str) -> bool:
    """No comma anywhere."""
    return "," not in answer


_RULES: Mapping[str, Rule] = {
    "keywords:existence": keywords_existence,
    "keywords:frequency": keywords_frequency,
    "keywords:forbidden_words": keywords_forbidden_words,
    "keywords:letter_frequency": keywords_letter_frequency,
    "language:response_language": response_language,
    "length_constraints:number_sentences": number_sentences,
    "length_constraints:number_paragraphs": number_paragraphs,
    "length_constraints:number_words": number_words,
    "length_constraints:nth_paragraph_first_word": nth_paragraph_first_word,
    "detectable_content:number_placeholders": number_placeholders,
    "detectable_content:postscript": postscript,
    "detectable_format:number_bullet_lists": number_bullet_lists,
    "detectable_format:constrained_response": constrained_response,
    "detectable_format:number_highlighted_sections": number_highlighted_sections,
    "detectable_format:multiple_sections": multiple_sections,
    "detectable_format:json_format": json_format,
    "detectable_format:title": title,
    "combination:two_responses": two_responses,
    "combination:repeat_prompt": repeat_prompt,
    "startend:end_checker": end_checker,
    "startend:quotation": quotation,
    "change_case:capital_word_frequency": capital_word_frequency,
    "change_case:english_capital": english_capital,
    "change_case:english_lowercase": english_lowercase,
    "punctuation:no_comma": no_comma,
}
INSTRUCTIONS: Mapping[str, Rule] = {name: validate_call(rule) for name, rule in _RULES.items()}


def unusable(name: str, parameters: Mapping[str, Any]) -> str:
    """Why an instruction cannot be verified, "" where it can: an unknown id, or parameters that do not fit it."""
    if name not in INSTRUCTIONS:
        return "unknown instruction id"
    try:
        INSTRUCTIONS[name]("A line.", **parameters)
    except ValidationError as error:
        wrong = error.errors()[0]
        return f"parameter {'.'.join(map(str, wrong['loc']))}: {wrong['msg']}"
    return ""


def loosened(answer: str) -> Sequence[str]:
    """The answer as it is and in seven looser readings: without first line, last line or both, without stars."""
    lines = answer.split("\n")
    cut = [answer, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*cut, *(text.replace("*", "") for text in cut)]


def fulfils(answer: str, name: str, parameters: Mapping[str, Any]) -> bool:
    """Whether the answer follows the instruction; a blank one follows none."""
    return bool(answer.strip()) and INSTRUCTIONS[name](answer, **parameters)
