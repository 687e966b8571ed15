"""`starling export --gguf`: a tuned policy, or any model of these kinds, as one file that llama.cpp reads."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, LlamaFileType
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

import starling
from starling import gguf_vocabulary, model_card, modelfile, models, packing, progress
from starling.errors import ModelError, UsageError, explained
from starling.store import Run, is_run
from starling.writing import write_atomically

Dtype = Literal["f16", "bf16", "f32"]
MARK = "starling.version"  # a key that stands in each of our files, and in no other
_DTYPES: dict[Dtype, tuple[torch.dtype, np.dtype[Any], GGMLQuantizationType, LlamaFileType]] = {
    "f16": (torch.float16, np.dtype(np.float16), GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (torch.bfloat16, np.dtype(np.int16), GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "f32": (torch.float32, np.dtype(np.float32), GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
}
_ROTATED_IN_PAIRS = "llama"  # llama.cpp turns neighbours (2i, 2i + 1) of a head there, transformers i and i + half
_ARCHITECTURES = {"LlamaForCausalLM": "llama", "MistralForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2"}
_TENSORS = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2}


class _Part(NamedTuple):
    """A tensor of the file: its name, the weight it is made of, shape, dtype, heads whose rows change places."""

    name: str
    source: str
    shape: tuple[int, ...]
    dtype: Dtype
    heads: int


def export(source: Path, out: Path, dtype: Dtype, licence: str) -> dict[str, Any]:
    """Write the policy of a run, or a MODEL, to the file `out`; say so, and return what was written."""
    about: dict[str, Any] = {"name": source.name, "license": "" if licence == "other" else licence}
    model = str(source)
    if is_run(source):
        run = Run.read(source)
        run.facts("tune")
        run.refuse_damage(["tune"])
        model, base = str(run.policy_path), run.config.run.model
        about |= {"name": f"{Path(base).name}-{run.root.resolve().name}", "base": model_card.hub_name(base)}
    _refuse(out)
    partial = out.with_name(out.name + ".partial")
    with explained(f"writing {out}"):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            facts = _convert(model, partial, dtype, about)
            write_atomically(out.with_suffix(".Modelfile"), facts.pop("modelfile"))
            os.replace(partial, out)
        except BaseException:
            partial.unlink(missing_ok=True)  # a full disk needs its room back
            raise
    size = out.stat().st_size
    progress.say(
        f"export: {facts['tensors']} tensors in {dtype}, {size / 1e6:,.1f} MB, context {facts['context_length']:,} "
        f"tokens -> {out}, and beside it {out.with_suffix('.Modelfile').name} for Ollama"
    )
    return {"source": str(source), "out": str(out), "dtype": dtype, "bytes": size, **facts}


def permuted(weight: Tensor, heads: int) -> Tensor:
    """Rows of a query or key projection in the order that llama.cpp's `llama` rotates: (heads x D, ...) -> the same.

    transformers turns row i of a head together with row i + D/2, llama.cpp row 2i with row 2i + 1; so row i goes
    to 2i, and row i + D/2 to 2i + 1. With D = 4: rows 0 1 2 3 of a head become 0 2 1 3.
    """
    by_half = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return by_half.transpose(1, 2).reshape(weight.shape)


def rope_factors(config: PretrainedConfig) -> Tensor | None:
    """What llama.cpp divides each frequency by, (D/2,); None where RoPE is not scaled."""
    rope = config.rope_parameters
    if rope["rope_type"] == "default":
        return None
    scaled, attention = ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, torch.device("cpu"))
    assert attention == 1.0, "linear and llama3 leave the scores alone"
    steps = torch.arange(0, 2 * len(scaled), 2, dtype=torch.float64) / (2 * len(scaled))
    return (rope["rope_theta"] ** -steps / scaled.double()).float()


def _convert(name: str, path: Path, dtype: Dtype, about: Mapping[str, Any]) -> dict[str, Any]:
    config = models.load_config(name)
    architecture = _architecture(config, name)
    tokenizer = models.load_tokenizer(name)
    settings = _generation(name)
    words = gguf_vocabulary.vocabulary(tokenizer, config.vocab_size, _stops(settings, config), name)
    with ExitStack() as stack:
        weights = _weights(stack, name)
        parts = list(_parts(config, architecture, weights, dtype, name))
        factors = rope_factors(config)
        writer = GGUFWriter(path, architecture)
        stack.callback(writer.close)
        total = sum(int(np.prod(part.shape)) for part in parts)
        _describe(writer, config, {**about, "size_label": gguf.size_label(total, total, 0, 0)}, dtype)
        _recommend(writer, settings)
        gguf_vocabulary.write(writer, words)
        _write(writer, parts, weights, factors, name)
        stops = tokenizer.convert_ids_to_tokens(_stops(settings, config))
        turns = modelfile.turns(tokenizer, words.add_bos)
        own_name = path.name.removesuffix(".partial")
        return {
            "modelfile": modelfile.text(own_name, turns, stops, settings, _context_length(config)),
            "architecture": architecture,
            "pre_tokenizer": words.pre,
            "tensors": len(parts) + (factors is not None),
            "parameters": total,
            "context_length": _context_length(config),
        }


def _architecture(config: PretrainedConfig, name: str) -> str:
    """llama.cpp's name for this kind of network."""
    kind = next(iter(config.architectures or []), "model of no named kind")
    if kind not in _ARCHITECTURES:
        raise ModelError(f"{name}: it is a {kind}; GGUF is written of {', '.join(_ARCHITECTURES)}")
    found = _ARCHITECTURES[kind]
    if config.hidden_act != "silu":
        raise ModelError(f"{name}: its activation is {config.hidden_act}, llama.cpp's {found} has silu")
    rope = config.rope_parameters["rope_type"]
    if rope not in (("default", "linear", "llama3") if found == "llama" else ("default",)):
        raise ModelError(f"{name}: its positions are scaled by {rope!r}, which is not written for {found}")
    return found


def _context_length(config: PretrainedConfig) -> int:
    """The tokens up to which llama.cpp does the same: its `llama` has no sliding window."""
    return int(min(packing.window(config), config.to_dict().get("sliding_window") or float("inf")))


def _head_size(config: PretrainedConfig) -> int:
    return int(config.to_dict().get("head_dim") or config.hidden_size // config.num_attention_heads)


def _generation(name: str) -> dict[str, Any]:
    path = models.file_beside(name, "generation_config.json")
    return {} if path is None else json.loads(path.read_text())


def _stops(settings: Mapping[str, Any], config: PretrainedConfig) -> list[int]:
    told = settings.get("eos_token_id", config.eos_token_id)
    return told if isinstance(told, list) else [] if told is None else [told]


def _weights(stack: ExitStack, name: str) -> dict[str, Any]:
    """The open file that each tensor of MODEL stands in, by the tensor's name."""
    index = models.file_beside(name, "model.safetensors.index.json")
    files = ["model.safetensors"]
    if index is not None:
        files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    found = {file: models.file_beside(name, file) for file in files}
    missing = [file for file, path in found.items() if path is None]
    if missing:
        raise ModelError(f"{name}: {len(missing)} of {len(files)} files of weights are missing, first {missing[0]}")
    try:
        opened = [stack.enter_context(safe_open(str(path), "pt")) for path in found.values()]
    except SafetensorError as error:
        raise ModelError(f"{name}: its weights cannot be read: {error}") from error
    return {key: file for file in opened for key in file.keys()}  # noqa: SIM118  # it is no dict


def _parts(
    config: PretrainedConfig, architecture: str, weights: Mapping[str, Any], dtype: Dtype, name: str
) -> Iterator[_Part]:
    """The tensors to write, in the network's order; refuses weights that are not exactly the network's."""
    with torch.device("meta"):
        wanted = AutoModelForCausalLM.from_config(config).state_dict()
    given = dict(weights)
    if config.tie_word_embeddings:  # llama.cpp takes the embedding where there is no head
        del wanted["lm_head.weight"]
        given.pop("lm_head.weight", None)
    shapes = {key: tuple(file.get_slice(key).get_shape()) for key, file in given.items()}
    sizes = {key: tuple(weight.shape) for key, weight in wanted.items()}
    wrong = sorted(key for key in {*sizes, *shapes} if sizes.get(key) != shapes.get(key))
    if wrong:
        raise ModelError(
            f"{name}: {len(wrong)} weights are missing, of another size, or not of this "
            f"kind of network, first {wrong[0]}"
        )
    names = gguf.get_tensor_name_map(_TENSORS[architecture], config.num_hidden_layers)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for key, shape in shapes.items():
        renamed = names.get_name(key, try_suffixes=(".weight", ".bias"))
        assert renamed is not None, key
        turned = heads.get(renamed.split(".")[-2], 0) if architecture == _ROTATED_IN_PAIRS else 0
        yield _Part(renamed, key, shape, "f32" if len(shape) == 1 else dtype, turned)


def _describe(writer: GGUFWriter, config: PretrainedConfig, about: Mapping[str, Any], dtype: Dtype) -> None:
    """What the model is, where it comes from, and the sizes of its network."""
    writer.add_type("model")
    writer.add_name(about["name"])
    writer.add_size_label(about["size_label"])
    writer.add_license(about["license"])
    writer.add_string(MARK, starling.__version__)
    if "base" in about:
        writer.add_description("Tuned by reinforcement learning from AI feedback")
        writer.add_tags(["starling", "rlaif"])
    if base := about.get("base"):
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, base)
        writer.add_base_model_repo_url(0, f"https://huggingface.co/{base}")
    writer.add_file_type(_DTYPES[dtype][3])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(_context_length(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(_head_size(config))
    writer.add_value_length(_head_size(config))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(_head_size(config))
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])


def _recommend(writer: GGUFWriter, settings: Mapping[str, Any]) -> None:
    """How to sample, as the model's own generation settings say it."""
    if settings.get("do_sample"):
        if "temperature" in settings:
            writer.add_sampling_temp(settings["temperature"])
        if "top_p" in settings:
            writer.add_sampling_top_p(settings["top_p"])
        if "top_k" in settings:
            writer.add_sampling_top_k(settings["top_k"])


def _write(
    writer: GGUFWriter, parts: Sequence[_Part], weights: Mapping[str, Any], factors: Tensor | None, name: str
) -> None:
    """Metadata first, then one tensor after the other: no more than one is held in memory."""
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, np.dtype(np.float32), factors.numel() * 4)
    for part in parts:
        kind = _DTYPES[part.dtype]
        size = int(np.prod(part.shape)) * kind[1].itemsize
        writer.add_tensor_info(part.name, part.shape, kind[1], size, raw_dtype=kind[2])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors.numpy())
    with progress.track("export", len(parts), "tensors") as advance:
        for part in parts:
            writer.write_tensor_data(_content(part, weights[part.source].get_tensor(part.source), name))
            advance(1)


def _content(part: _Part, weight: Tensor, name: str) -> np.ndarray[Any, Any]:
    """A weight as its bytes stand in the file."""
    turned = permuted(weight, part.heads) if part.heads else weight
    found = turned.to(_DTYPES[part.dtype][0]).contiguous()
    if not found.isfinite().all():
        why = "a number that is none" if not weight.isfinite().all() else "a number too large for f16; use --dtype bf16"
        raise ModelError(f"{name}: {part.source} holds {why}")
    return (found.view(torch.int16) if part.dtype == "bf16" else found).numpy()


def _refuse(out: Path) -> None:
    """Refuse a place that holds anything but a file of ours."""
    if out.suffix != ".gguf":
        raise UsageError(f"export: --out {out} is to be a .gguf file")
    if out.is_dir() or (out.exists() and not _is_ours(out)):
        raise UsageError(f"export: --out {out} stands already and is no export of ours; choose another")
    beside = out.with_suffix(".Modelfile")
    if beside.exists() and not (beside.is_file() and beside.read_bytes().startswith(modelfile.MARK.encode())):
        raise UsageError(f"export: {beside} stands already and is no export of ours; choose another --out")


def _is_ours(file: Path) -> bool:
    try:
        return GGUFReader(file).get_field(MARK) is not None
    except (ValueError, IndexError, OSError):  # whatever else a file holds
        return False
