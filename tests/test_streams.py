"""Prompts and answers shard by shard."""

from pathlib import Path

import pytest

from starling import config, data_files, streams, tables
from starling.store import Run
from starling.streams import Answers

RECIPE = '[[sample.generators]]\nname = "a"\n[[sample.generators]]\nname = "b"\n'


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Ten prompts, of which one of three is for validation; p0 to p6 have two answers, p7 has three, p8 and p9 none."""
    (tmp_path / "r.toml").write_text(RECIPE)
    run = Run.open(tmp_path / "run", config.load(tmp_path / "r.toml"))
    rows = [
        tables.prompt_row(
            tables.prompt_from_row(
                {"id": f"p{one}", "prompt": f"ask {one}", "split": "validation" if one % 3 == 0 else "train"}, "here"
            )
        )
        for one in range(10)
    ]
    data_files.write_parquet(run.folder("prompts") / "00000.parquet", rows, tables.PROMPTS)
    for name, draw, ids in (("b-0", 1, range(4)), ("b-1", 1, range(4, 8)), ("a-0", 0, range(8)), ("c-0", 2, [7])):
        answers = [
            {"prompt_id": f"p{one}", "model": name[0], "draw": draw, "answer": f"{name} {one}", "finished": one != 2,
             "weakened": False, "seed": 0, "num_tokens": 3}
            for one in ids
        ]  # fmt: skip
        data_files.write_parquet(run.folder("sample") / f"{name}.parquet", answers, tables.CANDIDATES)
    return run


def test_answers_of_a_table_that_is_older_than_ranks_have_none(run: Run) -> None:
    older = tables.CANDIDATES.remove(tables.CANDIDATES.get_field_index("rank"))
    row = {"prompt_id": "p9", "model": "a", "draw": 0, "answer": "old", "finished": True, "num_tokens": 3}
    data_files.write_parquet(run.folder("sample") / "a-1.parquet", [row], older)
    (prompt,) = (one for one in tables.prompts_of(run, "validation") if one.id == "p9")
    (answer,) = streams.Shelf(run.folder("sample")).read([prompt])["p9"]
    assert (answer.answer, answer.rank) == ("old", None)


def test_prompts_come_in_the_tables_order(run: Run) -> None:
    assert list(tables.stream_prompts(run, "train", "validation")) == tables.prompts_of(run, "train", "validation")
    assert [prompt.id for prompt in tables.stream_prompts(run, "validation")] == ["p0", "p3", "p6", "p9"]


def test_a_shard_holds_prompts_of_one_number_of_answers_in_whole_blocks(run: Run) -> None:
    answers = Answers(run)
    assert len(answers) == 8
    # 3 is rounded up to 4 for two answers, and stays 3 for three
    assert [[prompt.id for prompt, _ in shard] for shard in answers.shards(3)] == [
        ["p7"],
        ["p0", "p1", "p2", "p3"],
        ["p4", "p5", "p6"],
    ]


def test_answers_stand_in_the_order_of_their_draws(run: Run) -> None:
    found = {prompt.id: [a.answer for a in answers] for shard in Answers(run).shards(100) for prompt, answers in shard}
    assert found["p7"] == ["a-0 7", "b-1 7", "c-0 7"]
    assert found["p1"] == ["a-0 1", "b-0 1"]


def test_answers_that_were_left_out_are_not_there(run: Run) -> None:
    rows = [{"prompt_id": "p7", "draw": 1}, {"prompt_id": "p1", "draw": 0}, {"prompt_id": "p1", "draw": 1}]
    listed = [row | {"model": "", "reason": "same_text"} for row in [*rows, {"prompt_id": "p9", "draw": None}]]
    data_files.write_jsonl(run.folder("sample") / tables.LEFT_OUT, listed)
    answers = Answers(run)
    assert (len(answers), answers.sizes()) == (7, {2: 7})
    found = {prompt.id: [a.answer for a in own] for shard in answers.shards(100) for prompt, own in shard}
    assert found["p7"] == ["a-0 7", "c-0 7"]
    assert "p1" not in found


def test_answers_that_came_with_the_prompts_are_read_prompt_by_prompt(run: Run) -> None:
    assert streams.brought(run).count == {}
    for number, ids in enumerate((["p1", "p1", "p2"], ["p5"])):
        rows = [
            {"prompt_id": one, "model": "m", "draw": draw, "answer": f"{one} {draw}", "finished": True}
            for draw, one in enumerate(ids)
        ]
        path = run.folder("prompts") / "answers" / f"{number:05d}.parquet"
        data_files.write_parquet(path, rows, tables.CANDIDATES)
    shelf = streams.brought(run)
    assert shelf.count == {"p1": 2, "p2": 1, "p5": 1}
    found = shelf.read(tables.stream_prompts(run, "train", "validation"))
    assert {one: [a.answer for a in own] for one, own in found.items()} == {
        "p1": ["p1 0", "p1 1"], "p2": ["p2 2"], "p5": ["p5 0"],
    }  # fmt: skip


def test_batches_end_with_a_shorter_one() -> None:
    assert list(streams.batches(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(streams.batches([], 2)) == []
