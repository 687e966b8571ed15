"""Exports as other tools take them: by their own code where it is installed, else by what their documentation says."""

import json
from pathlib import Path

import pytest
from exported import exported, loaded, write_table

from starling import data_files


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(tmp_path)


# the other side's own code


def test_trl_knows_its_pairs_as_conversations_and_can_unpair_them(table: Path, tiny_model: Path) -> None:
    utilities = pytest.importorskip("trl.data_utils", reason="trl is not installed: pip install '.[test]'")
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
    trl = pytest.importorskip("trl", reason="trl is not installed: pip install '.[test]'")
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
    utilities = pytest.importorskip("trl.data_utils", reason="trl is not installed: pip install '.[test]'")
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
