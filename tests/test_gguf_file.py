"""A model as a GGUF file: read back by transformers it is the same model."""

import json
import shutil
from pathlib import Path
from typing import Any

import gguf_models
import pytest
import runs
import torch
from disks import largest_file
from gguf import GGUFReader
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen2Config

import starling
from starling import cli, gguf_file
from starling.errors import ModelError, StarlingError, UsageError


def value(reader: GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()


def test_rows_of_a_head_change_places_as_worked_out_by_hand() -> None:
    # 2 heads of 4 rows: row i goes to 2i and row i + 2 to 2i + 1, so 0 1 2 3 becomes 0 2 1 3
    row = torch.arange(8.0)
    assert gguf_file.permuted(row, 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    weight = torch.randn(8, 5)
    assert torch.equal(gguf_file.permuted(weight, 2), weight[[0, 2, 1, 3, 4, 6, 5, 7]])


def test_neighbours_turned_together_give_the_scores_that_halves_turned_together_give() -> None:
    query, key, angle = torch.randn(8).double(), torch.randn(8).double(), torch.rand(2, 4).double()

    def by_halves(state: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
        a, b = state[:4], state[4:]
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()])

    def by_neighbours(state: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
        return torch.view_as_real(torch.view_as_complex(state.view(4, 2)) * torch.polar(torch.ones_like(angle), angle))

    moved = [by_neighbours(gguf_file.permuted(one, 1), a).flatten() for one, a in zip((query, key), angle, strict=True)]
    torch.testing.assert_close(
        moved[0] @ moved[1], by_halves(query, angle[0]) @ by_halves(key, angle[1]), rtol=0, atol=1e-12
    )


def test_factors_of_scaled_positions_as_worked_out_by_hand() -> None:
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "max_position_embeddings": 512}
    assert gguf_file.rope_factors(LlamaConfig(**sizes)) is None
    linear = LlamaConfig(**sizes, rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0})
    torch.testing.assert_close(gguf_file.rope_factors(linear), torch.full((4,), 4.0))
    # base 10000, D = 8: frequencies 1, 0.1, 0.01, 0.001, so wavelengths 6.28, 62.8, 628, 6283.
    # Trained on 64 positions: below 64 / 4 = 16 nothing changes, above 64 / 1 = 64 all is divided by 8; between, at
    # 62.83, smooth = (64 / 62.83 - 1) / (4 - 1) = 0.006197 and the factor is 1 / ((1 - smooth) / 8 + smooth) = 7.6674.
    found = gguf_file.rope_factors(LlamaConfig(**sizes, rope_parameters=gguf_models.LLAMA_3))
    torch.testing.assert_close(found, torch.tensor([1.0, 7.6674, 8.0, 8.0]), rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", [kind for kind in gguf_models.KINDS if kind != "llama 3"])  # its factors are not read
def test_transformers_reads_the_same_model_back(kind: str, tiny_model: Path, tmp_path: Path) -> None:
    network = gguf_models.make(kind, tmp_path / "model", tiny_model)
    facts = gguf_file.export(tmp_path / "model", tmp_path / "out/m.gguf", "f32", "other")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "out", gguf_file="m.gguf", dtype=torch.float32).eval()
    ids = torch.randint(3, 300, (2, 40))
    with torch.no_grad():
        # the norm's epsilon and RoPE's base are float32 in the file
        torch.testing.assert_close(back(ids).logits, network(ids).logits, rtol=0, atol=1e-4)
    weights = network.state_dict()
    for name, weight in back.state_dict().items():
        assert torch.equal(weight, weights[name]), name
    assert facts["tensors"] == len(weights) - (kind == "tied")
    assert facts["bytes"] == (tmp_path / "out/m.gguf").stat().st_size
    assert not list((tmp_path / "out").glob("*.partial"))


def test_scaled_positions_stand_in_the_file(tiny_model: Path, tmp_path: Path) -> None:
    network = gguf_models.make("llama 3", tmp_path / "model", tiny_model)
    gguf_file.export(tmp_path / "model", tmp_path / "m.gguf", "f16", "other")
    (found,) = [one for one in GGUFReader(tmp_path / "m.gguf").tensors if one.name == "rope_freqs.weight"]
    assert found.data.tolist() == gguf_file.rope_factors(network.config).tolist()


@pytest.mark.parametrize(("dtype", "kind", "close"), [("f16", 1, 2e-3), ("bf16", 32, 2e-2)])
def test_matrices_are_rounded_and_vectors_are_not(
    dtype: Any, kind: int, close: float, tiny_model: Path, tmp_path: Path
) -> None:
    gguf_file.export(tiny_model, tmp_path / "m.gguf", dtype, "other")
    assert value(GGUFReader(tmp_path / "m.gguf"), "general.file_type") == kind
    back = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32).state_dict()
    rounded = {"f16": torch.float16, "bf16": torch.bfloat16}[dtype]
    for name, weight in load_file(tiny_model / "model.safetensors").items():
        wanted = weight if weight.dim() == 1 else weight.to(rounded).float()
        assert torch.equal(back[name], wanted), name
        torch.testing.assert_close(back[name], weight, rtol=close, atol=1e-6)


def test_the_tokenizer_read_back_gives_the_same_ids(tiny_model: Path, tmp_path: Path) -> None:
    gguf_file.export(tiny_model, tmp_path / "m.gguf", "f16", "other")
    mine, back = AutoTokenizer.from_pretrained(tiny_model), AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    for text in gguf_models.TEXTS:
        assert back(text).input_ids == mine(text).input_ids, text
    assert back.chat_template == mine.chat_template
    assert (back.bos_token, back.eos_token, back.pad_token) == (mine.bos_token, mine.eos_token, mine.pad_token)


def test_sizes_ends_and_sampling_stand_in_the_file(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    path = tmp_path / "model/generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_sample": True, "temperature": 0.25, "top_p": 0.5}))
    gguf_file.export(tmp_path / "model", tmp_path / "m.gguf", "f16", "apache-2.0")
    reader = GGUFReader(tmp_path / "m.gguf")
    # 2 x 300 x 32 for embedding and head, 4 blocks of 2 x 32 x 32 + 2 x 16 x 32 + 3 x 64 x 32 + 2 x 32, and 32: 56,352
    assert {key: value(reader, key) for key in reader.fields if not key.startswith(("GGUF", "tokenizer"))} == {
        "general.architecture": "llama", "general.type": "model", "general.name": "model", "general.size_label": "56K",
        "general.license": "apache-2.0", "starling.version": starling.__version__, "general.file_type": 1,
        "general.quantization_version": 2, "general.sampling.temp": 0.25, "general.sampling.top_p": 0.5,
        "llama.vocab_size": 300, "llama.context_length": 512, "llama.embedding_length": 32, "llama.block_count": 4,
        "llama.feed_forward_length": 64, "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 8, "llama.attention.value_length": 8, "llama.rope.dimension_count": 8,
        "llama.rope.freq_base": 10000.0, "llama.attention.layer_norm_rms_epsilon": pytest.approx(1e-6),
    }  # fmt: skip
    ends = {key: value(reader, f"tokenizer.ggml.{key}") for key in ("eos_token_id", "eot_token_id", "eom_token_id")}
    assert ends == {"eos_token_id": 2, "eot_token_id": 0, "eom_token_id": None}
    assert value(reader, "tokenizer.ggml.add_bos_token") is False


def test_a_sliding_window_is_the_context_as_llama_cpp_has_none(tiny_model: Path, tmp_path: Path) -> None:
    gguf_models.make("mistral", tmp_path / "model", tiny_model)
    facts = gguf_file.export(tmp_path / "model", tmp_path / "m.gguf", "f16", "other")
    assert facts["context_length"] == 128


def test_weights_in_several_files_are_one_model(tiny_model: Path, tmp_path: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(tiny_model)
    shutil.copytree(tiny_model, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    network.save_pretrained(tmp_path / "model", max_shard_size="60KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 2
    gguf_file.export(tmp_path / "model", tmp_path / "m.gguf", "f32", "other")
    back = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32).state_dict()
    assert all(torch.equal(back[name], weight) for name, weight in network.state_dict().items())
    next((tmp_path / "model").glob("*.safetensors")).unlink()
    with pytest.raises(ModelError, match=r"1 of \d files of weights are missing, first model-0000"):
        gguf_file.export(tmp_path / "model", tmp_path / "m.gguf", "f32", "other")


def test_a_runs_policy_is_written_with_its_origin(tiny_model: Path, tmp_path: Path) -> None:
    run = runs.make(tmp_path / "run", ("prompts", "sample", "rank", "fit"))
    with pytest.raises(UsageError, match="tune: not done yet"):
        gguf_file.export(tmp_path / "run", tmp_path / "m.gguf", "f16", "other")
    assert not list(tmp_path.glob("m.gguf*"))
    run.started("tune")
    shutil.copytree(tiny_model, run.folder("tune") / "policy")
    run.finished("tune", {})
    assert cli.main(["export", str(tmp_path / "run"), "--gguf", "--out", str(tmp_path / "m.gguf")]) == 0
    reader = GGUFReader(tmp_path / "m.gguf")
    assert value(reader, "general.name") == "smollm2-run"
    assert value(reader, "general.base_model.0.name") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert value(reader, "general.tags") == ["starling", "rlaif"]
    (run.folder("tune") / "policy/config.json").write_text("{}")
    with pytest.raises(StarlingError, match=r"missing or changed, first tune/policy/config\.json"):
        gguf_file.export(tmp_path / "run", tmp_path / "m.gguf", "f16", "other")


def test_an_earlier_export_is_replaced_and_no_other_file_is(tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    for dtype in ("f32", "f16"):
        gguf_file.export(tiny_model, out, dtype, "other")
    assert value(GGUFReader(out), "general.file_type") == 1
    for content in (b"", b"GGUF", b"something else"):
        out.write_bytes(content)
        with pytest.raises(UsageError, match="stands already and is no export of ours"):
            gguf_file.export(tiny_model, out, "f16", "other")
        assert out.read_bytes() == content
    with pytest.raises(UsageError, match=r"is to be a \.gguf file"):
        gguf_file.export(tiny_model, tmp_path / "model.bin", "f16", "other")


def test_what_ollama_is_told_stands_beside_it_and_a_file_of_another_kind_stays(
    tiny_model: Path, tmp_path: Path
) -> None:
    out, beside = tmp_path / "m.gguf", tmp_path / "m.Modelfile"
    gguf_file.export(tiny_model, out, "f16", "other")
    said = beside.read_text()
    assert "FROM ./m.gguf\nPARAMETER num_ctx 512\n" in said and 'PARAMETER stop "<|im_end|>"\n' in said
    assert '{{ if eq .Role "system" }}<|im_start|>system\n{{ .Content }}<|im_end|>\n{{ else if' in said
    beside.write_text("mine")
    with pytest.raises(UsageError, match=r"m\.Modelfile stands already and is no export of ours"):
        gguf_file.export(tiny_model, out, "f16", "other")
    assert beside.read_text() == "mine"


def test_a_system_that_takes_no_more_is_one_line_and_the_earlier_file_stays(tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    gguf_file.export(tiny_model, out, "f16", "other")
    before = out.read_bytes()
    with largest_file(64 * 1024), pytest.raises(StarlingError, match=rf"^writing {out} failed: .*free space"):
        gguf_file.export(tiny_model, out, "f16", "other")
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.Modelfile", "m.gguf"]


def edited(model: Path, folder: Path, **settings: Any) -> Path:
    shutil.copytree(model, folder)
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(told | settings))
    return folder


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (
            {"architectures": ["LlamaForSequenceClassification"]},
            "it is a LlamaForSequenceClassification; GGUF is written of LlamaForCausalLM, MistralForCausalLM, Qwen2For",
        ),
        ({"hidden_act": "gelu"}, "its activation is gelu"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "scaled by 'dynamic'"),
        ({"num_hidden_layers": 5}, "9 weights are missing, of another size, or not of this kind of network, first mod"),
        ({"intermediate_size": 48}, "12 weights are missing, of another size"),
    ],
    ids=["classifier", "activation", "positions", "layers", "sizes"],
)
def test_what_is_not_written_is_refused_in_one_line(
    settings: dict[str, Any], reason: str, tiny_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError) as error:
        gguf_file.export(edited(tiny_model, tmp_path / "model", **settings), tmp_path / "m.gguf", "f16", "other")
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("m.gguf*"))


@pytest.mark.parametrize(("number", "reason"), [(1e5, "too large for f16; use --dtype bf16"), (torch.nan, "is none")])
def test_a_number_that_the_file_cannot_hold_is_told(
    number: float, reason: str, tiny_model: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    weights = load_file(tiny_model / "model.safetensors")
    weights["lm_head.weight"][3, 4] = number
    save_file(weights, tmp_path / "model/model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=rf"lm_head\.weight holds a number .*{reason}"):
        gguf_file.export(tmp_path / "model", tmp_path / "m.gguf", "f16", "other")
    assert not list(tmp_path.glob("m.gguf*"))


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--gguf", "--to", "trl"], "--gguf writes a model"),
        (["--to", "trl", "--dtype", "f16"], "--dtype goes with --gguf"),
        ([], "give --to FORMAT, --gguf or --merge, or --push alone"),
    ],
)
def test_options_that_do_not_go_together_are_told(
    more: list[str], reason: str, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["export", str(tiny_model), "--out", str(tmp_path / "m.gguf"), *more]) == 2
    assert reason in capsys.readouterr().err


def test_scaled_positions_are_refused_where_llama_cpp_has_no_place_for_them() -> None:
    ropes = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
    config = Qwen2Config(architectures=["Qwen2ForCausalLM"], rope_parameters=ropes)
    with pytest.raises(ModelError, match="scaled by 'linear', which is not written for qwen2"):
        gguf_file._architecture(config, "m")


@pytest.mark.parametrize(("samples", "expected"), [(False, (None, None)), (True, (0.25, 7))])
def test_how_to_sample_is_written_of_models_that_sample(
    samples: bool, expected: tuple, tiny_model: Path, tmp_path: Path
) -> None:
    gguf_models.make("llama", tmp_path / "model", tiny_model)
    told = {"do_sample": samples, "temperature": 0.25, "top_k": 7, "eos_token_id": 2}
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps(told))
    gguf_file.export(tmp_path / "model", tmp_path / "m.gguf", "f32", "other")
    reader = GGUFReader(tmp_path / "m.gguf")
    assert (value(reader, "general.sampling.temp"), value(reader, "general.sampling.top_k")) == expected


def test_without_settings_of_its_own_a_model_ends_as_its_config_says() -> None:
    assert gguf_file._stops({}, LlamaConfig(eos_token_id=2)) == [2]
    assert gguf_file._stops({"eos_token_id": [3, 4]}, LlamaConfig(eos_token_id=2)) == [3, 4]
    assert gguf_file._stops({}, LlamaConfig(eos_token_id=None)) == []
