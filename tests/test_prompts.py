"""prompts: sources in, one table of three splits out."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from small_road import prompt_rows, recipe, write_lines

from starling import config, data_files, tables
from starling.errors import DataError
from starling.forms import Found
from starling.records import Message, Prompt
from starling.stages import prompts
from starling.store import Run

QUESTION = "how many legs does a table with two drawers have?"


def prompt(identity: str, family: str = "") -> Prompt:
    return Prompt(id=identity, messages=[Message(role="user", content="?")], family=family)


def start(folder: Path, tiny_model: Path, **changes) -> Run:
    return Run.open(folder / "run", config.load(recipe(folder, tiny_model, **changes)))


def with_rows(folder: Path, tiny_model: Path, rows: list[dict], **changes) -> Run:
    path = write_lines(folder / "mine.jsonl", rows)
    return start(folder, tiny_model, prompts__sources=[str(path)], **changes)


def test_spread_takes_one_of_each_family_in_turn() -> None:
    found = prompts.spread([prompt(f"{family}{at}", family) for family in "abc" for at in range(4)], 8, seed=1)
    assert len({one.id for one in found}) == 8
    families = [one.family for one in found]
    assert sorted(families[:3]) == sorted(families[3:6]) == ["a", "b", "c"]
    assert len(set(families[6:])) == 2


def test_spread_goes_on_with_the_families_that_are_left() -> None:
    found = prompts.spread([prompt("a1", "a"), *(prompt(f"b{at}", "b") for at in range(3))], 9, seed=1)
    assert Counter(one.family for one in found) == {"a": 1, "b": 3}
    assert [one.family for one in found[2:]] == ["b", "b"]


def test_prompts_without_a_family_are_families_of_their_own() -> None:
    found = prompts.spread([prompt("x"), prompt("y"), *(prompt(f"b{at}", "b") for at in range(9))], 3, seed=1)
    assert {one.id for one in found} >= {"x", "y"}


def test_spread_depends_on_prompts_and_seed_alone() -> None:
    some = [prompt(f"{family}{at}", family) for family in "abcdef" for at in range(3)]
    assert prompts.spread(some, 10, seed=1) == prompts.spread(some[::-1], 10, seed=1)
    assert prompts.spread(some, 10, seed=1) != prompts.spread(some, 10, seed=2)
    assert prompts.spread(some, 5, seed=1) == prompts.spread(some, 10, seed=1)[:5]


def test_the_table_holds_the_prompts_of_every_split(tiny_model: Path, tmp_path: Path) -> None:
    run = start(tmp_path, tiny_model, prompts__train=5)
    facts = prompts.run(run)
    assert facts["used"] == {"train": 5, "validation": 3, "test": 3}
    assert (facts["found"], facts["families"]) == (18, {"train": 4, "validation": 1, "test": 1})
    for split, count in facts["used"].items():
        assert [found.split for found in tables.prompts_of(run, split)] == [split] * count
    known = {row["id"]: row["messages"] if "messages" in row else row["prompt"] for row in prompt_rows()}
    for found in tables.prompts_of(run, "train"):
        assert known[found.id] == found.messages[0]["content"]


def test_held_out_checks_are_counted(tiny_model: Path, tmp_path: Path) -> None:
    rows = [row | {"checks": [{"check": "lowercase"}]} for row in prompt_rows()]
    rows[-1]["checks"] = [{"check": "no_commas"}, {"check": "lowercase"}]
    assert prompts.run(with_rows(tmp_path, tiny_model, rows))["with_held_out_check"] == 1


def test_twins_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    rows = prompt_rows()
    rows[3]["id"] = rows[0]["id"]
    with pytest.raises(DataError, match=rf"prompts: 1 ids stand twice, first '{rows[0]['id']}'"):
        prompts.run(with_rows(tmp_path, tiny_model, rows))


def test_the_same_file_twice_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    path = str(write_lines(tmp_path / "mine.jsonl", prompt_rows()))
    with pytest.raises(DataError, match="18 ids stand twice"):
        prompts.run(start(tmp_path, tiny_model, prompts__sources=[path, path]))


def test_a_prompt_of_two_sources_that_are_merged_is_drawn_once(tiny_model: Path, tmp_path: Path) -> None:
    rows = prompt_rows()
    files = [str(write_lines(tmp_path / name, rows)) for name in ("one.jsonl", "two.jsonl")]
    run = start(tmp_path, tiny_model, prompts__sources=files, prompts__merge_duplicates=True, prompts__train=20)
    assert prompts.run(run)["used"] == {"train": 12, "validation": 3, "test": 3}
    ids = [found.id for found in tables.prompts_of(run, "train")]
    assert len(set(ids)) == len(ids) == 12


def test_a_family_in_two_splits_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    rows = prompt_rows()
    rows[-1]["family"] = rows[0]["family"]
    with pytest.raises(DataError, match=rf"family '{rows[0]['family']}' stands in train and test"):
        prompts.run(with_rows(tmp_path, tiny_model, rows))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_split_without_prompts_is_refused(tiny_model: Path, tmp_path: Path, split: str) -> None:
    rows = [row for row in prompt_rows() if row["split"] != split]
    with pytest.raises(DataError, match=f"no prompt of split '{split}'"):
        prompts.run(with_rows(tmp_path, tiny_model, rows))


def with_question(rows: list[dict], at: int, question: str) -> list[dict]:
    messages = [{"role": "user", "content": question}]
    return [
        {key: value for key, value in row.items() if key != "prompt"} | {"messages": messages} if number == at else row
        for number, row in enumerate(rows)
    ]


def test_a_prompt_past_the_token_limit_is_named(tiny_model: Path, tmp_path: Path) -> None:
    rows = with_question(prompt_rows(), 12, "rain " * 200)
    with pytest.raises(DataError, match=r"1 of 18 are longer than 64 tokens, first 'name-0' with \d{3}; .*max_tokens"):
        prompts.run(with_rows(tmp_path, tiny_model, rows, prompts__max_tokens=64))


def test_a_prompt_that_leaves_no_room_for_an_answer_is_named(tiny_model: Path, tmp_path: Path) -> None:
    rows = with_question(prompt_rows(), 12, "rain " * 700)
    run = with_rows(tmp_path, tiny_model, rows, prompts__max_tokens=2000, evaluate__answer_tokens=100)
    with pytest.raises(DataError, match=r"longer than 412 tokens, first 'name-0' .* window of 512"):
        prompts.run(run)


def test_the_error_of_a_row_names_file_and_row(tiny_model: Path, tmp_path: Path) -> None:
    rows = prompt_rows()
    rows[4]["checks"] = [{"check": "lower_case"}]
    with pytest.raises(DataError, match=r"mine\.jsonl:5: there is no check 'lower_case'; did you mean 'lowercase'"):
        prompts.run(with_rows(tmp_path, tiny_model, rows))


# sources


def with_sources(folder: Path, tiny_model: Path, sources: list[dict], **changes) -> Run:
    """A run of these sources beside the small set."""
    settings = config.load(recipe(folder, tiny_model, **changes)).model_dump()
    small = {"path": settings["prompts"]["sources"][0]["path"], "name": "small"}
    settings["prompts"]["sources"] = [small, *sources]
    return Run.open(folder / "run", config.Config.model_validate(settings))


def share(folder: Path, texts: list[str], name: str = "share.jsonl") -> str:
    turns = [({"from": "human", "value": text}, {"from": "gpt", "value": f"re: {text}"}) for text in texts]
    return str(write_lines(folder / name, [{"conversations": pair} for pair in turns]))


def removed(run: Run) -> list[dict]:
    return data_files.read_rows(run.folder("prompts") / "removed.jsonl")


def find(name: str) -> Found:
    return Found(prompt=prompt(name))


def test_any_beginning_is_mixed_by_weight() -> None:
    queues = [[find(f"{name}{at}") for at in range(30)] for name in "abc"]
    mixed = [one.prompt.id[0] for one in prompts.mix(queues, [1, 2, 3], 36)]
    for count in range(1, 37):
        found = Counter(mixed[:count])
        assert all(abs(found[name] - count * weight / 6) < 1 for name, weight in zip("abc", (1, 2, 3), strict=True))


def test_a_source_that_runs_out_leaves_its_share_to_the_others() -> None:
    queues = [[find(f"{name}{at}") for at in range(count)] for name, count in (("a", 2), ("b", 9))]
    mixed = [one.prompt.id for one in prompts.mix(queues, [1, 1], 8)]
    assert mixed == ["a0", "b0", "a1", "b1", "b2", "b3", "b4", "b5"]
    assert len(prompts.mix(queues, [1, 1], 100)) == 11


def test_sources_are_mixed_by_weight_and_counted(tiny_model: Path, tmp_path: Path) -> None:
    source = {"path": share(tmp_path, [f"question {at}" for at in range(20)]), "weight": 2, "split": "train"}
    run = with_sources(tmp_path, tiny_model, [source])
    facts = prompts.run(run)
    assert Counter(one.source for one in tables.prompts_of(run, "train")) == {"small": 4, "share": 8}
    assert facts["sources"] == [
        {"name": "small", "path": str(tmp_path / "prompts.jsonl"), "form": "plain", "read": 18, "kept": 18,
         "drawn": 10, "over_limit": 0, "empty_answers": 0},
        {"name": "share", "path": source["path"], "form": "sharegpt", "read": 20, "kept": 20, "drawn": 8,
         "over_limit": 0, "empty_answers": 0},
    ]  # fmt: skip
    assert (facts["removed"], facts["answers"]) == ({}, 8)
    assert not (run.folder("prompts") / "removed.jsonl").exists()


def test_answers_of_the_prompts_that_are_used_are_kept(tiny_model: Path, tmp_path: Path) -> None:
    source = {"path": share(tmp_path, [f"question {at}" for at in range(20)]), "split": "train", "model": "gpt-3.5"}
    run = with_sources(tmp_path, tiny_model, [source])
    prompts.run(run)
    text_of = {one.id: one.messages[0]["content"] for one in tables.prompts_of(run, "train") if one.source == "share"}
    rows = data_files.read_rows(run.folder("prompts") / "answers")
    assert {row["prompt_id"]: row["answer"] for row in rows} == {name: f"re: {text}" for name, text in text_of.items()}
    assert {(row["model"], row["draw"], row["finished"]) for row in rows} == {("gpt-3.5", 0, True)}


def test_every_removal_is_listed_with_its_reason_and_what_it_met(tiny_model: Path, tmp_path: Path) -> None:
    asked = "Please tell me in a few short words what the weather in the north of Spain is like in spring"
    texts = [
        "hi",
        asked,
        asked.upper(),
        f"{asked}, please",
        f"Now say: {QUESTION}",
        "Was ist denn bitte ein Fluss in Spanien?",
    ]
    bench = write_lines(tmp_path / "bench.jsonl", [{"id": "q7", "prompt": QUESTION}])
    rows = [*map(json.loads, Path(share(tmp_path, texts)).read_text().splitlines()), {"conversations": []}]
    source = {"path": str(write_lines(tmp_path / "share.jsonl", rows)), "split": "train"}
    rules = {"merge_duplicates": True, "near_duplicates": 0.8, "language": "en", "longer_than": 5}
    changes = {f"prompts__{key}": value for key, value in rules.items()}
    run = with_sources(tmp_path, tiny_model, [source], prompts__decontaminate=[str(bench)], **changes)
    facts = prompts.run(run)
    mine = {row["prompt_id"]: (row["reason"], row["of"]) for row in removed(run) if row["source"] == "share"}
    assert mine == {
        "share-1": ("too_short", ""), "share-3": ("duplicate", "share-2"), "share-4": ("near_duplicate", "share-2"),
        "share-5": ("benchmark", "bench.jsonl:q7"), "share-6": ("language", ""), "share-7": ("no_user_turn", ""),
    }  # fmt: skip
    assert facts["removed"] == dict(Counter(row["reason"] for row in removed(run)))
    assert [one["kept"] for one in facts["sources"]][1] == 1


def test_a_train_prompt_that_a_test_prompt_holds_already_is_the_one_that_goes(tiny_model: Path, tmp_path: Path) -> None:
    tested = next(row for row in prompt_rows() if row["split"] == "test")
    source = {"path": share(tmp_path, [tested["prompt"].upper()]), "split": "train"}
    run = with_sources(tmp_path, tiny_model, [source], prompts__merge_duplicates=True)
    assert prompts.run(run)["removed"] == {"duplicate": 1}
    assert [(row["prompt_id"], row["of"]) for row in removed(run)] == [("share-1", tested["id"])]
    (kept,) = [one for one in tables.prompts_of(run, "test") if one.id == tested["id"]]
    assert (kept.source, kept.reference) == ("small, share", tested["reference"])


def test_a_prompt_past_the_token_limit_may_be_left_out(tiny_model: Path, tmp_path: Path) -> None:
    rows = with_question(prompt_rows(), 12, "rain " * 200)
    run = with_rows(
        tmp_path, tiny_model, rows, prompts__max_tokens=64, prompts__too_long="leave_out", prompts__train=11
    )
    assert prompts.run(run)["removed"] == {"too_long": 1}
    assert [(row["prompt_id"], row["reason"]) for row in removed(run)] == [("name-0", "too_long")]


def test_the_same_sources_give_the_same_files(tiny_model: Path, tmp_path: Path) -> None:
    source = {"path": share(tmp_path, [f"question {at}" for at in range(90)]), "limit": 30}
    made = []
    for name in ("one", "two"):
        run = with_sources(tmp_path / name, tiny_model, [source], prompts__merge_duplicates=True)
        prompts.run(run)
        folder = run.folder("prompts")
        made.append({str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.*")) if p.is_file()})
    assert all(one == other for one, other in pairwise(made))
    assert len(made[0]) == 2


def test_rules_that_leave_a_split_empty_are_named(tiny_model: Path, tmp_path: Path) -> None:
    run = start(tmp_path, tiny_model, prompts__longer_than=500)
    with pytest.raises(DataError, match=r"no prompt of split 'train'; .* loosen the rules \(removed: too_short: 18\)"):
        prompts.run(run)


def test_what_an_attempt_that_was_broken_off_has_left_is_not_read(tiny_model: Path, tmp_path: Path) -> None:
    source = {"path": share(tmp_path, [f"question {at}" for at in range(20)]), "split": "train", "model": "gpt-3.5"}
    run = with_sources(tmp_path, tiny_model, [source])
    for name in ("answers/00007.parquet", "removed.jsonl"):
        (run.folder("prompts") / name).parent.mkdir(exist_ok=True)
        (run.folder("prompts") / name).write_text("of another file")
    facts = prompts.run(run)
    assert len(data_files.read_rows(run.folder("prompts") / "answers")) == facts["answers"]
    assert (run.folder("prompts") / "removed.jsonl").exists() is bool(facts["removed"])
