"""The data card: its numbers are the manifest's and the rankings', and no text in it becomes Markdown by accident."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import runs
from huggingface_hub import DatasetCard
from servers import Server, ranking_judge, replies_with
from small_road import prompt_rows, recipe, write_lines

from starling import cards, cli, export
from starling.layouts import EXPORTS
from starling.store import Run

LLM_ROW = {
    "prompt": "\n\nHuman: hi\n\nAssistant: ",
    "answers": [{"answer": "a b", "model": "x", "rank": 1}, {"answer": "c", "model": "y", "rank": 2}],
    "judge": "kwise:big@api.example.com", "template_hash": "d1e8419f15a19b54", "orders": [[0, 1]], "agreement": 1.0,
    "source": ["lmsys-chat-1m"], "good_natured": False,
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with facts of sources, removals and spending, as its stages record them."""
    made = runs.make(tmp_path / "run", ("prompts", "sample", "rank"))
    stages = made.manifest["stages"]
    stages["prompts"]["facts"] |= {
        "sources": [{"name": "hand", "path": "hand.jsonl", "form": "jsonl", "read": 1234, "kept": 987}],
        "removed": {"near | duplicate": 201, "too long": 46},
    }
    stages["sample"]["facts"]["generators"] = [
        {"name": "far", "model": "openai:big@https://api.example.com:8443/v1", "system": "Be *kind* | brief.\nAlways.",
         "temperature": 0.7, "top_p": 0.9, "weakened": False, "key_env": "SECRET_KEY"},
        {"name": "hot", "model": "", "system": "", "temperature": 1.0, "top_p": 1.0, "weakened": True, "key_env": ""},
    ]  # fmt: skip
    stages["rank"]["facts"]["spending"] = [
        {"endpoint": "big@api.example.com", "model": "big", "calls": 4321, "from_ledger": 12, "failures": 3,
         "prompt_tokens": 7_654_321, "completion_tokens": 45_678, "usd": 1.23456},
        {"endpoint": "own", "model": "small", "calls": 5, "from_ledger": 0, "failures": 0, "prompt_tokens": 10,
         "completion_tokens": 20, "usd": None},
    ]  # fmt: skip
    made._save()
    return Run.read(made.root)


def card(source: Path, form: str = "trl", **more: Any) -> DatasetCard:
    out = source.parent / f"out-{form}"
    export.export(source, form, out, **more)
    return DatasetCard.load(out / "README.md")


def test_the_hub_reads_its_header(run: Run) -> None:
    header = card(run.root, licence="cc-by-4.0").data.to_dict()
    assert header["license"] == "cc-by-4.0"
    assert header["size_categories"] == ["n<1K"]
    assert header["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "train.parquet"}]}
    ]
    assert {"rlaif", "preference", "starling", "trl"} <= set(header["tags"])


@pytest.mark.parametrize(("rows", "size"), [(999, "n<1K"), (1000, "1K<n<10K"), (3_842_034, "1M<n<10M")])
def test_the_size_is_in_the_hubs_words(rows: int, size: str) -> None:
    facts = {"rows": {"train": rows}, "files": {"train": "train.parquet"}, "format": "trl"}
    assert f"- {size}" in cards.header(facts, "other")


def test_the_numbers_are_the_manifests(run: Run) -> None:
    text = card(run.root).text
    stages = {name: entry["facts"] for name, entry in run.manifest["stages"].items()}
    sample, rank = stages["sample"], stages["rank"]
    for said in (
        "| hand | 1,234 | 987 | 0 |",
        rf"| near \| duplicate | {stages['prompts']['removed']['near | duplicate']} |",
        f"{stages['prompts']['found']} prompts were found; 3 serve as train, 3 serve as validation, 3 serve as test.",
        f"{sample['answers']} answers to {sample['prompts']} prompts, 50.0 % of them finished",
        f"{rank['ranked']} prompts ranked, {rank['unranked']} not",
        "| rank | big@api.example.com | big | 4,321 | 12 | 3 | 7,654,321 | 45,678 | 1.2346 |",
        "| rank | own | small | 5 | 0 | 0 | 10 | 20 | price not known |",
        f"Seed {run.config.run.seed}.",
        *(f"{name} {version}" for name, version in run.manifest["versions"].items()),
    ):
        assert said in text, said


def test_generators_stand_with_their_settings_the_weakened_marked_and_no_name_of_a_key(run: Run) -> None:
    text = card(run.root).text
    assert (
        r"| far | big | api.example.com | 0.7 | 0.9 | Be \*kind\* \| brief. Always. | not known to Starling: check |"
        in text
    )
    assert "| hot (**weakened**) | smollm2 | in process | 1.0 | 1.0 | the template's own |" in text
    assert "those of hot are bad on purpose" in text
    assert "SECRET_KEY" not in text and "8443" not in text
    assert "Answers or verdicts came from api.example.com. The terms of some providers forbid" in text


def test_bias_figures_are_those_of_the_audit(tmp_path: Path) -> None:
    # 40 calls whose first-shown answer always wins: chi-square is 40 * ((1 - .5)^2 + (0 - .5)^2) / .5 = 40
    rows = [LLM_ROW | {"prompt": f"\n\nHuman: {number}\n\nAssistant: "} for number in range(40)]
    text = card(write_lines(tmp_path / "rankings.jsonl", rows)).text
    assert "| 1 | 100 % (91.2 to 100) | 1.00 |" in text
    assert "chi-square 40.0 with 1 degrees of freedom" in text
    assert "| longer answer ranked above | 100 % (no interval), n = 40 |" in text
    assert "| ranking upholds its pair verdicts | 100 % (no interval), n = 40 | mean of calls |" in text
    assert "self-agreement: no prompt was ranked twice" in text


def test_a_file_alone_says_what_is_not_known(tmp_path: Path) -> None:
    text = card(write_lines(tmp_path / "rankings.jsonl", [LLM_ROW]), "nectar").text
    assert "Generators and their settings are not known" in text
    assert "| lmsys-chat-1m |  |  | 1 | has a licence agreement of its own" in text
    assert "kwise:big@api.example.com, a language model (kwise:big@api.example.com), 1 rankings" in text
    assert "hash `d1e8419f15a19b54`: 1 rankings" in text
    assert "1 of 1 are marked as not good-natured" in text
    assert "came from api.example.com" in text
    assert "not used to compete with OpenAI" in text


def test_what_was_left_out_stands_in_the_card(tmp_path: Path) -> None:
    answers = [{"answer": text, "model": "x", "rank": rank} for text, rank in (("a", 1), ("b", 1), ("c", 3))]
    table = write_lines(tmp_path / "rankings.jsonl", [LLM_ROW | {"answers": answers, "orders": []}])
    assert "- 1 pairs that are tied" in card(table).text


def test_only_judges_that_are_asked_have_hosts() -> None:
    assert cards._hosts({"kwise:m@host:80": 2, "panel of rubric, reward:rm@v2#0a1b": 1, "rubric": 3}) == {"host"}


def test_hostile_names_stay_text(run: Run) -> None:
    text = card(run.root).text
    assert r"| plain\$\_\{x\}\$&lt;b&gt; |" in text
    assert not re.search(r"<(?!https?:)[a-z]", re.sub(r"`[^`]*`|```.*?```", "", text, flags=re.DOTALL))


@pytest.mark.parametrize("form", EXPORTS)
def test_every_form_says_how_it_is_loaded(run: Run, form: str) -> None:
    assert cards.HOW[form] in card(run.root, form).text


ENDPOINT = """
[[endpoints]]
name = "{name}"
urls = ["{url}"]
model = "big"
price_in = 1.0
price_out = 10.0
"""


def test_what_the_stages_of_a_real_run_record_stands_in_its_card(tiny_model: Path, tmp_path: Path) -> None:
    """Answers from a source, from this process and from an endpoint; a judge with two orders; one prompt unread."""
    judge = ranking_judge(len)

    def write(text: str) -> str:
        if "<<answer A" not in text:
            return f"so {text}"
        return "I would rather not say." if "Say one word about the rain." in text else judge(text)

    answered = [
        {"prompt": row["prompt"], "split": row["split"], "answers": [{"answer": f"one {row['id']}", "model": "old"}]}
        for row in prompt_rows()
        if row["split"] == "train"
    ]
    sources = [
        {"path": str(write_lines(tmp_path / "told.jsonl", answered)), "form": "nectar"},
        {"path": str(tmp_path / "made" / "prompts.jsonl")},
    ]
    root = tmp_path / "run"
    with Server(always=replies_with(write)) as server:
        path = recipe(
            tmp_path / "made", tiny_model, rank__judge="judge", rank__repeats=2, rank__probe_prompts=0,
            rank__max_unparsed=0.5, sample__answers=4, sample__train_prompts=6,
        )  # fmt: skip
        text = path.read_text().replace(f'sources = ["{sources[1]["path"]}"]', "merge_duplicates = true")
        tables = [
            f"[[prompts.sources]]\n{''.join(f'{k} = {json.dumps(v)}{chr(10)}' for k, v in s.items())}" for s in sources
        ]
        text += '[[sample.generators]]\nname = "far"\nmodel = "far"\n' + "".join(tables)
        path.write_text(text + "".join(ENDPOINT.format(name=name, url=server.url) for name in ("far", "judge")))
        assert cli.main(["run", str(path), "--run", str(root), "--until", "rank"]) == 0
        facts = {stage: entry["facts"] for stage, entry in Run.read(root).manifest["stages"].items()}
    assert cli.main(["export", str(root), "--to", "trl", "--out", str(tmp_path / "out")]) == 0
    said = DatasetCard.load(tmp_path / "out" / "README.md").text.replace("\\", "")  # underscores are escaped
    sample, rank = facts["sample"], facts["rank"]
    assert sum(rank["asking"]["prompts_by_repeats"].values()) == rank["ranked"] + rank["unranked"] == 9
    told, own = facts["prompts"]["sources"]
    assert f"| told | {told['read']} | {told['kept']} |" in said
    assert f"| prompts | {own['read']} | {own['kept']} |" in said
    assert all(f"| {reason} | {count} |" in said for reason, count in facts["prompts"]["removed"].items())
    assert facts["prompts"]["removed"] and sample["left_out"]
    assert all(f"- {count} x {reason}" in said for reason, count in sample["left_out"].items())
    assert f"{rank['ranked']} prompts ranked, {rank['unranked']} not" in said
    assert "- Strategy: kwise" in said
    assert f"{rank['asking']['replies']} replies, {rank['asking']['unread_calls']} calls unread" in said
    for stage in ("sample", "rank"):
        (spent,) = facts[stage]["spending"]
        assert spent["calls"] and f"| {stage} | {spent['endpoint']} | big | {spent['calls']} |" in said
        assert f"{spent['usd']:.4f}" in said
    assert "Answers or verdicts came from 127.0.0.1." in said
    assert "| far | big | 127.0.0.1 |" in said
