"""Near-duplicates and benchmark questions."""

from itertools import combinations
from pathlib import Path
from random import Random

import pytest
from small_road import write_lines
from tolerances import EXACT

from starling import overlap, sources
from starling.config import Source
from starling.errors import DataError
from starling.forms import Found
from starling.overlap import Benchmarks, clear_of_benchmarks, likeness, rows_in_a_band, without_near_duplicates
from starling.records import Message, Prompt
from starling.sources import Removal

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the real data is not here (../shared/data)")
QUESTION = "Compose an engaging travel blog post about a recent trip to Hawaii, highlighting cultural experiences."
NINE = "How many legs does a table with drawers have?"


def find(name: str, text: str, split: str = "train") -> Found:
    return Found(prompt=Prompt(id=name, messages=[Message(role="user", content=text)], split=split))


@pytest.fixture
def benchmarks(tmp_path: Path) -> Benchmarks:
    rows = [
        {"question_id": 81, "turns": [QUESTION, "Rewrite it."]},
        {"question_id": 82, "turns": [NINE]},
    ]
    return Benchmarks([str(write_lines(tmp_path / "bench.jsonl", rows))], ngram=13)


@pytest.mark.parametrize(
    ("text", "held"),
    [
        (QUESTION, "bench.jsonl:81"),
        (QUESTION.upper().replace(",", " --"), "bench.jsonl:81"),
        # words 2 to 14, 13 in a row, with others around them
        ("Please write: an engaging travel blog post about a recent trip to Hawaii highlighting, ok?", None),
        (
            "Now: an engaging travel blog post about a recent trip to Hawaii, highlighting cultural food",
            "bench.jsonl:81",
        ),
        ("rewrite it", "bench.jsonl:81"),
        ("Rewrite it. Then stop.", None),
        (f"Answer me. {NINE} Be brief.", "bench.jsonl:82"),
        ("How many legs does a table with drawers need?", None),
        ("?!", None),
    ],
    ids=["whole", "other case", "12 words", "13 words", "short", "short inside", "nine", "nine but one", "nothing"],
)
def test_a_prompt_that_holds_a_question_is_found(benchmarks: Benchmarks, text: str, held: str | None) -> None:
    found = benchmarks.held_by(find("x", text).prompt)
    assert (found[0] if found else None) == held


def test_any_user_turn_counts_and_no_answer_does(benchmarks: Benchmarks) -> None:
    turns = [Message(role="user", content="hi"), Message(role="assistant", content=QUESTION)]
    asked = Prompt(id="x", messages=[*turns, Message(role="user", content="and?")])
    assert benchmarks.held_by(asked) is None
    asked = Prompt(
        id="x", messages=[Message(role="user", content=QUESTION), *turns[1:], Message(role="user", content="")]
    )
    assert benchmarks.held_by(asked) is not None


def test_what_holds_a_question_is_left_out_with_the_words_they_share(benchmarks: Benchmarks) -> None:
    removed: list[Removal] = []
    kept = clear_of_benchmarks([find("x", f"So: {NINE}"), find("y", "hello there")], benchmarks, removed.append)
    assert [one.prompt.id for one in kept] == ["y"]
    assert removed == [Removal("x", "", "benchmark", "bench.jsonl:82", "how many legs does a table with drawers have")]


def test_a_benchmark_of_another_layout_is_named(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "bench.jsonl", [{"prompt": "fine"}, {"text": "?"}])
    with pytest.raises(DataError, match=r"bench\.jsonl:2: a benchmark's row needs one of turns, .*; found: text"):
        Benchmarks([str(path)], ngram=13)


def test_questions_are_read_from_every_column(tmp_path: Path) -> None:
    rows = [
        {"prompt": "\n\nHuman: one\n\nAssistant: two\n\nHuman: three\n\nAssistant: "},
        {"messages": [{"role": "user", "content": "four"}, {"role": "assistant", "content": "five"}]},
        {"instruction": "six"},
    ]
    benchmarks = Benchmarks([str(write_lines(tmp_path / "bench.jsonl", rows))], ngram=13)
    held = [bool(benchmarks.held_by(find("x", word).prompt)) for word in ("one", "two", "three", "four", "five", "six")]
    assert held == [True, False, True, True, False, True]


def test_likeness_by_hand() -> None:
    # "abcdef" has abcde, bcdef; "abcdeg" has abcde, bcdeg: one of three
    one, other = (overlap._pieces([Message(role="user", content=text)]) for text in ("ABCDEF!", "abcdeg"))
    assert likeness(one, other) == pytest.approx(1 / 3, abs=EXACT)
    assert likeness(one, one) == 1


def test_a_pair_at_the_threshold_is_found_in_99_of_100_cases() -> None:
    # 64 hashes in 12 bands of 5: 1 - (1 - 0.8^5)^12 = 0.9915; in 10 bands of 6: 1 - (1 - 0.8^6)^10 = 0.952
    assert rows_in_a_band(0.8) == 5
    assert rows_in_a_band(0.01) == 1
    assert rows_in_a_band(1.0) == 64


def test_of_near_duplicates_test_stays_before_validation_before_train() -> None:
    text = "Write a short poem about the rain in Spain, please, and rhyme it well{}"
    found = [
        find("tr", text.format(".")), find("va", text.format("!"), "validation"),
        find("te", text.format(" now"), "test"), find("other", "What is the capital of France?"),
    ]  # fmt: skip
    removed: list[Removal] = []
    kept = without_near_duplicates(found, 0.8, removed.append)
    assert [one.prompt.id for one in kept] == ["te", "other"]
    assert [(r.prompt_id, r.reason, r.of) for r in removed] == [
        ("va", "near_duplicate", "te"), ("tr", "near_duplicate", "te"),
    ]  # fmt: skip
    # 67 letters and spaces have 63 pieces, " now" adds four: 63 / 67
    assert removed[0].detail == "likeness 0.940"


def test_nothing_below_the_threshold_is_removed() -> None:
    removed: list[Removal] = []
    found = [find("a", "Write a poem about rain."), find("b", "Write a poem about snow.")]
    assert len(without_near_duplicates(found, 0.8, removed.append)) == 2
    assert without_near_duplicates(found, 0.5, removed.append) == found[:1]


def test_the_sketch_finds_what_comparing_all_pairs_finds() -> None:
    rng = Random(5)
    words = [f"word{number}" for number in range(50)]
    texts = [" ".join(rng.choices(words, k=30)) for _ in range(60)]
    texts += [" ".join([*text.split()[: rng.randint(24, 29)], "end"]) for text in texts]
    found = [find(str(number), text) for number, text in enumerate(texts)]
    pieces = [overlap._pieces(one.prompt.messages) for one in found]
    pairs = {(one, other) for one, other in combinations(range(120), 2) if likeness(pieces[one], pieces[other]) >= 0.8}
    removed: list[Removal] = []
    without_near_duplicates(found, 0.8, removed.append)
    assert len(pairs) > 20
    assert {(int(r.of), int(r.prompt_id)) for r in removed} == pairs


@needs_shared
def test_prompts_of_a_published_benchmark_are_all_found_in_themselves() -> None:
    path = SHARED / "alpaca_rankings.jsonl.gz"
    benchmarks = Benchmarks([str(path)], ngram=13)
    source = sources.resolved(Source(path=str(path), form="nectar"))
    found = [one for one in sources.found(source) if isinstance(one, Found)]
    assert (benchmarks.questions, len(found)) == (602, 602)
    assert clear_of_benchmarks(found, benchmarks, lambda removal: None) == []


@needs_shared
def test_published_prompts_that_quote_a_benchmark_are_found() -> None:
    files = [SHARED / "mt_bench" / "question.jsonl", SHARED / "alpaca_rankings.jsonl.gz"]
    benchmarks = Benchmarks([str(file) for file in files], ngram=13)
    source = sources.resolved(Source(path=str(SHARED / "nectar_sample.jsonl.gz")))
    found = [one for one in sources.found(source) if isinstance(one, Found)]
    removed: list[Removal] = []
    kept = clear_of_benchmarks(found, benchmarks, removed.append)
    assert (len(kept), [(r.prompt_id, r.of) for r in removed]) == (
        141, [("nectar_sample-52", "alpaca_rankings.jsonl.gz:217")],
    )  # fmt: skip
