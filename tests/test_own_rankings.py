"""Which rows of the user's own files are rankings, and what becomes of those that are none."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from own_rows import WORDS, pair_rows, settings
from safetensors.torch import load_file, save_file
from small_road import write_lines

from starling import data_files, models, own_files, packing, tables
from starling.at_work import alone
from starling.errors import DataError, ModelError, StarlingError, UsageError


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rankings in .*rankings.jsonl"),
        ([{"question": "a", "reply": "b"}], "rankings.jsonl:1: a ranking needs .*found: question, reply"),
        (
            [{"prompt": "a?", "answers": [{"answer": "b", "rank": 1}]}],
            "none of 1 rankings to train on can be used.*fewer than two answers",
        ),
        ([{"prompt": " ", "chosen": "a", "rejected": "b"}], "rankings.jsonl:1: the user's message is empty"),
        ([{"prompt": "rain " * 600, "chosen": "a", "rejected": "b"}], "takes .* tokens, fit.max_tokens .* allows 512"),
    ],
    ids=["empty file", "wrong column", "one answer", "empty prompt", "beyond the window"],
)
def test_rankings_that_cannot_train_are_named(tiny_model: Path, tmp_path: Path, rows: list[dict], message: str) -> None:
    source = write_lines(tmp_path / "rankings.jsonl", rows)
    with pytest.raises(DataError, match=message):
        own_files.fit(settings(), [source], str(tiny_model), tmp_path / "out", 0.0)
    assert not (tmp_path / "out").exists()
    write_lines(source, pair_rows())
    assert own_files.fit(settings(), [source], str(tiny_model), tmp_path / "out", 0.0)["rankings"] == 12


def test_rows_that_are_no_rankings_are_listed_and_the_rest_is_used(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = [{"answer": "yes", "rank": 1}, {"answer": "no", "rank": 2}]
    bad = [{"prompt": "rain?", "answers": [answers[0], {"answer": "no", "rank": rank}]} for rank in (0, -1, "2", 0.5)]
    asked, says = [{"role": "user", "content": "rain?"}], [{"role": "assistant", "content": "yes"}]
    wrong = [
        *bad,
        {"chosen": [*asked, *says], "rejected": [*asked, *says, *asked, *says]},
        {"prompt": "rain?", "answers": answers[:1]},
        {"prompt": "rain?", "answers": [*answers, answers[1] | {"rank": 3}]},
    ]
    source = write_lines(tmp_path / "mine.jsonl", [*pair_rows(), *wrong])
    facts = own_files.fit(settings(), [source], str(tiny_model), tmp_path / "out", 0.0)
    assert (facts["rankings"], facts["unread"]) == (13, 5)
    assert facts["unusable"] == {"fewer than two answers": 1}
    assert facts["answers_left_out"] == {"a copy of another that has another rank": 1}
    listed = data_files.read_rows(tmp_path / "out" / "unusable.jsonl")
    assert [(line["where"], line["what"]) for line in listed] == [
        *((f"{source}:{row}", "ranking") for row in range(13, 19)), (f"{source}:19", "answer"),
    ]  # fmt: skip
    assert "one answer alone has rank 0" in listed[0]["detail"]
    assert [line["detail"].rpartition("found: ")[2] for line in listed[1:4]] == [
        "rank -1",
        "rank '2'",
        "rank 0.5",
    ]
    assert "differ before the last message" in listed[4]["detail"]
    said = " ".join("".join(capsys.readouterr()).split())
    assert "fit: 5 of 19 rows are no rankings" in said and "rank 0" in said


def test_ranks_that_look_like_marks_are_told(tiny_model: Path, tmp_path: Path, capsys) -> None:
    marks = [{"answer": "good", "rank": 9.5}, {"answer": "bad", "rank": 2.0}]
    rows = [*pair_rows(), {"prompt": "rain?", "answers": marks}]
    source = write_lines(tmp_path / "mine.jsonl", rows)
    own_files.fit(settings(), [source], str(tiny_model), tmp_path / "out", 0.0)
    said = " ".join("".join(capsys.readouterr()).split())
    assert f"fit: in 1 of {len(rows)} rankings no answer has rank 1, as where they are a part of longer ones" in said
    for ranks, odd in (((9.5, 2), True), ((2, 2, 2), False), ((2.5,) * 4, False), ((1, 1, 4), False), ((3, 5), True)):
        assert own_files._seem_marks(ranks) == odd, ranks
    assert f"{source}:{len(rows)}; 1 is best: marks, where more is better" in said


def test_every_ranking_that_is_too_long_is_counted(tiny_model: Path, tmp_path: Path) -> None:
    long = [{"prompt": "rain " * 600, "chosen": "a", "rejected": "b"}] * 3
    source = write_lines(tmp_path / "mine.jsonl", [*pair_rows(), *long])
    with pytest.raises(DataError, match=r"takes .* tokens, .*\(and 2 others of \d+ are too long\)"):
        own_files.fit(settings(), [source], str(tiny_model), tmp_path / "out", 0.0)


def test_rankings_of_the_best_answers_alone_are_learnt_and_tested(tiny_model: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"{WORDS[n]} {n}?", "answers": [f"{word} {n}" for word in WORDS[:4]], "ranks": ranks}
        for n, ranks in enumerate([[1, 2, 0, 0], [0, 1, 0, 0], [None, 2, 1, None], [3, 1, 2, None]] * 2)
    ]
    source = write_lines(tmp_path / "mine.jsonl", rows)
    facts = own_files.fit(settings(), [source], str(tiny_model), tmp_path / "out", 0.5)
    assert facts["unread"] == 0 and facts["unusable"] == {}
    # every pair but that of two answers without a place: 5, 3, 5 and 6
    _train, held_out = own_files.split([tables.ranking_from_row(row, "here") for row in rows], 0.5)
    pairs = {2: 5, 1: 3, 3: 6}
    assert facts["held_out"]["scores"][0]["n"] == sum(pairs[told.num_placed] for told in held_out) > 0
    assert "answers have no place: they count as below" in (tmp_path / "out" / "README.md").read_text()


def test_a_data_set_in_folders_and_a_table_of_pairs_are_read_too(tiny_model: Path, tmp_path: Path) -> None:
    """As `datasets` lays one out, and as it reads one by name from the Hub."""
    (tmp_path / "set" / "data").mkdir(parents=True)
    rows = pair_rows()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "set" / "data" / "train-00000-of-00001.parquet")
    of_set = own_files.fit(settings(), [tmp_path / "set"], str(tiny_model), tmp_path / "out", 0.0)
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(
        "prompt,chosen,rejected\n" + "".join(f"{r['prompt']},{r['chosen']},{r['rejected']}\n" for r in rows)
    )
    of_table = own_files.fit(settings(), [pairs], str(tiny_model), tmp_path / "csv", 0.0)
    assert of_set["rankings"] == of_table["rankings"] == 12
    requests = [json.loads((tmp_path / name / "fit.json").read_text())["request"] for name in ("out", "csv")]
    (named,), (table,) = (request["rankings"] for request in requests)
    assert (named["name"], table["name"]) == ("set", "pairs.csv")
    assert own_files.score(str(tmp_path / "out"), pairs, tmp_path / "scored.jsonl") == 12


def test_columns_of_another_meaning_beside_chosen_and_rejected_are_passed_over(
    tiny_model: Path, tmp_path: Path
) -> None:
    odd: list[dict] = [{"answers": 7}, {"ranks": 5}, {"ranks": "x"}, {"orders": [[{"id": 1}]]}, {"orders": 3}]
    rows = [row | odd[number % len(odd)] for number, row in enumerate(pair_rows())]
    source = write_lines(tmp_path / "rankings.jsonl", rows)
    assert own_files.fit(settings(), [source], str(tiny_model), tmp_path / "out", 0.0)["rankings"] == 12


def test_no_rank_0_is_an_unknown_place_in_a_file_where_ranks_count_from_it(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # [0, 0, 1] may be the best alone or two tied at the top: the file's other rows tell
    ranks = [[0, 0, 1], [1, 2, 3], [None, 1, 2], [0, 1, 2], [1, 0, 0]]
    rows = [{"prompt": f"{WORDS[n]} {n}?", "answers": list("abc"), "ranks": row} for n, row in enumerate(ranks)]
    mixed = write_lines(tmp_path / "mixed.jsonl", rows)
    facts = own_files.fit(settings(), [mixed], str(tiny_model), tmp_path / "out", 0.0)
    assert (facts["rankings"], facts["unread"]) == (2, 3)
    listed = data_files.read_rows(tmp_path / "out" / "unusable.jsonl")
    assert sorted(line["where"] for line in listed) == [f"{mixed}:{row}" for row in (1, 4, 5)]
    why = f"there is a rank 0, and at {mixed}:4 ranks seem to count from 0"
    assert [line["detail"].partition(";")[0] for line in listed[1:]] == [f"{mixed}:{row}: {why}" for row in (1, 5)]
    sure = write_lines(tmp_path / "sure.jsonl", rows[:3] + rows[4:])
    assert own_files.fit(settings(), [sure], str(tiny_model), tmp_path / "sure", 0.0)["unread"] == 0


def test_an_answer_that_was_cut_is_fitted_as_cut_wherever_its_row_says_so() -> None:
    entries = [{"answer": "yes", "rank": 2, "finished": False}, {"answer": "no", "rank": 1}]
    rows = [
        {"prompt": "rain?", "answers": entries},
        {"prompt": "rain?", "answers": ["yes", "no"], "ranks": [2, 1], "finished": [False, True]},
        {
            "prompt": "rain?",
            "answers": [{"answer": "yes"}, {"answer": "no"}],
            "ranks": [2, 1],
            "finished": [False, None],
        },
        {"prompt": "rain?", "answers": entries, "finished": [True, True]},  # what the answer says itself stays
    ]
    for row in rows:
        found = tables.ranking_from_row(row, "here")
        assert [(a.answer, a.finished) for a in found.answers] == [("yes", False), ("no", True)]
        assert list(found.ranks) == [2.0, 1.0]
    pair = tables.ranking_from_row({"prompt": "rain?", "chosen": "a", "rejected": "b", "finished": [True, False]}, "x")
    assert [answer.finished for answer in pair.answers] == [True, False]
    with pytest.raises(DataError, match="x: `finished` must be a list of one finished for each of the 2 answers"):
        tables.ranking_from_row(rows[1] | {"finished": [True]}, "x")


def test_a_table_of_rankings_and_pairs_has_columns_that_are_null(tmp_path: Path) -> None:
    answers = [{"answer": "yes", "rank": 1.0}, {"answer": "no", "rank": 2.0}]
    rows = [
        {"prompt": "rain?", "answers": answers, "chosen": None, "rejected": None},
        {"prompt": "rain?", "answers": None, "chosen": "yes", "rejected": "no"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "both.parquet")
    found, unread = own_files._read_one(tmp_path / "both.parquet")
    assert [[answer.answer for answer in one.answers] for one in found] == [["yes", "no"]] * 2
    assert unread == []


def test_a_row_of_a_folder_is_named_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    write_lines(tmp_path / "rows" / "a.jsonl", pair_rows())
    second = write_lines(tmp_path / "rows" / "b.jsonl", [*pair_rows()[:1], {"question": "a"}])
    found, unread = own_files._read_one(tmp_path / "rows")
    assert [line["where"] for line in unread] == [f"{second}:2"]
    assert found[-1].where == f"{second}:1"


def test_rows_that_are_no_rankings_are_listed_though_the_rest_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    source = write_lines(
        tmp_path / "mine.jsonl", [{"question": "a"}, {"prompt": "rain " * 600, "chosen": "a", "rejected": "b"}]
    )
    with pytest.raises(DataError, match=r"takes .* tokens"):
        own_files.fit(settings(), [source], str(tiny_model), tmp_path / "out", 0.0)
    (line,) = data_files.read_rows(tmp_path / "out.partial" / "unusable.jsonl")
    assert line["where"] == f"{source}:1"


def test_texts_without_ranks_say_what_they_lack(tmp_path: Path, tiny_model: Path) -> None:
    source = write_lines(tmp_path / "mine.jsonl", [{"prompt": "rain?", "answers": ["yes", "no"]}])
    with pytest.raises(DataError, match=r"is a text alone, so the row needs `ranks`"):
        own_files.fit(settings(), [source], str(tiny_model), tmp_path / "out", 0.0)


def test_where_nothing_falls_into_the_held_out_share_it_is_told(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_lines(tmp_path / "mine.jsonl", pair_rows(3))
    own_files.fit(settings(), [source], str(tiny_model), tmp_path / "out", 1e-9)
    assert "none of 3 rankings fell into the held-out share" in " ".join(capsys.readouterr().out.split())


def test_a_folder_is_locked_while_what_a_failed_fit_left_in_it_goes(tmp_path: Path) -> None:
    with alone(tmp_path / "work"):
        write_lines(tmp_path / "work" / "left.jsonl", [{}])
        (tmp_path / "work" / "request.json").write_text('{"seed": 1}')
        own_files._claim(tmp_path / "work", {"seed": 2})
        assert [path.name for path in (tmp_path / "work").iterdir()] == ["request.json"]
        with pytest.raises(UsageError, match="at work"), alone(tmp_path / "work"):
            raise AssertionError


def test_a_model_with_broken_weights_is_not_blamed_on_the_rate(tmp_path: Path, tiny_model: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    weights = load_file(broken / "model.safetensors")
    weights = {name: torch.full_like(weight, torch.nan) for name, weight in weights.items()}
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    source = write_lines(tmp_path / "mine.jsonl", pair_rows())
    with pytest.raises(StarlingError, match="before anything was learnt: its weights are broken"):
        own_files.fit(settings(), [source], str(broken), tmp_path / "out", 0.0)


def test_a_token_without_an_embedding_is_told(tmp_path: Path, tiny_model: Path) -> None:
    model = models.new_reward_model(str(tiny_model))
    with pytest.raises(ModelError, match=r"writes token 9,999,999, and LlamaModel has embeddings of"):
        packing.hidden_states(model.network.base_model, packing.pack([([9_999_999], [[1]])]))
