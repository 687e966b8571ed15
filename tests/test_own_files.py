"""fit and score on the user's own files."""

import gzip
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from own_rows import WORDS, pair_rows, settings
from small_road import write_lines
from tolerances import CLOSE
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import AutoModelForCausalLM

import starling
from starling import config, data_files, own_files, tables
from starling.errors import DataError, UsageError


def nectar_rows(count: int = 12) -> list[dict]:
    return [
        {
            "prompt": f"\n\nHuman: {WORDS[n % 10]} {n}?\n\nAssistant: ",
            "answers": [
                {"answer": f"{WORDS[(n + k) % 10]} {k}", "model": f"m{k}", "rank": float(k + 1)} for k in range(3)
            ],
        }
        for n in range(count)
    ]  # fmt: skip


def stamps(root: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}


def facts_of(out: Path) -> dict:
    return json.loads((out / "fit.json").read_text())["facts"]


@pytest.fixture(scope="module")
def reward_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    source = write_lines(folder / "rankings.jsonl", nectar_rows())
    own_files.fit(settings(), [source], str(tiny_model), folder / "rm", 0.3)
    return folder / "rm"


def test_the_folder_holds_a_model_that_everybody_loads_and_the_facts(reward_model: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    assert AutoModelForSequenceClassification.from_pretrained(reward_model).config.num_labels == 1
    facts = facts_of(reward_model)
    assert facts["split"]["train"] + facts["split"]["held_out"] == 12
    assert facts["rankings"] == facts["split"]["train"]
    assert facts["held_out"]["scores"][0]["n"] == 3 * facts["split"]["held_out"] > 0
    assert (reward_model / "metrics.jsonl").exists()
    assert not reward_model.with_name("rm.partial").exists()


def test_nectar_and_pairs_in_parquet_and_packed_lines_are_read_together(tiny_model: Path, tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(nectar_rows(5)), tmp_path / "a.parquet")
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in pair_rows(4))
    turns = [{"role": "user", "content": "rain?"}]
    lists = [
        {
            "chosen": [*turns, {"role": "assistant", "content": "yes"}],
            "rejected": [*turns, {"role": "assistant", "content": "no"}],
        }
    ]
    write_lines(tmp_path / "c.jsonl", lists)
    files = [tmp_path / name for name in ("a.parquet", "b.jsonl.gz", "c.jsonl")]
    facts = own_files.fit(settings(), files, str(tiny_model), tmp_path / "out", 0.0)
    assert facts["rankings"] == 10
    assert facts["held_out"] is None


def test_a_prompt_stands_on_one_side_only_whatever_its_answers_and_spacing() -> None:
    rows = [row | {"prompt": row["prompt"] + " " * copy} for row in pair_rows(200) for copy in range(2)]
    rankings = [tables.ranking_from_row(row, str(number)) for number, row in enumerate(rows)]
    train, test = own_files.split(rankings, 0.25)
    sides = [{ranking.messages[0]["content"].strip() for ranking in side} for side in (train, test)]
    assert sides[0] & sides[1] == set()
    assert 0.15 < len(test) / len(rankings) < 0.35
    assert own_files.split(rankings[::-1], 0.25)[1] == test[::-1]


def test_a_split_that_leaves_nothing_to_train_on_is_refused() -> None:
    rankings = [tables.ranking_from_row(pair_rows(1)[0], "here")]
    with pytest.raises(DataError, match=r"all 1 rankings fell into the held-out share of 0\.99"):
        own_files.split(rankings, 0.99)


def test_a_finished_fit_is_not_done_again(reward_model: Path, tiny_model: Path) -> None:
    before = stamps(reward_model)
    source = reward_model.parent / "rankings.jsonl"
    assert own_files.fit(settings(), [source], str(tiny_model), reward_model, 0.3) == facts_of(reward_model)
    assert stamps(reward_model) == before


def test_another_request_does_not_overwrite_a_reward_model(reward_model: Path, tiny_model: Path) -> None:
    before = stamps(reward_model)
    source = reward_model.parent / "rankings.jsonl"
    with pytest.raises(UsageError, match="holds a reward model from other files or settings"):
        own_files.fit(settings("fit.epochs=2"), [source], str(tiny_model), reward_model, 0.3)
    assert stamps(reward_model) == before


@pytest.mark.parametrize("name", ["out", "out.partial"])
def test_other_peoples_files_are_left_alone(tiny_model: Path, tmp_path: Path, name: str) -> None:
    source = write_lines(tmp_path / "rankings.jsonl", pair_rows())
    (tmp_path / name).mkdir()
    (tmp_path / name / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match="holds other files"):
        own_files.fit(settings(), [source], str(tiny_model), tmp_path / "out", 0.0)
    assert [path.name for path in (tmp_path / name).iterdir()] == ["letter.txt"]


def test_an_interrupted_fit_goes_on_and_ends_as_if_it_had_not_been(tiny_model: Path, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "rankings.jsonl", pair_rows())
    calm = settings("fit.checkpoint_seconds=1e-9")
    own_files.fit(calm, [source], str(tiny_model), tmp_path / "whole", 0.2)

    class Interrupted(Exception):
        pass

    steps = []

    def stop_at_the_third(*args: object) -> None:
        steps.append(args)
        if len(steps) == 3:
            raise Interrupted

    hook = register_optimizer_step_pre_hook(stop_at_the_third)
    with pytest.raises(Interrupted):
        own_files.fit(calm, [source], str(tiny_model), tmp_path / "cut", 0.2)
    hook.remove()
    assert not (tmp_path / "cut").exists()
    with pytest.raises(UsageError, match="holds another, interrupted fit"):
        own_files.fit(calm, [source], str(tiny_model), tmp_path / "cut", 0.3)
    own_files.fit(calm, [source], str(tiny_model), tmp_path / "cut", 0.2)
    for name in ("model.safetensors", "metrics.jsonl", "fit.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_a_finished_reward_model_and_rankings_to_fit_are_one_too_many(tmp_path: Path) -> None:
    settings = config.load(config.find_recipe("smollm2"), ["fit.reward_model=mine"])
    with pytest.raises(UsageError, match=r"fit\.reward_model takes a finished reward model"):
        own_files.fit(settings, [], "smollm2", tmp_path / "out", 0.1)


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_held_out_share_that_is_none_is_refused(tmp_path: Path, share: float) -> None:
    with pytest.raises(UsageError, match="is no share"):
        own_files.fit(settings(), [tmp_path / "x.jsonl"], "smollm2", tmp_path / "out", share)


@pytest.mark.parametrize("choice", ["drop", "left_prompt"])
def test_what_a_limit_does_is_chosen_and_counted(tiny_model: Path, tmp_path: Path, choice: str) -> None:
    rows = [*pair_rows(), {"prompt": "rain " * 600, "chosen": "a", "rejected": "b"}]
    source = write_lines(tmp_path / "mine.jsonl", rows)
    facts = own_files.fit(settings(f"fit.too_long={choice}"), [source], str(tiny_model), tmp_path / "out", 0.0)
    assert (facts["rankings"], facts["shortened"]) == ((13, 1) if choice == "left_prompt" else (12, 0))
    assert facts["answers_left_out"] == ({} if choice == "left_prompt" else {"too long": 2})


def test_every_form_of_row_is_scored_and_kept(reward_model: Path, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "rain?"}]
    rows = [
        {"prompt": "rain?", "answers": ["yes", "no"], "note": "kept"},
        {"messages": turns, "answers": [{"answer": "yes", "rank": 2.0}, {"answer": "no"}]},
        {"prompt": turns, "answer": "yes"},
        {"prompt": "\n\nHuman: rain?\n\nAssistant: ", "chosen": "yes", "rejected": "no"},
        {
            "chosen": [*turns, {"role": "assistant", "content": "yes"}],
            "rejected": [*turns, {"role": "assistant", "content": "no"}],
        },
    ]
    out = tmp_path / "out.jsonl"
    assert own_files.score(str(reward_model), write_lines(tmp_path / "in.jsonl", rows), out) == 5
    scored = data_files.read_rows(out)
    assert [{k: v for k, v in row.items() if k != "rewards"} for row in scored] == rows
    yes, no = scored[0]["rewards"]
    assert yes != no
    for row in scored:
        assert row["rewards"] == pytest.approx([yes, no][: len(row["rewards"])], abs=CLOSE)


def test_an_answer_that_was_cut_is_scored_as_cut_wherever_its_row_says_so(reward_model: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": "rain?", "answers": [{"answer": "yes", "finished": False}, {"answer": "yes"}]},
        {"prompt": "rain?", "answer": "yes", "finished": False},
        {"prompt": "rain?", "answers": ["yes", "yes"], "finished": [False, True]},
        {
            "prompt": "rain?",
            "answers": [{"answer": "yes", "finished": None}, {"answer": "yes"}],
            "finished": [False, True],
        },
    ]
    own_files.score(str(reward_model), write_lines(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl")
    ((cut, whole), (one,), both, nulls) = (row["rewards"] for row in data_files.read_rows(tmp_path / "out.jsonl"))
    assert abs(cut - whole) > 1e-3
    assert [one, *both, *nulls] == pytest.approx([cut, cut, whole, cut, whole], abs=CLOSE)


def test_an_empty_answer_has_no_reward_and_the_rest_of_the_file_has(reward_model: Path, tmp_path: Path, capsys) -> None:
    rows = [
        {"prompt": "rain?", "answers": ["yes", " ", {"answer": None}]},
        {"prompt": "rain?", "answer": "yes"},
        {"prompt": "rain?", "answer": None},
        {"prompt": "rain?", "answers": [None]},
    ]
    own_files.score(str(reward_model), write_lines(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl")
    first, second, *nulls = (row["rewards"] for row in data_files.read_rows(tmp_path / "out.jsonl"))
    assert nulls == [[None], [None]]
    assert first == [pytest.approx(second[0], abs=CLOSE), None, None]
    assert "score: 4 answers are empty, first at" in " ".join(capsys.readouterr().out.split())


def test_what_is_no_number_is_written_as_null(reward_model: Path, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "rain?", "answer": "yes", "weight": NaN}\n')
    own_files.score(str(reward_model), tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert '"weight": null' in (tmp_path / "out.jsonl").read_text()


def test_a_target_that_is_no_file_is_refused_before_anything_is_scored(tmp_path: Path) -> None:
    rows = write_lines(tmp_path / "in.jsonl", [{"prompt": "rain?", "answer": "yes"}])
    with pytest.raises(UsageError, match=r"^score: --out .* is no file that can be replaced; choose another$"):
        own_files.score("nobody/nothing", rows, tmp_path)


def test_a_fit_is_not_done_already_where_the_base_model_has_changed(tiny_model: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    source = write_lines(tmp_path / "mine.jsonl", pair_rows())
    own_files.fit(settings(), [source], str(base), tmp_path / "out", 0.0)
    network = AutoModelForCausalLM.from_pretrained(base)
    torch.nn.init.ones_(network.model.norm.weight)
    network.save_pretrained(base)
    with pytest.raises(UsageError, match="holds a reward model from other files or settings; choose another --out"):
        own_files.fit(settings(), [source], str(base), tmp_path / "out", 0.0)


def test_rewards_are_those_that_other_tools_read(reward_model: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    network = AutoModelForSequenceClassification.from_pretrained(reward_model).eval()
    tokenizer = AutoTokenizer.from_pretrained(reward_model)
    texts = ["the rain in spain", "no", "the town"]
    found = starling.load_reward_model(reward_model).score(["what?"], [texts])
    talks = [[{"role": "user", "content": "what?"}, {"role": "assistant", "content": text}] for text in texts]
    batch = tokenizer.apply_chat_template(talks, return_tensors="pt", padding=True, return_dict=True)
    with torch.no_grad():
        expected = network(**batch).logits[:, 0]
    assert found == [pytest.approx(expected.tolist(), abs=CLOSE)]


def test_an_answers_reward_does_not_depend_on_its_company(reward_model: Path) -> None:
    judge = starling.load_reward_model(str(reward_model))
    together = judge.score(["rain?", [{"role": "user", "content": "town?"}]], [["yes", "no", "yes"], ["the river"]])
    assert [len(row) for row in together] == [3, 1]
    assert together[0][0] == together[0][2]
    assert together[0][1] == pytest.approx(judge.score(["rain?"], [["no"]])[0][0], abs=CLOSE)


@pytest.mark.parametrize(
    ("prompts", "answers", "message"),
    [
        (["a"], [["b"], ["c"]], "1 prompts, but answers to 2"),
        (["a"], [[]], "prompt 0: no answers"),
        (["a"], ["bc"], "prompt 0: its answers must be a list of texts, not 'bc'"),
        (["a"], [["b", None]], "prompt 0: its answers must be a list of texts"),
        (["a"], [["b", " "]], "prompt 0: answer 1 is empty"),
        (["a", ""], [["b"], ["c"]], "prompt 1: the user's message is empty"),
        ([[{"role": "assistant", "content": "a"}]], [["b"]], "prompt 0: the last message is the assistant's"),
        (["rain " * 600], [["b"]], r"prompt 0: takes \d+ tokens, the reward model's window is 512; shorten it$"),
        (["a", "b", "c"], [["b"], [" "], []], r"prompt 1: answer 0 is empty.*out \(and 1 others of 3 cannot be scored"),
    ],
    ids=["counts", "none", "a text", "no text", "empty answer", "empty prompt", "no question", "window", "several"],
)
def test_what_cannot_be_scored_is_named(reward_model: Path, prompts: list, answers: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        starling.load_reward_model(reward_model).score(prompts, answers)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a"}, r"in\.jsonl:1: a row needs .*found: prompt"),
        ({"answers": ["a"]}, r"in\.jsonl:1: a row needs .*found: answers"),
        ({"prompt": "a", "answers": "b"}, "`answers` must be a list"),
        ({"prompt": "a", "answers": [{"text": "b"}]}, "every answer must be a text"),
        ({"prompt": 5, "answer": "b"}, r"in\.jsonl:1: .*messages"),
        ({"prompt": "a", "answers": []}, r"in\.jsonl:1: no answers"),
    ],
    ids=["no answer", "no prompt", "no list", "no text", "no messages", "empty list"],
)
def test_rows_that_cannot_be_scored_are_named_and_nothing_is_written(
    reward_model: Path, tmp_path: Path, row: dict, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        own_files.score(str(reward_model), write_lines(tmp_path / "in.jsonl", [row]), tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("name", ["rewards.jsonl.gz", "rewards.parquet", "rewards"])
def test_a_name_that_promises_another_form_is_refused(tmp_path: Path, name: str) -> None:
    source = write_lines(tmp_path / "in.jsonl", [{"prompt": "a", "answer": "b"}])
    with pytest.raises(UsageError, match=r"ends on \.jsonl$"):
        own_files.score("nowhere", source, tmp_path / name)


def test_the_file_that_is_read_is_not_written_over(reward_model: Path, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "in.jsonl", [{"prompt": "a", "answer": "b"}])
    with pytest.raises(UsageError, match="is the file that is read"):
        own_files.score(str(reward_model), source, source)
