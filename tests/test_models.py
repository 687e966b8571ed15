"""Models in and out, as everybody loads them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tolerances import CLOSE
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Gemma3TextConfig,
    GPTNeoXConfig,
    Phi3Config,
    PhiConfig,
)

from starling import chat, heads, models, packing
from starling.errors import ModelError
from starling.models import Model
from starling.packing import pack
from starling.records import Message

MESSAGES = [Message(role="user", content="what is the rain?")]
GROUPS = [([5, 6, 7, 8], [[20, 21], [30, 31, 32]]), ([40, 41], [[50, 51, 52]])]
ANSWERS = ["in spain", "the rain stays mainly in the plain", "wet", "no"]


@pytest.fixture
def reward_folder(tiny_model: Path, tmp_path: Path) -> Path:
    """A saved reward model whose head is no longer zero."""
    model = models.new_reward_model(str(tiny_model))
    torch.nn.init.normal_(model.network.score.weight)
    models.save(model, tmp_path / "reward")
    return tmp_path / "reward"


def our_scores(folder: Path, finished: bool = True) -> list[float]:
    network, tokenizer = models.load_reward_model(str(folder))
    shared, own = chat.conversation_ids(tokenizer, MESSAGES, ANSWERS, [finished] * len(ANSWERS))
    with torch.no_grad():
        return heads.rewards(network, pack([(shared, own)])).tolist()


def edit_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_policy_is_the_model_with_its_attention_packed(tiny_model: Path) -> None:
    network, tokenizer = models.load_policy(str(tiny_model), torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    with torch.no_grad():
        found = network.get_output_embeddings()(packing.hidden_states(network.get_decoder(), pack([([5, 6, 7], [])])))
        assert torch.allclose(found, plain(torch.tensor([[5, 6, 7]])).logits[0], atol=CLOSE)
    assert not network.training
    assert tokenizer.chat_template


def test_policy_is_in_what_this_machine_multiplies_unless_told(tiny_model: Path, products: torch.dtype) -> None:
    assert models.load_policy(str(tiny_model)).network.dtype == products
    assert models.load_policy(str(tiny_model), torch.float16).network.dtype == torch.float16


def test_a_model_has_one_hash_whatever_it_is_loaded_in(tiny_model: Path) -> None:
    networks = [models.load_policy(str(tiny_model), dtype).network for dtype in (torch.float32, torch.bfloat16)]
    one, other = (models.weights_hash(network.parameters()) for network in networks)
    assert one == other
    with torch.no_grad():
        networks[0].lm_head.weight[3, 5] += 0.01
    assert models.weights_hash(networks[0].parameters()) != one


def test_saved_policy_is_the_same_for_everybody(tiny_model: Path, tmp_path: Path) -> None:
    policy = models.load_policy(str(tiny_model), torch.float32)
    models.save(policy, tmp_path / "policy")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    for name, weight in AutoModelForCausalLM.from_pretrained(tiny_model).state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight)
    assert sorted(loaded.generation_config.eos_token_id) == [0, 2]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "policy")
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(tiny_model).chat_template
    assert loaded.config._attn_implementation != packing.ATTENTION


def test_the_head_of_a_new_reward_model_is_drawn_by_the_seed_as_a_linear_layers(tiny_model: Path) -> None:
    network, _ = models.new_reward_model(str(tiny_model), seed=1)
    head_H = network.score.weight[0].detach()
    largest = len(head_H) ** -0.5
    assert 0.9 * largest < float(head_H.abs().max()) <= largest
    assert float(head_H.std()) == pytest.approx(largest / 3**0.5, rel=0.2)  # of a uniform distribution
    assert torch.equal(models.new_reward_model(str(tiny_model), seed=1).network.score.weight[0], head_H)
    assert not torch.equal(models.new_reward_model(str(tiny_model), seed=2).network.score.weight[0], head_H)
    assert [name for name, _ in network.named_parameters() if name.startswith("score")] == ["score.weight"]


def test_a_reward_model_pads_with_a_token_that_never_ends_an_answer(tiny_model: Path) -> None:
    assert AutoTokenizer.from_pretrained(tiny_model).pad_token_id == 2
    network, tokenizer = models.new_reward_model(str(tiny_model))
    assert (tokenizer.pad_token, tokenizer.pad_token_id, network.config.pad_token_id) == ("<|endoftext|>", 0, 0)


def test_a_reward_model_of_a_reward_model_keeps_its_template(reward_folder: Path) -> None:
    again = models.new_reward_model(str(reward_folder))
    assert again.tokenizer.chat_template == AutoTokenizer.from_pretrained(reward_folder).chat_template


def test_a_tokenizer_without_a_free_token_for_padding_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "padless"
    shutil.copytree(tiny_model, folder)
    for path in (folder / "tokenizer.json", folder / "tokenizer_config.json"):
        path.write_text(path.read_text().replace("<|endoftext|>", "<|other|>"))
    with pytest.raises(ModelError, match="no token can serve as padding"):
        models.new_reward_model(str(folder))


def test_rewards_are_the_head_on_each_conversations_last_token(reward_folder: Path) -> None:
    network, _ = models.load_reward_model(str(reward_folder))
    base = AutoModelForSequenceClassification.from_pretrained(reward_folder)
    with torch.no_grad():
        found = heads.rewards(network, pack(GROUPS))
        for reward, ids in zip(
            found, ([5, 6, 7, 8, 20, 21], [5, 6, 7, 8, 30, 31, 32], [40, 41, 50, 51, 52]), strict=True
        ):
            last = base.base_model(torch.tensor([ids])).last_hidden_state[0, -1]
            assert reward.item() == pytest.approx((base.score.weight[0] @ last).item(), abs=CLOSE)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("batch", [1, 4])
def test_a_saved_reward_model_scores_the_same_elsewhere(reward_folder: Path, side: str, batch: int) -> None:
    ours = our_scores(reward_folder)
    assert their_scores(reward_folder, side, batch) == pytest.approx(ours, abs=CLOSE)
    assert len({round(score, 3) for score in ours}) == 4


def their_scores(reward_folder: Path, side: str, batch: int) -> list[float]:
    elsewhere = AutoModelForSequenceClassification.from_pretrained(reward_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(reward_folder, padding_side=side)
    conversations = [[*MESSAGES, {"role": "assistant", "content": answer}] for answer in ANSWERS]
    found = []
    for start in range(0, 4, batch):
        inputs = tokenizer.apply_chat_template(
            conversations[start : start + batch], padding=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            found += elsewhere(**inputs).logits[:, 0].tolist()
    return found


@pytest.mark.parametrize("pad", ["<|im_end|>", "<|endoftext|>"], ids=["pad ends turns", "pad is the end of texts"])
def test_padding_is_no_token_that_ends_a_turn_whichever_ends_a_text(tiny_model: Path, tmp_path: Path, pad: str) -> None:
    """As with Qwen's base models: turns end on <|im_end|>, texts on <|endoftext|>."""
    shutil.copytree(tiny_model, tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base", eos_token="<|endoftext|>", pad_token=pad)
    tokenizer.save_pretrained(tmp_path / "base")
    found = models.new_reward_model(str(tmp_path / "base"))
    assert found.network.config.pad_token_id == found.tokenizer.pad_token_id == 0
    models.save(found, tmp_path / "reward")
    ours = our_scores(tmp_path / "reward")
    assert their_scores(tmp_path / "reward", "right", 4) == pytest.approx(ours, abs=CLOSE)
    edit_config(tmp_path / "reward", pad_token_id=2)
    with pytest.raises(ModelError, match="pad token must exist and never end an answer"):
        models.load_reward_model(str(tmp_path / "reward"))


def test_a_file_beside_a_model_is_found_where_there_is_one(tiny_model: Path) -> None:
    assert models.file_beside(str(tiny_model), "config.json") == tiny_model / "config.json"
    assert models.file_beside(str(tiny_model), "uncertainty.safetensors") is None
    assert models.file_beside("nobody/nothing", "uncertainty.safetensors") is None  # the Hub, out of reach


def test_what_transformers_5_renamed_is_said_under_its_old_name_too(reward_folder: Path) -> None:
    config = json.loads((reward_folder / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 10_000
    assert config["torch_dtype"] == config["dtype"] == "float32"
    tokenizer = json.loads((reward_folder / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert tokenizer["model_input_names"] == ["input_ids", "attention_mask"]


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (PhiConfig(partial_rotary_factor=0.4, rope_theta=500.0), ("rope_theta", "partial_rotary_factor")),
        (GPTNeoXConfig(rotary_pct=0.4, rotary_emb_base=500.0), ("rotary_emb_base", "rotary_pct")),
    ],
    ids=["phi", "gpt-neox"],
)
def test_the_part_of_a_head_that_turns_is_said_under_its_old_name(
    tmp_path: Path, config: Any, names: tuple[str, str]
) -> None:
    config.dtype = "float32"
    config.save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    models._also_for_transformers_4(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    assert [told[name] for name in names] == [500.0, 0.4]
    assert "rope_scaling" not in told
    assert type(config).from_pretrained(tmp_path).rope_parameters == config.rope_parameters


def test_a_base_for_each_kind_of_layer_is_said_under_its_old_names(tmp_path: Path) -> None:
    linear = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1_000_000.0}
    rope = {"full_attention": linear, "sliding_attention": {"rope_type": "default", "rope_theta": 500.0}}
    config = Gemma3TextConfig(rope_parameters=rope)
    config.dtype = "float32"
    config.save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    models._also_for_transformers_4(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    assert (told["rope_theta"], told["rope_local_base_freq"]) == (1_000_000.0, 500.0)
    assert told["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}
    assert Gemma3TextConfig.from_pretrained(tmp_path).rope_parameters == config.rope_parameters


def test_longrope_of_phi_is_written_as_its_old_class_wants_it(tmp_path: Path) -> None:
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "rope_theta": 100.0}
    config = Phi3Config(
        hidden_size=32, num_attention_heads=4, original_max_position_embeddings=64, max_position_embeddings=256,
        pad_token_id=0, rope_parameters=rope,
    )  # fmt: skip
    config.dtype = "float32"
    config.save_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    models._also_for_transformers_4(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())["rope_scaling"]
    assert told == {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    read = Phi3Config.from_pretrained(tmp_path).rope_parameters
    assert {key: read[key] for key in rope} == rope


def test_a_model_without_a_name_is_told_so() -> None:
    with pytest.raises(ModelError, match="MODEL is empty"):
        models.resolve(" ")


def test_a_padding_token_has_an_embedding(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    size = json.loads((tmp_path / "base" / "config.json").read_text())["vocab_size"]
    tokenizer.add_tokens([f"<{number}>" for number in range(size - len(tokenizer))])
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == size  # and nobody made the model larger
    tokenizer.save_pretrained(tmp_path / "base")
    models.save(models.new_reward_model(str(tmp_path / "base")), tmp_path / "saved")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert again.config.pad_token_id < size


def test_scaled_positions_are_the_same_for_everybody(tiny_model: Path, tmp_path: Path) -> None:
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}
    shutil.copytree(tiny_model, tmp_path / "base")
    edit_config(tmp_path / "base", rope_parameters=rope)
    model = models.new_reward_model(str(tmp_path / "base"))
    models.save(model, tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert (config["rope_theta"], config["rope_scaling"]) == (500.0, {"rope_type": "linear", "factor": 4.0})
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert again.config.rope_parameters == rope
    assert torch.equal(again.base_model.rotary_emb.inv_freq, model.network.base_model.rotary_emb.inv_freq)


def test_whether_an_answer_was_cut_changes_its_reward(reward_folder: Path) -> None:
    cut, whole = our_scores(reward_folder, finished=False), our_scores(reward_folder, finished=True)
    assert all(abs(a - b) > 1e-3 for a, b in zip(cut, whole, strict=True))


@pytest.mark.parametrize("pad", [2, None], ids=["pad is eos", "no pad"])
def test_a_reward_model_that_pads_with_the_end_is_refused(reward_folder: Path, pad: int | None) -> None:
    edit_config(reward_folder, pad_token_id=pad)
    with pytest.raises(ModelError, match="pad token must exist and never end an answer"):
        models.load_reward_model(str(reward_folder))


def test_a_classifier_of_two_labels_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    network = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=2)
    models.save(Model(network, AutoTokenizer.from_pretrained(tiny_model)), tmp_path / "two")
    with pytest.raises(ModelError, match="this has 2"):
        models.load_reward_model(str(tmp_path / "two"))


@pytest.mark.parametrize(("told", "held"), [(1, 2), (2, 1)])
def test_a_head_of_other_labels_than_the_config_tells_is_refused(
    tiny_model: Path, tmp_path: Path, told: int, held: int
) -> None:
    network = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=held)
    models.save(Model(network, AutoTokenizer.from_pretrained(tiny_model)), tmp_path / "two")
    edit_config(tmp_path / "two", id2label={str(at): f"LABEL_{at}" for at in range(told)}, pad_token_id=0)
    with pytest.raises(ModelError, match=r"two: (a reward model has one label|1 weights are .* first score\.weight)"):
        models.load_reward_model(str(tmp_path / "two"))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("tokenizer.json", '{"a": 1}'),
        ("config.json", "[]"),
        ("config.json", '{"model_type": "llama", "hidden_size": "x"}'),
    ],
)
def test_a_damaged_file_is_told_in_a_line(reward_folder: Path, file: str, text: str) -> None:
    (reward_folder / file).write_text(text)
    with pytest.raises(ModelError, match=r"^[^\n]*/reward: cannot be loaded: [^\n]*$"):
        models.load_reward_model(str(reward_folder))


def test_a_model_without_a_head_is_no_reward_model(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "headless")
    edit_config(tmp_path / "headless", num_labels=1, id2label={"0": "LABEL_0"}, pad_token_id=0)
    with pytest.raises(ModelError, match=r"headless: 1 weights are missing .* first score\.weight"):
        models.load_reward_model(str(tmp_path / "headless"))


def test_a_backbone_that_is_not_whole_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "torn")
    edit_config(tmp_path / "torn", num_hidden_layers=5)
    for load in (models.new_reward_model, models.load_policy):
        with pytest.raises(ModelError, match=r"torn: 9 weights are missing .* first model\.layers\.4\."):
            load(str(tmp_path / "torn"))


def test_a_reward_model_is_no_policy(reward_folder: Path) -> None:
    """Its LM head would have to be made up, unless the embeddings serve as one."""
    edit_config(reward_folder, tie_word_embeddings=False)
    with pytest.raises(ModelError, match=r"1 weights are missing .* first lm_head\.weight"):
        models.load_policy(str(reward_folder))


def test_a_reward_model_keeps_its_head_and_a_classifier_is_refused(
    tiny_model: Path, reward_folder: Path, tmp_path: Path
) -> None:
    old = models.load_reward_model(str(reward_folder)).network.score.weight
    assert torch.equal(models.new_reward_model(str(reward_folder)).network.score.weight, old)
    network = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=5)
    models.save(Model(network, AutoTokenizer.from_pretrained(tiny_model)), tmp_path / "five")
    with pytest.raises(ModelError, match="five: a reward model has one label and a head `score`; this has 5"):
        models.new_reward_model(str(tmp_path / "five"))
