"""What is kept of a source, rule by rule."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_road import write_lines

from starling import cleaning
from starling.cleaning import Cleaner, duplicate_key, merged, union
from starling.config import PromptsTable, Source
from starling.errors import DataError, UsageError
from starling.forms import Answer, Found
from starling.records import Message, Prompt
from starling.sources import Removal

ENGLISH = "Please tell me what the weather in the north of Spain is like in spring."
GERMAN = "Bitte erzähle mir, wie das Wetter im Norden von Spanien im Frühling ist."


def say(text: str) -> list[Message]:
    return [Message(role="user", content=text)]


def find(name: str, text: str, *answers: str, split: str = "train", source: str = "a") -> Found:
    prompt = Prompt(id=name, messages=say(text), split=split, source=source)
    return Found(prompt=prompt, answers=[Answer("m", answer) for answer in answers])


def chat(text: str, answer: str) -> dict[str, Any]:
    return {"model": "m", "conversation": [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]}


class Cleaned:
    """What a cleaner with these settings makes of a file of rows, and what it removed."""

    def __init__(self, folder: Path, rows: list[dict], source: dict | None = None, seed: int = 1, **cfg: Any) -> None:
        path = write_lines(folder / "s.jsonl", rows)
        self.removed: list[Removal] = []
        cleaner = Cleaner(PromptsTable(**cfg), seed, self.removed.append)
        self.kept = cleaner.clean(Source(path=str(path), **(source or {})))

    @property
    def texts(self) -> list[str]:
        return [one.prompt.messages[0]["content"] for one in self.kept.found]

    @property
    def reasons(self) -> list[tuple[str, str, str]]:
        return [(removal.prompt_id, removal.reason, removal.of) for removal in self.removed]


def test_the_duplicate_key_looks_through_case_punctuation_and_role_markers() -> None:
    one = duplicate_key(say("What is RAIN?"))
    for text in ("what is rain", "[INST] What is rain? [/INST]", "Human: what is\nrain!", "<s>What... is rain</s>"):
        assert duplicate_key(say(text)) == one, text
    for text in ("what is a train?", "what is rain? 2", "human rain: what is"):
        assert duplicate_key(say(text)) != one, text
    for text in ("Is it 5?", "is it, 5", "# Is it: 5", "is `it` 5", "is-it 5", "is it\u20145"):
        assert duplicate_key(say(text)) == duplicate_key(say("is it 5")), text
    assert duplicate_key(say("In 2020, 5 men")) == duplicate_key(say("In 2020 5 men"))


@pytest.mark.parametrize(
    ("one", "other"),
    [("hello in C", "hello in C++"), ("hello in C", "hello in C#"), ("2+2", "2*2"), ("12 - 3", "12 + 3"),
     ("x > y", "x < y"), ("1.5 m", "15 m"), ("-5 squared", "5 squared"), ("यह कि", "यह की")],
)  # fmt: skip
def test_signs_that_make_another_question_are_no_punctuation(one: str, other: str) -> None:
    assert duplicate_key(say(one)) != duplicate_key(say(other))


def test_prompts_of_punctuation_alone_are_not_all_one() -> None:
    assert duplicate_key(say("???")) != duplicate_key(say("!!!"))
    assert duplicate_key(say("雨とは")) != duplicate_key(say("雪とは"))


def test_with_every_rule_off_all_is_kept(tmp_path: Path) -> None:
    rows = [{"prompt": text} for text in ("hi", "Hi!", GERMAN)]
    cleaned = Cleaned(tmp_path, rows)
    assert (cleaned.texts, cleaned.removed) == (["hi", "Hi!", GERMAN], [])
    assert (cleaned.kept.read, cleaned.kept.form) == (3, "plain")


def test_another_language_is_left_out_and_its_guesses_are_told(tmp_path: Path) -> None:
    cleaned = Cleaned(tmp_path, [{"prompt": ENGLISH}, {"prompt": GERMAN}], language="en")
    assert cleaned.texts == [ENGLISH]
    assert cleaned.reasons == [("s-2", "language", "")]
    assert cleaned.removed[0].detail.startswith("de, ")
    assert len(Cleaned(tmp_path, [{"prompt": GERMAN}], language="en", language_guesses=140).texts) == 1


def test_an_unknown_language_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"prompts\.language = 'english' is not one of .*en"):
        Cleaned(tmp_path, [{"prompt": ENGLISH}], language="english")


def test_a_prompt_of_just_the_length_is_too_short(tmp_path: Path) -> None:
    cleaned = Cleaned(tmp_path, [{"prompt": "a" * 40}, {"prompt": "b" * 41}], longer_than=40)
    assert cleaned.texts == ["b" * 41]
    assert cleaned.reasons == [("s-1", "too_short", "")]


def test_duplicates_keep_the_first_text_and_every_distinct_answer(tmp_path: Path) -> None:
    rows = [chat("What is rain?", "water"), chat("what is rain", "drops"), chat("what is snow?", "ice")]
    cleaned = Cleaned(tmp_path, [*rows, chat("WHAT IS RAIN", "water")], merge_duplicates=True)
    assert cleaned.texts == ["What is rain?", "what is snow?"]
    assert [answer.text for answer in cleaned.kept.found[0].answers] == ["water", "drops"]
    assert cleaned.reasons == [("s-2", "duplicate", "s-1"), ("s-4", "duplicate", "s-1")]


def test_of_duplicates_the_test_prompt_stays(tmp_path: Path) -> None:
    rows = [{"prompt": "hi", "id": "tr"}, {"prompt": "Hi", "id": "te", "split": "test"}, {"prompt": "hi!", "id": "v"}]
    cleaned = Cleaned(tmp_path, rows, source={"split": "validation"}, merge_duplicates=True)
    assert [(one.prompt.id, one.prompt.split) for one in cleaned.kept.found] == [("te", "test")]
    assert cleaned.reasons == [("tr", "duplicate", "te"), ("v", "duplicate", "te")]


def test_answers_of_the_same_text_count_once_and_empty_ones_not_at_all(tmp_path: Path) -> None:
    rows = [
        chat("one", "a"),
        chat("one", "a"),
        chat("two", "a"),
        chat("two", "b"),
        chat("three", "a"),
        chat("one", " "),
    ]
    cleaned = Cleaned(tmp_path, rows, source={"min_answers": 2}, merge_duplicates=True)
    assert cleaned.texts == ["two"]
    assert Counter(reason for _, reason, _ in cleaned.reasons) == {"duplicate": 3, "fewer_than_2_answers": 2}
    assert cleaned.kept.empty_answers == 1


def test_a_limit_draws_from_those_that_pass_by_the_seed_alone(tmp_path: Path) -> None:
    rows = [chat(f"question {number}", answer) for number in range(40) for answer in ("a", "b")[: 1 + number % 2]]
    settings: dict[str, Any] = {"source": {"min_answers": 2, "limit": 5}, "merge_duplicates": True}
    cleaned = Cleaned(tmp_path, rows, **settings)
    assert len(cleaned.texts) == 5
    assert all(int(text.split()[1]) % 2 for text in cleaned.texts)
    assert cleaned.kept.over_limit == 15
    assert sorted(Cleaned(tmp_path, rows[::-1], **settings).texts) == sorted(cleaned.texts)
    assert sorted(Cleaned(tmp_path, rows, seed=2, **settings).texts) != sorted(cleaned.texts)
    single = [chat(f"question {number}", "a") for number in range(40)]
    drawn = Cleaned(tmp_path, single, source={"limit": 5}, merge_duplicates=False).texts
    more = Cleaned(tmp_path, [chat("another", "a"), *single], source={"limit": 6}, merge_duplicates=False).texts
    assert set(drawn) <= set(more)  # a row in front moves no other


def test_rows_without_a_split_are_dealt_out_in_proportion_and_never_move(tmp_path: Path) -> None:
    rows = [{"prompt": f"question {number}"} for number in range(600)]
    shares = {"train": 4, "validation": 1, "test": 1}
    cleaned = Cleaned(tmp_path, rows, **shares)
    split_of = dict(zip(cleaned.texts, (one.prompt.split for one in cleaned.kept.found), strict=True))
    counts = Counter(split_of.values())
    # 600 draws at 2/3: standard deviation 11.5; at 1/6: 9.1
    assert abs(counts["train"] - 400) < 40 and abs(counts["validation"] - 100) < 35 and abs(counts["test"] - 100) < 35
    fewer = Cleaned(tmp_path, rows[::-7], seed=9, **shares)
    assert all(split_of[text] == one.prompt.split for text, one in zip(fewer.texts, fewer.kept.found, strict=True))


def test_a_family_is_dealt_as_one_and_a_told_split_stays(tmp_path: Path) -> None:
    rows = [{"prompt": f"q {number}", "family": "f"} for number in range(30)]
    cleaned = Cleaned(tmp_path, [*rows, {"prompt": "t", "split": "test"}])
    assert len({one.prompt.split for one in cleaned.kept.found[:30]}) == 1
    assert cleaned.kept.found[30].prompt.split == "test"
    told = Cleaned(tmp_path, rows, source={"split": "validation"})
    assert {one.prompt.split for one in told.kept.found} == {"validation"}


def test_a_source_without_one_usable_row_stops_with_the_first_reason(tmp_path: Path) -> None:
    rows = [{"conversations": []}, {"conversations": []}]
    with pytest.raises(DataError, match=r"no row of .*s\.jsonl can be used, first .*s\.jsonl:1: .* no user turn"):
        Cleaned(tmp_path, rows)


def test_two_finds_become_one_with_both_sources_and_all_answers() -> None:
    both = merged(find("x", "hi", "a", "b", source="one"), find("y", "Hi", "b", "c", source="two, one"))
    assert (both.prompt.id, both.prompt.source) == ("x", "one, two")
    assert [answer.text for answer in both.answers] == ["a", "b", "c"]
    tested = merged(find("x", "hi", "a"), find("y", "Hi", "c", split="test"))
    assert (tested.prompt.id, [answer.text for answer in tested.answers]) == ("y", ["a", "c"])


def ranked(*texts: str) -> Found:
    """A find whose answers are ranked as they stand."""
    found = find("x", "hi", *texts)
    return replace(found, answers=[answer._replace(rank=float(at)) for at, answer in enumerate(found.answers, 1)])


def test_ranks_of_two_rows_are_never_mixed() -> None:
    for one, other, ranks in (
        (ranked("a", "b"), find("y", "hi"), [1, 2]),
        (find("y", "hi"), ranked("a", "b"), [1, 2]),
        (ranked("a", "b"), ranked("b", "a"), [1, 2]),  # the first row's
        (ranked("a", "b"), ranked("b", "c"), [None, None, None]),
        (ranked("a", "b"), find("y", "hi", "c"), [None, None, None]),
        (find("y", "hi", "a"), ranked("a", "b"), [None, None]),
    ):
        assert [answer.rank for answer in merged(one, other).answers] == ranks


def test_duplicates_over_sources_are_merged_and_too_few_answers_are_left_out() -> None:
    removed: list[Removal] = []
    found = [find("a1", "hi there", "a"), find("a2", "alone", "a"), find("b1", "Hi there", "b", source="b")]
    (one,) = union(found, PromptsTable(merge_duplicates=True, min_answers=2), removed.append)
    assert (one.prompt.id, one.prompt.source, len(one.answers)) == ("a1", "a, b", 2)
    assert [(r.prompt_id, r.reason, r.of) for r in removed] == [
        ("b1", "duplicate", "a1"), ("a2", "fewer_than_2_answers", ""),
    ]  # fmt: skip
    assert len(union(found, PromptsTable(), removed.append)) == 3


def test_texts_that_are_not_kept_are_not_held(tmp_path: Path) -> None:
    import tracemalloc

    rows = [{"prompt": f"{number} " + "rain " * 2000} for number in range(400)]  # 4 MB of text
    path = write_lines(tmp_path / "s.jsonl", rows)
    cleaner = Cleaner(PromptsTable(merge_duplicates=True), 1, lambda removal: None)
    cleaner.clean(Source(path=str(path), limit=4))
    tracemalloc.start()
    cleaner.clean(Source(path=str(path), limit=4))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_the_splits_that_are_kept_first_are_those_that_figures_rest_on() -> None:
    assert sorted(cleaning.FAIREST, key=cleaning.FAIREST.__getitem__) == ["test", "validation", "train"]
