"""Exports: loaded by the other side's own loader where it can be had, whole or not there, everything counted."""

import json
import os
import resource
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import runs
from datasets import load_dataset
from small_road import write_lines

from starling import cli, data_files, export, layouts, tables
from starling.errors import DataError, UsageError
from starling.layouts import EXPORTS

NECTAR = {
    "prompt": "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: what is rain?\n\nAssistant: ",
    "answers": [
        {"answer": "water", "model": "a", "rank": 1.0},
        {"answer": "drops", "model": "b", "rank": 2.0},
        {"answer": "clouds", "model": "c", "rank": 2.0},
    ],
    "turns": 2,
    "num_responses": 3,
    "source": ["hand", "other"],
    "good_natured": True,
}
PAIR = {"prompt": "What is snow?", "chosen": "frozen water", "rejected": "sand"}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Rankings in two forms; the first has a tie."""
    return write_lines(tmp_path / "rankings.jsonl", [NECTAR, PAIR])


def exported(table: Path, form: str, **more: Any) -> dict[str, Any]:
    return export.export(table, form, table.parent / "out", **more)


def loaded(table: Path) -> Any:
    """What `datasets` makes of the folder, by the header of its card."""
    return load_dataset(str(table.parent / "out"), cache_dir=str(table.parent / "cache"))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("form", "rows", "left_out"),
    [
        ("nectar", 2, {}),
        ("trl", 3, {"pairs that are tied": 1}),
        ("unpaired", 5, {}),  # 1, 2, 2: the tied ones share 2.5, below the middle 2
        ("ultrafeedback", 2, {}),
        ("nemo-rl", 3, {"pairs that are tied": 1}),
        ("verl", 2, {}),
        ("llamafactory", 3, {"pairs that are tied": 1}),
    ],
)
def test_each_form_is_loaded_by_datasets_row_for_row(
    table: Path, form: str, rows: int, left_out: Mapping[str, int]
) -> None:
    facts = exported(table, form)
    assert (facts["rankings"], facts["rows"], facts["left_out"]) == (2, {"train": rows}, left_out)
    found = loaded(table)
    assert {split: data.num_rows for split, data in found.items()} == {"train": rows}
    written = data_files.read_rows(table.parent / "out" / facts["files"]["train"])
    assert list(found["train"]) == written
    schema = EXPORTS[form].schema
    assert schema is None or set(found["train"].features) == set(schema.names)


def test_the_forms_that_were_tested_are_all() -> None:
    assert list(EXPORTS) == ["nectar", "trl", "unpaired", "ultrafeedback", "nemo-rl", "verl", "llamafactory"]


def test_plain_nectar_comes_back_as_it_was(table: Path) -> None:
    exported(table, "nectar")
    assert loaded(table)["train"][0] == NECTAR


def test_what_was_exported_as_nectar_is_exported_again_without_change(table: Path) -> None:
    exported(table, "nectar")
    again = table.parent / "again"
    export.export(table.parent / "out" / "train.parquet", "nectar", again)
    assert data_files.read_rows(again / "train.parquet") == data_files.read_rows(table.parent / "out" / "train.parquet")


# the other side's own code


def test_trl_knows_its_pairs_as_conversations_and_can_unpair_them(table: Path, tiny_model: Path) -> None:
    utilities = pytest.importorskip(
        "trl.data_utils", reason="trl is not installed: pip install 'starling-rlaif[interop]'"
    )
    from transformers import AutoTokenizer

    exported(table, "trl")
    data = loaded(table)["train"]
    assert all(utilities.is_conversational(row) for row in data)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    texts = utilities.maybe_apply_chat_template(data[0], tokenizer)
    assert texts["chosen"].startswith("water") and texts["prompt"].count("<|im_start|>user") == 2
    single = utilities.unpair_preference_dataset(data.select_columns(["prompt", "chosen", "rejected"]))
    assert sorted(single["label"]) == [False] * 3 + [True] * 3


@pytest.mark.filterwarnings("ignore")
def test_trl_fits_a_reward_model_on_its_pairs_with_their_margin(table: Path, tiny_model: Path, tmp_path: Path) -> None:
    trl = pytest.importorskip("trl", reason="trl is not installed: pip install 'starling-rlaif[interop]'")
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    exported(table, "trl")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    settings = trl.RewardConfig(
        output_dir=str(tmp_path / "trl"), max_steps=1, report_to=[], use_cpu=True, bf16=False, disable_tqdm=True
    )
    trainer = trl.RewardTrainer(model, settings, processing_class=tokenizer, train_dataset=loaded(table)["train"])
    assert len(trainer.train_dataset) == 3
    assert trainer.train().global_step == 1


def test_trl_finds_unpaired_rows_conversational(table: Path) -> None:
    utilities = pytest.importorskip(
        "trl.data_utils", reason="trl is not installed: pip install 'starling-rlaif[interop]'"
    )
    exported(table, "unpaired")
    assert all(utilities.is_conversational(row) for row in loaded(table)["train"])


def test_llamafactory_reads_its_entry_and_aligns_every_row(table: Path) -> None:
    reason = "llamafactory with its needs is not installed; the entry is held against its documented keys below"
    parser = pytest.importorskip("llamafactory.data.parser", reason=reason, exc_type=ImportError)
    converter = pytest.importorskip("llamafactory.data.converter", reason=reason, exc_type=ImportError)
    exported(table, "llamafactory")
    (entry,) = parser.get_dataset_list(["starling_train"], str(table.parent / "out"))
    rows = list(map(converter.SharegptDatasetConverter(entry, None), loaded(table)["train"]))
    assert [len(row["_prompt"]) % 2 for row in rows] == [1, 1, 1]
    assert [[one["content"] for one in row["_response"]] for row in rows][-1] == ["frozen water", "sand"]


def test_verl_reads_its_prompts(table: Path, tiny_model: Path) -> None:
    reason = "verl with its needs is not installed; its columns are held against its documentation below"
    module = pytest.importorskip("verl.utils.dataset.rl_dataset", reason=reason, exc_type=ImportError)
    from omegaconf import OmegaConf
    from transformers import AutoTokenizer

    exported(table, "verl")
    cache = str(table.parent / "verl-cache")
    settings = OmegaConf.create({"max_prompt_length": 512, "cache_dir": cache, "filter_overlong_prompts_workers": 1})
    files = [str(table.parent / "out" / "train.parquet")]
    data = module.RLHFDataset(files, AutoTokenizer.from_pretrained(tiny_model), settings)
    assert len(data) == 2
    assert data[0]["reward_model"]["ground_truth"] == "water" and data[0]["index"] == 0


# where it cannot be installed: the names and types that its documentation gives


def test_llamafactorys_entry_has_the_keys_of_its_data_readme(table: Path) -> None:
    exported(table, "llamafactory")
    (entry,) = json.loads((table.parent / "out" / "dataset_info.json").read_text()).values()
    assert entry == {
        "file_name": "train.jsonl",
        "formatting": "sharegpt",
        "ranking": True,
        "columns": {"messages": "messages", "chosen": "chosen", "rejected": "rejected"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    }
    for row in data_files.read_rows(table.parent / "out" / entry["file_name"]):
        assert {"role", "content"} == set(row["chosen"]) == set(row["rejected"]) == set(row["messages"][0])


def test_nemo_rl_rows_are_what_its_preference_format_asks_for(table: Path) -> None:
    """By its guide and its processor: `context`; two `completions` with an int `rank`, lower is better; no ties."""
    exported(table, "nemo-rl")
    for row in loaded(table)["train"]:
        assert all(set(message) == {"role", "content"} for message in row["context"])
        ranks = [one["rank"] for one in row["completions"]]
        assert ranks == [0, 1] and all(type(rank) is int for rank in ranks)
        assert all(one["completion"][0]["role"] == "assistant" for one in row["completions"])


def test_ultrafeedback_rows_have_the_fields_of_its_documentation(table: Path) -> None:
    exported(table, "ultrafeedback")
    row = loaded(table)["train"][0]
    names = {"source", "instruction", "models", "correct_answers", "incorrect_answers", "completions"}
    assert names <= set(row)
    inner = {"model", "principle", "custom_system_prompt", "response", "annotations"}
    assert all(inner <= set(one) for one in row["completions"])
    assert set(row["completions"][0]["annotations"]) == {
        "instruction_following",
        "honesty",
        "truthfulness",
        "helpfulness",
    }


def test_verl_columns_are_those_of_its_data_preparation_page(table: Path) -> None:
    exported(table, "verl")
    row = loaded(table)["train"][0]
    assert set(row) == {"data_source", "prompt", "ability", "reward_model", "extra_info"}
    assert set(row["reward_model"]) == {"style", "ground_truth"}
    assert {"split", "index"} <= set(row["extra_info"])


# runs


def test_a_run_is_exported_by_split_with_the_systems_of_its_generators(tmp_path: Path) -> None:
    run = runs.make(tmp_path / "run", ("prompts", "sample", "rank"))
    facts = export.export(run.root, "ultrafeedback", tmp_path / "out")
    assert (facts["rows"], facts["files"]) == ({"train": 1}, {"train": "train.jsonl"})
    assert facts["strategy"] == "a program"


def test_a_table_that_stands_in_its_run_keeps_its_splits(tmp_path: Path) -> None:
    run = runs.make(tmp_path / "run", ("prompts", "sample", "rank"))
    rows = data_files.read_rows(run.root / "prompts")
    moved = [row | ({"split": "validation"} if row["id"] == "train-0" else {}) for row in rows]
    data_files.write_parquet(run.root / "prompts" / "00000.parquet", moved, tables.PROMPTS)
    run.finished("prompts", run.facts("prompts"))
    for number, source in enumerate((run.root, run.root / "rank", run.root / "rank" / "00000.parquet")):
        facts = export.export(source, "trl", tmp_path / f"out-{number}")
        assert facts["rows"] == {"validation": 1}


def test_a_run_without_rank_says_how_to_make_it(tmp_path: Path) -> None:
    run = runs.make(tmp_path / "run", ("prompts", "sample"))
    with pytest.raises(UsageError, match=r"rank: not done yet in .*--until rank"):
        export.export(run.root, "trl", tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


def test_a_run_whose_rankings_were_changed_is_refused(tmp_path: Path) -> None:
    run = runs.make(tmp_path / "run", ("prompts", "sample", "rank"))
    (run.root / "rank" / "00000.parquet").write_bytes(b"other")
    with pytest.raises(DataError, match=r"missing or changed, first rank/00000\.parquet"):
        export.export(run.root, "trl", tmp_path / "out")


# bad input


@pytest.mark.parametrize(
    ("form", "pairs", "message"),
    [
        ("tlr", "", "no format 'tlr'; did you mean 'trl'.*nectar, trl, unpaired"),
        ("NEMO-RL", "", "did you mean 'nemo-rl'"),
        ("zzz", "", r"no format 'zzz' \(formats: nectar"),
        ("nectar", "all", "nectar has none"),
        ("trl", "some", "'some' is none of all, adjacent, best_worst"),
    ],
)
def test_an_unknown_form_or_choice_names_what_there_is(table: Path, form: str, pairs: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        exported(table, form, pairs=pairs)
    assert [path.name for path in table.parent.iterdir()] == ["rankings.jsonl"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "hi"}', r"rankings.jsonl:1: a ranking needs `prompt` and `answers`.*found: prompt"),
        ("", "holds no rankings"),
        ('{"prompt": "hi", "answers": [{"answer": "x", "rank": 1}]}', "left out: 1 rankings of fewer than two answers"),
        ('{"prompt": "hi", "answers": [{"answer": "x", "rank": 0}]}', "a `rank` of 1 or more"),
    ],
)
def test_a_file_that_holds_no_rankings_says_so_and_leaves_nothing(table: Path, line: str, message: str) -> None:
    table.write_text(line + "\n")
    with pytest.raises(DataError, match=message):
        exported(table, "trl")
    assert [path.name for path in table.parent.iterdir()] == ["rankings.jsonl"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing\.jsonl: there is no such file"):
        export.export(tmp_path / "missing.jsonl", "trl", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# places


def test_an_earlier_export_of_the_same_form_is_replaced_whole(table: Path) -> None:
    exported(table, "trl")
    (table.parent / "out" / "validation.parquet").write_text("of an earlier export")
    exported(table, "trl", pairs="best_worst")
    assert sorted(content(table.parent / "out")) == ["README.md", "export.json", "train.parquet"]
    assert loaded(table)["train"].num_rows == 2
    assert sorted(path.name for path in table.parent.iterdir()) == ["cache", "out", "rankings.jsonl"]


def test_the_same_export_twice_is_the_same_byte_for_byte(table: Path) -> None:
    exported(table, "llamafactory")
    before = content(table.parent / "out")
    exported(table, "llamafactory")
    assert content(table.parent / "out") == before


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("out/thesis.txt", "years of work", "holds other files; choose another folder"),
        ("out/export.json", '{"format": "verl"}', "holds an export to verl; choose another folder for trl"),
        ("out", "a file", "is a file, not a folder"),
        ("out.partial/thesis.txt", "years of work", "out.partial is in the way"),
    ],
)
def test_what_stands_there_is_left_alone(table: Path, name: str, text: str, message: str) -> None:
    path = table.parent / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        exported(table, "trl")
    assert path.read_text() == text


def test_an_export_that_was_killed_is_begun_anew(table: Path) -> None:
    work = table.parent / "out.partial"
    work.mkdir()
    (work / "export.json").write_text('{"format": "trl"}')
    (work / "train.parquet").write_bytes(b"PAR1 half")
    assert exported(table, "trl")["rows"] == {"train": 3}
    assert not work.exists()


@pytest.mark.parametrize("form", ["trl", "nemo-rl"])
def test_a_file_that_the_system_does_not_take_is_one_line_and_the_old_export_stays(
    table: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    exported(table, form)
    before = content(table.parent / "out")
    row = NECTAR | {"answers": [{"answer": os.urandom(40_000).hex(), "rank": rank} for rank in (1, 2)]}
    write_lines(table, [row])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        assert cli.main(["export", str(table), "--to", form, "--out", str(table.parent / "out")]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    printed = capsys.readouterr().err
    assert printed.startswith("error: writing ") and "File too large" in printed and printed.count("\n") == 1
    assert content(table.parent / "out") == before
    assert not (table.parent / "out.partial").exists()


@pytest.mark.parametrize("form", ["trl", "nemo-rl"])
def test_a_full_disk_is_one_line_and_gets_its_room_back(
    table: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    disk = table.parent / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a full disk is a small tmpfs here, and mounting one needs root")
    try:
        row = {"prompt": "hi", "rejected": "no"}
        table.write_text("".join(json.dumps(row | {"chosen": os.urandom(200).hex()}) + "\n" for _ in range(2500)))
        assert cli.main(["export", str(table), "--to", form, "--out", str(disk / "out")]) == 1
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    printed = capsys.readouterr().err
    assert printed.startswith("error: writing ") and "No space left on device; free space or choose" in printed
    assert printed.count("\n") == 1


# the command


def test_the_command_prints_what_went_in_what_came_out_and_what_was_left(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["export", str(table), "--to", "trl", "--out", str(table.parent / "out")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"export: 2 rankings read, 3 pairs written (3 in train) -> {table.parent / 'out'}",
        "export: left out 1 pairs that are tied",
    ]


def test_the_help_names_every_form(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", "--help"]) == 0
    printed = capsys.readouterr().out
    assert [name for name in (*EXPORTS, *layouts.PAIRS) if name not in printed] == []
