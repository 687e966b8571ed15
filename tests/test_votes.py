"""Votes in SQLite, and as rankings that `fit` reads."""

import sqlite3
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from starling import data_files, own_files, tables, votes
from starling.errors import DataError, StarlingError
from starling.records import Message
from starling.votes import Vote, Votes, Winner


def conversation(*texts: str) -> list[Message]:
    return [Message(role=("user", "assistant")[index % 2], content=text) for index, text in enumerate(texts)]


def vote(battle: str, winner: Winner = "model_a", turns: int = 1) -> Vote:
    more = ["and?", "so."] * (turns - 1)
    return Vote(
        battle=battle, time=votes.now(), voter="someone", prompt=f"Why {battle}?", model_a="x", model_b="y",
        conversation_a=conversation(f"Why {battle}?", "because", *more), finished_a=True,
        conversation_b=conversation(f"Why {battle}?", "no", *more), finished_b=False, winner=winner,
    )  # fmt: skip


def test_votes_come_back_as_they_were_cast_while_the_file_is_open(tmp_path: Path) -> None:
    cast = [vote("one"), vote("two", "tie (bothbad)", turns=2)]
    with Votes(tmp_path / "votes.sqlite") as kept:
        assert [kept.add(each) for each in cast] == [True, True]
        assert votes.read(kept.path) == cast
        assert kept.count() == 2
    with Votes(tmp_path / "votes.sqlite") as again:
        assert again.count() == 2
        again.add(vote("three"))
    assert len(votes.read(tmp_path / "votes.sqlite")) == 3


def test_a_second_vote_on_a_battle_is_not_taken(tmp_path: Path) -> None:
    with Votes(tmp_path / "votes.sqlite") as kept:
        assert kept.add(vote("one", "model_a"))
        assert not kept.add(vote("one", "model_b"))
        assert [each.winner for each in votes.read(kept.path)] == ["model_a"]


def test_threads_may_vote_at_the_same_time(tmp_path: Path) -> None:
    with Votes(tmp_path / "votes.sqlite") as kept:
        voters = [
            threading.Thread(target=lambda n=n: [kept.add(vote(f"{n}-{i}")) for i in range(20)]) for n in range(4)
        ]
        for voter in voters:
            voter.start()
        for voter in voters:
            voter.join()
        assert kept.count() == 80


def test_the_file_is_in_wal_mode_and_a_winner_must_be_one(tmp_path: Path) -> None:
    with Votes(tmp_path / "votes.sqlite") as kept:
        with pytest.raises(DataError, match="cannot be kept"):
            kept.add(replace(vote("one"), winner="everybody"))  # type: ignore[arg-type]  # what the test is about
        with sqlite3.connect(kept.path) as db:
            assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        db.close()


@pytest.mark.parametrize("content", [b"", b"garbage" * 500], ids=["cut", "damaged"])
def test_a_damaged_file_is_told_in_a_line_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "votes.sqlite"
    path.write_bytes(b"SQLite format 3\x00" + content)
    for use in (Votes, votes.read, votes.holds):
        with pytest.raises(DataError, match=r"votes\.sqlite: cannot be read: "):
            use(path)
    assert path.read_bytes() == b"SQLite format 3\x00" + content
    with pytest.raises(StarlingError, match=r"making .* failed"):
        Votes(path / "below" / "votes.sqlite")


def test_another_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "other.sqlite") as db:
        db.execute("CREATE TABLE mine (a)")
    db.close()
    (tmp_path / "text").write_text("hello")
    for name in ("other.sqlite", "text"):
        before = (tmp_path / name).read_bytes()
        with pytest.raises(DataError, match="not a file of votes"):
            Votes(tmp_path / name)
        with pytest.raises(DataError, match="not a file of votes"):
            votes.read(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before
    with pytest.raises(DataError, match="there is no such file"):
        votes.export(tmp_path / "none", tmp_path / "out.jsonl")


def test_votes_leave_as_rankings_that_fit_reads_and_later_turns_are_counted(tmp_path: Path) -> None:
    path, out = tmp_path / "votes.sqlite", tmp_path / "rankings.jsonl"
    with Votes(path) as kept:
        for each in (vote("one"), vote("two", "model_b"), vote("three", "tie"), vote("four", turns=2)):
            kept.add(each)
    facts = votes.export(path, out)
    assert (facts["votes"], facts["rankings"], facts["left_out"]) == (4, 3, {"after two turns": 1})
    rankings = [tables.ranking_from_row(row, "row") for row in data_files.read_rows(out)]
    assert [[(a.model, a.answer, rank) for a, rank in zip(r.answers, r.ranks, strict=True)] for r in rankings] == [
        [("x", "because", 1.0), ("y", "no", 2.0)],
        [("y", "no", 1.0), ("x", "because", 2.0)],
        [("x", "because", 1.0), ("y", "no", 1.0)],
    ]
    assert [r.messages for r in rankings] == [conversation(f"Why {name}?") for name in ("one", "two", "three")]
    assert [[a.finished for a in r.answers] for r in rankings] == [[True, False], [False, True], [True, False]]
    assert {r.judge for r in rankings} == {"people"}
    train, unread = own_files._read([out])
    assert (len(train), unread) == (3, [])


def test_votes_without_an_answer_to_one_prompt_make_no_rankings(tmp_path: Path) -> None:
    with Votes(tmp_path / "votes.sqlite") as kept:
        kept.add(vote("one", turns=2))
    with pytest.raises(DataError, match="none of the 1 votes"):
        votes.export(tmp_path / "votes.sqlite", tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_start_that_was_cut_is_no_hindrance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Cut(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            if "journal_mode" in sql:
                super().execute(sql)  # what it writes stands, and nothing after it
                raise sqlite3.OperationalError("cut")
            return super().execute(sql, *values)

    whole = sqlite3.connect
    with monkeypatch.context() as patched:
        patched.setattr(sqlite3, "connect", lambda *args, **more: whole(*args, **more, factory=Cut))
        with pytest.raises(DataError, match="cut"):
            Votes(tmp_path / "votes.sqlite")
    with Votes(tmp_path / "votes.sqlite") as votes:
        assert votes.count() == 0
