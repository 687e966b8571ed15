"""The model card: its numbers are the facts' and the rankings', its code runs, and no foreign text becomes Markdown."""

import hashlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from made_rankings import ranking, rankings
from small_road import write_lines
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from starling import config, judgements, model_card, models, own_files, tables
from starling.config import FitTable
from starling.metrics import Recorder
from starling.records import Ranking
from starling.stages import fit

HOSTILE = "a|b <script> *x* [y](z)\n# z"
JUDGE = "kwise:big@api.example.com"


def score(name: str, value: float, low: float, high: float, n: int) -> dict[str, Any]:
    return {"name": name, "value": value, "low": low, "high": high, "n": n}


FACTS = {
    "rankings": 1234, "unread": 0, "unusable": {"all answers are tied": 56}, "answers_left_out": {"too long": 57},
    "shortened": 58,
    "steps": 789, "kept_step": 789, "ended_by": "", "tokens": 98_765,
    "held_out": {
        "scores": [
            score("pair_accuracy", 0.7312, 0.7001, 0.7623, 3210), score("top1_agreement", 0.4444, 0.4001, 0.4887, 321),
            score("pair_accuracy_length_only", 0.6543, 0.6251, 0.6835, 3210), score("nll", 1.234, 1.2, 1.268, 321),
        ],
        "calibration_error": 0.0321, "reliability": [],
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def saved(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved reward model with a random head."""
    folder = tmp_path_factory.mktemp("card") / "model"
    model = models.new_reward_model(str(tiny_model))
    torch.nn.init.normal_(model.network.score.weight)
    models.save(model, folder)
    return folder


def card(saved: Path, told: list[Ranking] | None = None, **changes: Any) -> ModelCard:
    given = {"base": "smollm2", "held_out": rankings(9)[7:], "facts": FACTS, "settings": FitTable()} | changes
    model_card.write(
        saved, given["settings"], given["base"], rankings(7) if told is None else told, given["held_out"],
        given["facts"], seed=given.get("seed", 4321), files=given.get("files", ()),
    )  # fmt: skip
    return ModelCard.load(saved / "README.md")


def test_the_hub_reads_its_header_and_no_licence_is_chosen(saved: Path) -> None:
    header = card(saved).data.to_dict()
    assert header["library_name"] == "transformers"
    assert header["pipeline_tag"] == "text-classification"
    assert header["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert {"reward-model", "rlaif", "starling"} <= set(header["tags"])
    assert "license" not in header
    found = {one.metric_type: one for one in card(saved).data.eval_results}
    accuracy = found["pair_accuracy"]
    assert (accuracy.metric_value, accuracy.metric_name) == (0.7312, "Model, all pairs")
    assert accuracy.metric_args == {"low": 0.7001, "high": 0.7623, "n": 3210}
    assert card(saved, held_out=[], facts=FACTS | {"held_out": None}).data.eval_results is None


def test_a_base_of_the_hub_is_named_and_a_folder_only_by_its_own_name(saved: Path, tmp_path: Path) -> None:
    assert card(saved, base="owner/name").data.to_dict()["base_model"] == "owner/name"
    (tmp_path / "mine").mkdir()
    found = card(saved, base=str(tmp_path / "mine"))
    assert "base_model" not in found.data.to_dict()
    assert "# Reward model on mine (a folder)" in found.text
    assert str(tmp_path) not in found.content


def test_the_numbers_are_the_facts(saved: Path) -> None:
    text = card(saved).text
    for said in (
        "Trained on\n1,234 rankings with the loss `plackett_luce`", "- 56 x all answers are tied",
        "- 57 answers: too long", "- the beginning of 58 prompts that",
        "789 steps over 98,765 packed tokens, seed 4321.",
        "| Model, all pairs | 73.1 % (70.0 to 76.2), n = 3,210 |",
        "| Top answer agrees | 44.4 % (40.0 to 48.9), n = 321 |",
        "| Longer wins, all pairs | 65.4 % (62.5 to 68.3), n = 3,210 |", r"| nll | 1.23 (1.20 to 1.27), n = 321 |",
        "| Calibration error of pair probabilities | 0.0321 |",
    ):  # fmt: skip
        assert said in text


def test_every_setting_stands_with_its_value_and_meaning(saved: Path) -> None:
    text = card(saved, settings=FitTable(learning_rate=1.5e-4, epochs=3)).text
    assert "| `learning_rate` | 0.00015 | AdamW's peak rate;" in text
    assert "| `epochs` | 3 | Passes over the rankings. |" in text
    assert all(f"| `{key}` |" in text for key in FitTable.model_fields)


def test_it_says_what_ended_training_and_how_many_rankings_the_weights_have_not_seen(saved: Path) -> None:
    text = card(saved, facts=FACTS | {"steps": 100, "kept_step": 100, "ended_by": "token_budget"}).text
    assert "Trained on\n800 rankings" in text  # 100 steps of 8
    assert "**`token_budget` ended training before all epochs were through.**" in text
    assert "have seen 800 of 1,234 usable rankings" in text
    assert "thrown away" not in text
    text = card(saved, facts=FACTS | {"steps": 100, "kept_step": 50, "ended_by": "patience"}).text
    assert "Trained on\n400 rankings" in text
    assert "**`patience` ended training" in text
    assert "The weights are those of step 50; what was learnt later is thrown away.\nThey have seen 400 of" in text
    text = card(saved).text  # 789 steps are more than one pass
    assert not any(said in text for said in ("ended training", "thrown away", "have seen"))


@pytest.mark.parametrize(
    ("low", "said"), [(0.66, False), (0.65, True)], ids=["above what length gives", "reaches down to it"]
)
def test_it_says_when_length_alone_may_do_as_well(saved: Path, low: float, said: bool) -> None:
    # length alone is right in 65.43 % of the pairs
    scores = [FACTS["held_out"]["scores"][0] | {"low": low}, *FACTS["held_out"]["scores"][1:]]
    facts = FACTS | {"held_out": FACTS["held_out"] | {"scores": scores}}
    assert ("do not show that the model does better" in card(saved, facts=facts).text) is said


@pytest.mark.parametrize("how", [{"keep": "best"}, {"patience": 2}], ids=["best weights", "early stop"])
def test_it_says_when_the_held_out_rankings_chose_the_weights(saved: Path, how: dict[str, Any]) -> None:
    said = "so the figures are a little too good"
    assert said in card(saved, settings=FitTable().model_copy(update=how)).text
    assert said not in card(saved).text


def test_without_held_out_rankings_it_says_that_nothing_is_known(saved: Path) -> None:
    text = card(
        saved, held_out=[], facts=FACTS | {"held_out": None, "unusable": {}, "answers_left_out": {}, "shortened": 0}
    ).text
    assert "Nothing was held out." in text
    assert "| held out | 0 | 0 |" in text
    assert "Longer wins" not in text
    assert "Left out" not in text
    assert "not seen, of the same sources" not in text


def test_rows_that_are_no_rankings_are_counted(saved: Path) -> None:
    assert "rows of the files" not in card(saved).text
    alone = FACTS | {"unread": 61, "unusable": {}, "answers_left_out": {}, "shortened": 0}
    assert "Left out:\n\n- 61 rows of the files that are no rankings\n" in card(saved, facts=alone).text


def marked() -> list[Ranking]:
    """Four rankings of three answers and one of two, by two judges, from two sources."""
    told = rankings(4)
    told[0] = replace(told[0], judge=JUDGE, template_hash="d1e8", source="lmsys, mine", good_natured=False)
    told[1] = replace(told[1], judge=JUDGE, template_hash="d1e8", source="mine")
    pair = ranking("pair", ["a b", "c"], [1, 2], weakened=(1,))
    return [*told, replace(pair, answers=[replace(pair.answers[0], finished=False), pair.answers[1]])]


def test_the_data_are_counted(saved: Path) -> None:
    text = card(saved, marked(), held_out=rankings(9)[7:]).text.replace("\\", "")
    for said in (
        "| training | 5 | 14 |", "| held out | 2 | 6 |",  # 4 x 3 + 2, 2 x 3
        "Answers to a prompt: 2 in 1 rankings, 3 in 6 rankings.", "| not named | 5 |", "| mine | 2 |",
        "| lmsys | 1 | has a licence agreement of its own", "| m0 | 7 |", "| m1 | 7 |", "| m2 | 6 |",
        f"- Judge: {JUDGE}, a language model, 2 rankings", "- Judge: by hand, a language model, 5 rankings",
        "template with hash `d1e8`: 2 rankings", "- 1 rankings are marked as not good-natured",
        "- 1 of 20 answers were cut by a token cap", "- 1 of 20 answers are bad on purpose",
    ):  # fmt: skip
        assert said in text


def test_more_models_than_are_listed_are_counted(saved: Path) -> None:
    told = rankings(25)
    told = [
        replace(one, answers=[replace(answer, model=f"of {one.prompt_id}") for answer in one.answers]) for one in told
    ]
    assert "| 5 others | 15 |" in card(saved, told, held_out=[]).text  # 25 models of 3 answers, 20 are named


def test_the_judges_leaning_to_length_is_said(saved: Path) -> None:
    # 3 characters over 1 and over 2, 2 over 1: the longer one is above in 3 of 3 pairs; the other way round in 0 of 1
    told = [ranking("p", ["aaa", "bb", "c"], [1, 2, 3]), ranking("q", ["aaa", "bb"], [2, 1])]
    assert "| longer answer ranked above | 75.0 % (0 to 100), n = 4 | 0 pairs tied or as long |" in (
        card(saved, told, held_out=[]).text
    )


def test_orders_that_make_no_sense_are_no_obstacle(saved: Path) -> None:
    broken: list[Any] = ["abc", 7, [7], [[0, 9, 1]], [[0, 1, 2], None], [["0", "1", "2"]]]
    told = [replace(one, orders=orders) for one, orders in zip(rankings(6), broken, strict=True)]
    assert "| place of 3 |" not in card(saved, told, held_out=[]).text
    assert "| place of 3 |" in card(saved, [replace(told[0], orders=[[2, 0, 1]])], held_out=[]).text


def test_foreign_text_means_nothing_but_itself(saved: Path) -> None:
    told = [replace(one, judge=HOSTILE, source=HOSTILE, template_hash="x") for one in rankings(3)]
    told = [replace(one, answers=[replace(answer, model=HOSTILE) for answer in one.answers]) for one in told]
    facts = FACTS | {"unusable": {HOSTILE: 1}}
    text = card(saved, told, facts=facts, files=[{"name": HOSTILE, "sha256": "ab12"}]).text
    plain = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    assert "<script>" not in plain
    assert "[y](z)" not in plain
    assert "*x*" not in plain.replace("\\*x\\*", "")
    assert not re.search(r"^# z", plain, re.MULTILINE)
    escaped = r"a\|b &lt;script&gt; \*x\* \[y\](z) # z"
    assert f"| {escaped} | 9 |" in text
    assert f"- Rankings from {escaped}, SHA-256 `ab12`" in text


def test_its_code_gives_the_same_reward_in_both_ways(saved: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", card(saved).text, re.MULTILINE | re.DOTALL)
    found: dict[str, Any] = {}
    for block in blocks:
        exec(block.replace("THIS_FOLDER_OR_NAME", str(saved)), found)
    assert found["reward"] == pytest.approx(found["rewards"][0][0], abs=1e-4)
    lines = [[line for line in block.splitlines() if line] for block in blocks]
    assert [len(block) for block in lines] == [4, 2]
    assert abs(found["reward"]) > 0.1


def test_padding_and_window_are_the_models(saved: Path) -> None:
    text = card(saved).text
    assert r"Padding is &lt;\|endoftext\|&gt; (id 0)" in text
    assert "Its window is 512 tokens" in text


def test_its_lineage_holds_hashes_seed_date_and_versions(saved: Path) -> None:
    told = rankings(7)
    text = card(saved, told).text
    digest = hashlib.sha256((saved / "model.safetensors").read_bytes()).hexdigest()
    assert f"- `model.safetensors`: SHA-256 `{digest}`" in text
    assert f"for training, as read: SHA-256 of their content `{model_card.fingerprint(told)}`" in text
    assert re.search(r"- Date: 20\d\d-\d\d-\d\d; seed: 4321", text)
    assert f"torch {torch.__version__}".split("+")[0] in text


def test_a_fingerprint_follows_what_is_learnt_from_and_nothing_else() -> None:
    (told,) = rankings(1)
    same = [replace(told, prompt_id="other", judge="other", orders=[[0, 1, 2]]), replace(told, ranks=[2.0, 1.0, 3.0])]
    answers = list(told.answers)
    others = [
        replace(told, ranks=[1, 2, 3]), replace(told, messages=[{"role": "user", "content": "?"}]),
        replace(told, answers=[replace(answers[0], finished=False), *answers[1:]]),
        replace(told, answers=[replace(answers[0], answer="dry"), *answers[1:]]),
    ]  # fmt: skip
    found = model_card.fingerprint([told])
    assert {model_card.fingerprint([one]) for one in same} == {found}
    assert len({found, *(model_card.fingerprint([one]) for one in others)}) == 5
    assert model_card.fingerprint([told, others[0]]) != model_card.fingerprint([others[0], told])


def test_rankings_in_memory_read_as_those_of_a_table(tmp_path: Path) -> None:
    told = [
        replace(told, orders=[[2, 0, 1]], agreement=0.5, judge=JUDGE, ranks=[1, 2, 2]) if at else told
        for at, told in enumerate(rankings(3))
    ]
    told.append(replace(told[0], orders=[[0, 1, 2], [2, 1, 0]], rankings=[[1.0, 2.0, 3.0], []]))
    table = write_lines(tmp_path / "rankings.jsonl", [tables.ranking_row(one) | {"good_natured": None} for one in told])
    read = [tables.ranking_from_row(json.loads(line), "") for line in table.read_text().splitlines()]
    assert judgements.of_rankings("", read).calls == judgements.read(table).calls


def test_fit_writes_it_beside_the_weights(tiny_model: Path, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "metrics.jsonl", "fit")
    table = FitTable(prompts_per_step=4)
    facts = fit.fit(table, str(tiny_model), rankings(7), rankings(9)[7:], tmp_path, recorder, seed=77)
    text = ModelCard.load(tmp_path / "model" / "README.md").text
    assert f"{facts['steps']} steps over {facts['tokens']} packed tokens, seed 77." in text
    assert f"n = {facts['held_out']['scores'][0]['n']} |" in text


def test_a_family_that_calls_its_window_otherwise_gets_a_card_too(tiny_model: Path, tmp_path: Path) -> None:
    base = tmp_path / "gpt2"
    GPT2LMHeadModel(GPT2Config(vocab_size=300, n_positions=64, n_embd=16, n_layer=1, n_head=2)).save_pretrained(base)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(base)
    recorder = Recorder(tmp_path / "metrics.jsonl", "fit")
    fit.fit(FitTable(prompts_per_step=4, layers=0), str(base), rankings(4), [], tmp_path, recorder, seed=7)
    assert "Its window is 64 tokens" in ModelCard.load(tmp_path / "model" / "README.md").text


def test_the_window_on_the_card_is_what_starling_reads(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "long")
    told = json.loads((saved / "config.json").read_text())
    rope = {"rope_type": "longrope", "long_factor": [2.0] * 4, "short_factor": [1.0] * 4, "rope_theta": 1e4,
            "original_max_position_embeddings": 128}  # fmt: skip
    (tmp_path / "long" / "config.json").write_text(json.dumps(told | {"rope_parameters": rope}))
    assert "Its window is 128 tokens" in card(tmp_path / "long").text


def test_fit_on_files_of_ones_own_names_them_with_their_hashes(tiny_model: Path, tmp_path: Path) -> None:
    source = write_lines(tmp_path / "mine.jsonl", [tables.ranking_row(one) for one in rankings(8)])
    settings = config.load(config.find_recipe("smollm2"), ["fit.prompts_per_step=4", "fit.layers=0", "run.threads=1"])
    facts = own_files.fit(settings, [source], str(tiny_model), tmp_path / "rm", 0.0)
    text = ModelCard.load(tmp_path / "rm" / "README.md").text
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert f"- Rankings from mine.jsonl, SHA-256 `{digest}`" in text
    assert f"| training | {facts['split']['train']} |" in text
    assert str(tmp_path) not in text
