"""Prompts, candidates and rankings as rows of a table."""

import math
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from small_road import write_lines

from starling import data_files, sources, tables, unusable
from starling.config import Source
from starling.errors import DataError
from starling.forms import Found
from starling.records import Candidate, Message, Prompt, Ranking

NECTAR = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: what is rain?\n\nAssistant: "
TURNS = [
    Message(role="user", content="hi"),
    Message(role="assistant", content="hello"),
    Message(role="user", content="what is rain?"),
]
QUESTION = [Message(role="user", content="what is rain?")]


def prompts_in(path: Path) -> list[Prompt]:
    return [one.prompt for one in sources.found(sources.resolved(Source(path=str(path)))) if isinstance(one, Found)]


def candidate(answer: str, **more) -> Candidate:
    return Candidate(prompt_id="p1", model=f"model of {answer}", draw=0, answer=answer, finished=True, **more)


def ranking(**more) -> Ranking:
    answers = [candidate("third", weakened=True), candidate("first", num_tokens=7), candidate("tied first")]
    settings = {
        "ranks": [3.0, 1.0, 1.0],
        "judge": "rubric",
        "template_hash": "abc",
        "orders": [[2, 0, 1]],
        "agreement": 0.5,
    }
    return Ranking(prompt_id="p1", messages=TURNS, answers=answers, source="starling", **(settings | more))


def test_parquet_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    prompt = Prompt(
        id="p1", messages=TURNS, family="rain", kind="facts", reference="wet", facts=[["water", "drops"], ["cloud"]],
        topic=["rain"], checks=[{"check": "includes", "words": ["wet"]}, {"check": "lowercase"}], good_natured=False,
    )  # fmt: skip
    data_files.write_parquet(tmp_path / "deep" / "p.parquet", [tables.prompt_row(prompt)], tables.PROMPTS)
    (row,) = data_files.read_rows(tmp_path / "deep" / "p.parquet")
    assert tables.prompt_from_row(row, "here") == prompt


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        data_files.write_parquet(tmp_path / f"{name}.parquet", [tables.ranking_row(ranking())], tables.RANKINGS)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_builtin_prompts_know_their_split_and_source() -> None:
    prompts = tables.builtin_prompts()
    assert {prompt.split for prompt in prompts} == {"train", "validation", "test"}
    assert {prompt.source for prompt in prompts} == {"starling"}


def test_a_users_prompts_get_ids_and_the_train_split(tmp_path: Path) -> None:
    rows = [{"prompt": "what is rain?"}, {"messages": TURNS, "id": "own", "split": "test"}]
    path = write_lines(tmp_path / "mine.jsonl", rows)
    first, second = prompts_in(path)
    assert (first.id, first.source, first.split, first.messages) == ("mine-1", "mine", "train", QUESTION)
    assert (second.id, second.source, second.split, second.messages) == ("own", "mine", "test", TURNS)


def test_a_users_prompt_with_an_empty_id_gets_one(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "mine.jsonl", [{"id": None, "source": None, "prompt": "what is rain?"}])
    assert [(prompt.id, prompt.source) for prompt in prompts_in(path)] == [("mine-1", "mine")]


def test_unknown_columns_of_a_prompt_are_passed_over(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "mine.jsonl", [{"prompt": "what is rain?", "stars": 5}])
    assert prompts_in(path)[0].messages == QUESTION


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "hi"}, "needs a column `messages` or `prompt`; found: .*text"),
        ({"messages": []}, "at least one turn"),
        ({"messages": "hi"}, "at least one turn"),
        ({"messages": [{"content": "hi"}]}, "needs a `role`"),
        ({"messages": [{"role": "user", "content": 5}]}, "needs a `role` and a text"),
        ({"messages": [{"role": "user", "content": "  "}]}, "the user's message is empty"),
        ({"messages": TURNS[:2]}, "the last message is the assistant's"),
        ({"prompt": ""}, "the user's message is empty"),
        ({"prompt": "hi", "split": "dev"}, "split is 'dev', not one of train, validation, test"),
        (
            {"messages": [{"role": "tool", "content": "5"}, *QUESTION]},
            "role 'tool' is not one of user, assistant, system",
        ),
        ({"prompt": "hi", "topic": "rain"}, "`topic` must be a list of texts"),
        ({"prompt": "hi", "facts": ["rain", "snow"]}, "`facts` must be a list of lists"),
        ({"prompt": "hi", "facts": 5}, "`facts` must be a list of lists"),
        ({"prompt": "hi", "checks": 5}, "`checks` must be a list of objects"),
        ({"prompt": "hi", "checks": ["lowercase"]}, "`checks` must be a list of objects"),
        ({"prompt": "hi", "checks": [{"check": "max_wrds", "n": 5}]}, "no check 'max_wrds'; did you mean 'max_words'"),
        ({"prompt": "hi", "checks": [{"check": "max_words"}]}, "check 'max_words' does not work with {}"),
        ({"prompt": "hi", "checks": [{"check": "max_words", "n": "five"}]}, "check 'max_words' does not work"),
        ({"prompt": "hi", "checks": [{"check": "max_words", "n": 0}]}, "check 'max_words' does not work"),
    ],
    ids=[
        "column",
        "none",
        "no list",
        "role",
        "no text",
        "blank",
        "last turn",
        "empty",
        "split",
        "tool",
        "topic",
        "facts",
        "no facts",
        "no checks",
        "no objects",
        "check",
        "no parameter",
        "parameter",
        "zero",
    ],
)
def test_a_prompt_that_cannot_be_asked_is_named(tmp_path: Path, row: dict, message: str) -> None:
    path = write_lines(tmp_path / "mine.jsonl", [{"prompt": "fine"}, row])
    with pytest.raises(DataError, match=rf"mine\.jsonl:2: .*{message}"):
        prompts_in(path)


def test_a_ranking_is_written_in_nectars_columns_best_answer_first(tmp_path: Path) -> None:
    data_files.write_parquet(tmp_path / "r.parquet", [tables.ranking_row(ranking())], tables.RANKINGS)
    (row,) = pq.read_table(tmp_path / "r.parquet").to_pylist()
    assert list(row)[:6] == ["prompt", "answers", "turns", "num_responses", "source", "good_natured"]
    assert row["prompt"] == NECTAR
    assert [(a["answer"], a["model"], a["rank"]) for a in row["answers"]] == [
        ("first", "model of first", 1.0),
        ("tied first", "model of tied first", 1.0),
        ("third", "model of third", 3.0),
    ]
    assert (row["turns"], row["num_responses"], row["source"], row["good_natured"]) == (2, 3, ["starling"], True)
    assert (row["judge"], row["template_hash"], row["orders"], row["agreement"]) == ("rubric", "abc", [[1, 2, 0]], 0.5)


def test_datasets_reads_a_ranking_as_nectar(tmp_path: Path) -> None:
    data_files.write_parquet(tmp_path / "r.parquet", [tables.ranking_row(ranking())], tables.RANKINGS)
    found = load_dataset("parquet", data_files=str(tmp_path / "r.parquet"), cache_dir=str(tmp_path / "cache"))["train"][
        0
    ]
    assert found["prompt"] == NECTAR
    assert [answer["rank"] for answer in found["answers"]] == [1.0, 1.0, 3.0]


def test_a_ranking_comes_back_best_answer_first(tmp_path: Path) -> None:
    data_files.write_parquet(tmp_path / "r.parquet", [tables.ranking_row(ranking(good_natured=False))], tables.RANKINGS)
    found = tables.ranking_from_row(data_files.read_rows(tmp_path / "r.parquet")[0], "here")
    assert found.ranks == [1.0, 1.0, 3.0]
    assert [answer.answer for answer in found.answers] == ["first", "tied first", "third"]
    assert [answer.num_tokens for answer in found.answers] == [7, 0, 0]
    assert [answer.weakened for answer in found.answers] == [False, False, True]
    assert (found.prompt_id, found.messages, found.judge, found.good_natured) == ("p1", TURNS, "rubric", False)
    assert (found.source, found.orders, found.agreement) == ("starling", [[1, 2, 0]], 0.5)


def test_a_row_of_nectar_itself_is_a_ranking() -> None:
    row = {
        "prompt": NECTAR, "turns": 2, "num_responses": 2, "source": ["lmsys"], "good_natured": True,
        "answers": [{"answer": "wet", "model": "a", "rank": 1.0}, {"answer": "dry", "model": "b", "rank": 2.0}],
    }  # fmt: skip
    found = tables.ranking_from_row(row, "nectar:1")
    assert (found.prompt_id, found.messages, found.ranks) == ("nectar:1", TURNS, [1.0, 2.0])
    assert all(answer.finished for answer in found.answers)
    assert (found.source, found.orders, found.agreement) == ("lmsys", (), None)


def test_answers_and_ranks_in_two_lists_are_a_ranking() -> None:
    found = tables.ranking_from_row({"prompt": "hi", "answers": ["dry", "wet"], "ranks": [2, 1]}, "here")
    assert [answer.answer for answer in found.answers] == ["dry", "wet"] and found.ranks == [2, 1]


@pytest.mark.parametrize("ranks", [[1, 2, 0, 0], [1, 2, None, None], [1.0, 2.0, 0.0, 0]], ids=str)
def test_an_answer_whose_place_is_not_known_stands_below_all_that_have_one(ranks: list) -> None:
    found = tables.ranking_from_row({"prompt": "hi", "answers": list("abcd"), "ranks": ranks}, "here")
    assert (found.ranks, found.num_placed) == ([1, 2, math.inf, math.inf], 2)
    entries = [{"answer": text, "rank": rank} for text, rank in zip("abcd", ranks, strict=True)]
    assert tables.ranking_from_row({"prompt": "hi", "answers": entries}, "here").ranks == found.ranks


def test_one_answer_alone_without_a_place_is_null() -> None:
    found = tables.ranking_from_row({"prompt": "hi", "answers": list("abc"), "ranks": [2, None, 1]}, "here")
    assert found.ranks == [2, math.inf, 1]


def test_a_place_that_is_not_known_is_written_as_null_and_last_and_comes_back(tmp_path: Path) -> None:
    row = tables.ranking_row(ranking(ranks=[0, 2, 1]))
    assert [(answer["answer"], answer["rank"]) for answer in row["answers"]] == [
        ("tied first", 1.0), ("first", 2.0), ("third", None),
    ]  # fmt: skip
    data_files.write_parquet(tmp_path / "r.parquet", [row], tables.RANKINGS)
    assert tables.ranking_from_row(data_files.read_rows(tmp_path / "r.parquet")[0], "here").ranks == [1, 2, math.inf]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "hi", "answers": ["a", "b"], "ranks": [1]}, "one rank for each of the 2 answers"),
        ({"prompt": "hi", "answers": ["a", "b"], "ranks": [1, "2"]}, "answer 1 needs.*found: rank '2'"),
        ({"prompt": "hi"}, "a ranking needs `prompt` and `answers`.*found: prompt"),
        ({"prompt": "hi", "answers": [{"answer": "a", "rank": 0}]}, "no answer has a `rank` of 1 or more"),
        ({"prompt": "hi", "answers": ["a", "b"], "ranks": [None, 0]}, "no answer has a `rank` of 1 or more"),
        ({"prompt": "hi", "answers": ["a", "b", "c"], "ranks": [0, 1, 2]}, "one answer alone has rank 0; .* add 1 to"),
        ({"prompt": "hi", "answers": ["a", "b", "c"], "ranks": [0, 0, 2]}, "have rank 0 and none has rank 1; .* add 1"),
        ({"prompt": "hi", "answers": ["a", "b"], "ranks": [1, 0.5]}, "answer 1 needs.*found: rank 0.5"),
        ({"prompt": "hi", "answers": [{"answer": "a"}, {"answer": "b", "rank": 1}]}, "answer 0 needs.*found: answer"),
        ({"prompt": "hi", "answers": [{"answer": "a", "rank": True}]}, "answer 0 needs"),
        ({"prompt": "hi", "answers": [{"answer": "a", "rank": math.nan}]}, "answer 0 needs"),
        ({"prompt": "hi", "answers": [{"answer": "a", "rank": 1}, {"answer": 5, "rank": 2}]}, "answer 1 needs"),
        ({"prompt": "hi", "chosen": "a", "rejected": [{"role": "assistant", "content": "b"}]}, "both be texts or both"),
        ({"prompt": "hi", "chosen": [], "rejected": []}, "both be texts or both"),
        ({"prompt": "", "chosen": "a", "rejected": "b"}, "message is empty"),
    ],
    ids=[
        "one rank short",
        "rank as text",
        "no answers",
        "zero",
        "none known",
        "counted from 0",
        "two tied at 0",
        "between",
        "no rank",
        "bool",
        "nan",
        "no text",
        "text and list",
        "empty lists",
        "no prompt",
    ],
)
def test_a_row_that_is_no_ranking_is_named(row: dict, message: str) -> None:
    with pytest.raises(DataError, match=rf"mine:3: .*{message}"):
        tables.ranking_from_row(row, "mine:3")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("agreement", math.nan, "is nan, not a number from 0 to 1"),
        ("agreement", 1.01, "is 1.01, not a number from 0 to 1"),
        ("agreement", -0.1, "is -0.1, not a number from 0 to 1"),
        ("agreement", True, "is True, not a number from 0 to 1"),
        ("agreement", "high", "is 'high', not a number from 0 to 1"),
        ("self_agreement", -1.5, "is -1.5, not a number from -1 to 1"),
        ("self_agreement", math.nan, "is nan, not a number from -1 to 1"),
    ],
)
def test_an_agreement_that_is_none_is_named(key: str, value: object, message: str) -> None:
    with pytest.raises(DataError, match=rf"^mine:3: `{key}` {message}"):
        tables.ranking_from_row({"prompt": "hi", "chosen": "a", "rejected": "b", key: value}, "mine:3")


def test_the_ends_of_an_agreement_are_agreements() -> None:
    row = {"prompt": "hi", "chosen": "a", "rejected": "b"}
    for told in ({"agreement": 0, "self_agreement": -1}, {"agreement": 1, "self_agreement": 1}, {"agreement": None}):
        found = tables.ranking_from_row(row | told, "here")
        assert {key: getattr(found, key) for key in told} == told


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mine.jsonl", b"\xff\xfe{}\n"),
        ("mine.jsonl.gz", b"not compressed"),
        ("mine.jsonl", b'{"prompt": "hi", "checks": "oops"}\n'),
    ],
    ids=["encoding", "compression", "checks"],
)
def test_damaged_prompts_are_a_plain_error(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"{re.escape(name)}:1: "):
        prompts_in(tmp_path / name)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "hi", "answers": ["a", "b"]},
        {"prompt": "hi", "answers": [{"answer": "a", "rank": 1, "num_tokens": "many"}]},
        {"prompt": "hi", "answers": [{"answer": "a", "rank": 1, "num_tokens": math.nan}]},
        {"prompt": ["hi"], "chosen": "a", "rejected": "b"},
        {"prompt": 5, "answers": [{"answer": "a", "rank": 1}]},
        {"prompt": "hi", "chosen": ["a"], "rejected": ["b"]},
        {"prompt": "hi", "chosen": [{"role": "assistant"}], "rejected": [{"role": "assistant"}]},
    ],
    ids=[
        "answers are texts",
        "count is text",
        "count is nan",
        "prompt list",
        "prompt number",
        "text list",
        "no content",
    ],
)
def test_damaged_rankings_are_a_plain_error(row: dict) -> None:
    with pytest.raises(DataError, match=r"^mine:1: .*$"):
        tables.ranking_from_row(row, "mine:1")


def test_a_numeric_id_becomes_text(tmp_path: Path) -> None:
    (prompt,) = prompts_in(write_lines(tmp_path / "mine.jsonl", [{"id": 5, "prompt": "hi"}]))
    assert prompt.id == "5"


def test_checks_of_a_table_lose_the_parameters_that_other_rows_have(tmp_path: Path) -> None:
    checks = [{"check": "lowercase", "n": None}]
    (prompt,) = prompts_in(write_lines(tmp_path / "mine.jsonl", [{"prompt": "hi", "checks": checks}]))
    assert prompt.checks == [{"check": "lowercase"}]


@pytest.mark.parametrize("rank", [float("inf"), 10**400], ids=["infinite", "huge"])
def test_a_rank_that_is_no_place_is_refused(rank: float) -> None:
    row = {"prompt": "a", "answers": [{"answer": "x", "rank": rank}, {"answer": "y", "rank": 1}]}
    with pytest.raises(DataError, match="answer 0 needs a text `answer` and a `rank`"):
        tables.ranking_from_row(row, "x")


def test_a_rankings_calls_come_back_and_a_table_without_that_column_has_none(tmp_path: Path) -> None:
    row = tables.ranking_row(ranking(calls=["ab", "cd"]))
    data_files.write_parquet(tmp_path / "new.parquet", [row], tables.RANKINGS)
    old = tables.RANKINGS.remove(tables.RANKINGS.get_field_index("calls"))
    data_files.write_parquet(tmp_path / "old.parquet", [{k: v for k, v in row.items() if k != "calls"}], old)
    found = [
        tables.ranking_from_row(data_files.read_rows(tmp_path / f"{age}.parquet")[0], age) for age in ("new", "old")
    ]
    assert [list(one.calls) for one in found] == [["ab", "cd"], []]


def test_an_answer_that_is_null_is_none_and_the_others_stay() -> None:
    for answers in (["a", None, "b"], [{"answer": text} for text in ("a", None, "b")]):
        found = tables.ranking_from_row({"prompt": "hi", "answers": answers, "ranks": [1, None, 2]}, "here")
        kept, notes = unusable.cleaned(found)
        assert [answer.answer for answer in kept.answers] == ["a", "b"]
        assert [note["reason"] for note in notes] == ["empty"]


def test_one_value_says_of_all_answers_whether_they_were_finished() -> None:
    for row in ({"answers": ["a", "b"], "ranks": [1, 2]}, {"chosen": "a", "rejected": "b"}):
        for finished in (True, False):
            found = tables.ranking_from_row({"prompt": "hi", "finished": finished} | row, "here")
            assert [answer.finished for answer in found.answers] == [finished] * 2
