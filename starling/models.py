"""Models in and out: safetensors, tokenizer, chat template and generation settings, as everybody loads them."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging as transformers_logging

from starling import builtin, chat, device, heads, lean, packing
from starling.errors import ModelError, explained
from starling.writing import sha256

# Weights of another size are told by `_require_weights`, which names them.
_WITH_INFO = {"ignore_mismatched_sizes": True, "output_loading_info": True}
_PHI_ROPE = ("short_factor", "long_factor")
_PAD_CANDIDATES = (
    "<|endoftext|>", "<pad>", "<|pad|>", "<|finetune_right_pad_id|>", "<|reserved_special_token_0|>", "<|fim_pad|>",
    "<unk>",
)  # fmt: skip


class Model(NamedTuple):
    """A model with its tokenizer."""

    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def resolve(name: str) -> str:
    """What transformers should load for MODEL: the built-in model's folder, a local folder, or a Hub name."""
    if name == builtin.NAME:
        return str(builtin.path())
    if not name.strip():
        raise ModelError("MODEL is empty: it is smollm2, a folder, or a Hub name like owner/model")
    path = Path(name)
    if path.is_file():
        raise ModelError(f"{name}: a file, where MODEL is smollm2, a folder, or a Hub name like owner/model")
    if path.is_dir() and not (path / "config.json").exists():
        raise ModelError(f"{name}: the folder holds no config.json, so it is no model")
    if not path.exists() and (name.count("/") != 1 or name.startswith((".", "/", "~"))):
        raise ModelError(f"{name}: there is no such folder; MODEL is smollm2, a folder, or a Hub name like owner/model")
    return name


def lasting_name(name: str) -> str:
    """What MODEL is loaded by from any folder: its whole path; the built-in model and the Hub's keep their names."""
    return str(Path(name).resolve()) if name != builtin.NAME and Path(name).exists() else name


def file_beside(name: str, filename: str) -> Path | None:
    """A file of MODEL's folder or Hub repository; None where there is none."""
    source = Path(resolve(name))
    if source.is_dir():
        return source / filename if (source / filename).is_file() else None
    try:
        return Path(hf_hub_download(name, filename))
    except EntryNotFoundError:
        return None


def _require_tokenizer(name: str) -> None:
    source = Path(resolve(name))
    if source.is_dir() and not any(file for kind in ("token*", "vocab*", "*.model") for file in source.glob(kind)):
        raise ModelError(f"{name}: the folder holds no tokenizer; save one into it")


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """MODEL's tokenizer; it must say how a conversation is written."""
    _require_tokenizer(name)
    tokenizer = _load(AutoTokenizer, name)
    chat.require_template(tokenizer, name)
    return tokenizer


def load_config(name: str) -> PretrainedConfig:
    """What MODEL's `config.json` says of its network."""
    return _load(AutoConfig, name)


def without_weights(config: PretrainedConfig, kind: Any = AutoModelForCausalLM) -> Any:
    """The model as it is built, in no memory."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return kind.from_config(config)


def is_reward_model(name: str) -> bool:
    """Whether MODEL's `config.json` tells of a head that classifies or scores, rather than of one that writes; the
    built-in model writes, which nothing has to be fetched for."""
    return name != builtin.NAME and any(
        kind.endswith("ForSequenceClassification") for kind in load_config(name).architectures or ()
    )


def require_one_label(name: str, config: PretrainedConfig) -> None:
    """Refuse a classifier that gives more than one number."""
    if config.num_labels != 1:
        raise ModelError(f"{name}: a reward model has one label and a head `score`; this has {config.num_labels}")


def window(name: str) -> int:
    """The longest conversation in tokens, prompt and answer, that MODEL has positions for."""
    return packing.window(load_config(name))


def folder_of(name: str) -> Path:
    """Where MODEL's files lie, of a Hub name in the cache; it has been loaded before."""
    folder = Path(resolve(name))
    return folder if folder.is_dir() else Path(str(try_to_load_from_cache(name, "config.json"))).parent


def identity(name: str) -> dict[str, str]:
    """What tells this MODEL from all others: name, Hub's commit, hash of the weights, hash of the chat template.

    MODEL has been loaded before: of a Hub name the copy in the cache is looked at.
    """
    folder, commit = folder_of(name), ""
    if not Path(resolve(name)).is_dir():
        commit = folder.name
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(bytes.fromhex(sha256(file)))
    template = json.dumps(load_tokenizer(name).chat_template)
    return {
        "name": name,
        "commit": commit,
        "weights_sha256": digest.hexdigest(),
        "template_hash": hashlib.sha256(template.encode()).hexdigest()[:16],
    }


def weights_of(name: str) -> str:
    """The hash of the weights in MODEL's folder, which may change under its name; "" of a Hub name."""
    return identity(name)["weights_sha256"] if Path(resolve(name)).is_dir() else ""


def weights_hash(weights: Iterable[Tensor]) -> str:
    """The SHA-256 of weights in their order, which tells a model from another of the same shape: of what bfloat16 has
    of them, so that it is the same in whatever they were loaded."""
    digest = hashlib.sha256()
    for weight in weights:
        digest.update(weight.detach().bfloat16().cpu().contiguous().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def _prepare(network: PreTrainedModel) -> None:
    """Let packed sequences through, and the backward pass keep less."""
    packing.enable(network)
    lean.enable(network)


def load_policy(name: str, dtype: torch.dtype | None = None) -> Model:
    """A causal LM for sampling and tuning, its attention routed through packing; in `device.product_dtype()` if no
    other is named."""
    network, loaded = _load(AutoModelForCausalLM, name, dtype=dtype or device.product_dtype(), **_WITH_INFO)
    _require_weights(name, loaded)
    _prepare(network)
    return Model(network.to(device.default()).eval(), load_tokenizer(name))


def new_reward_model(name: str, seed: int = 0) -> Model:
    """MODEL with its LM head replaced by a new `score` head, drawn by `seed`; a reward model keeps the head it has.

    What is saved of it has to score the same in tools that render a conversation to text and tokenise that: the
    tokenizer adds nothing to what the template writes, and one label of a regression is given as it is, where of a
    classification it would go through a sigmoid (vLLM, the pipelines of transformers).
    """
    tokenizer: Any = load_tokenizer(name)
    has_head = is_reward_model(name)
    if has_head:
        require_one_label(name, load_config(name))
    if tokenizer.num_special_tokens_to_add():
        tokenizer.add_bos_token = tokenizer.add_eos_token = False
    chat.end_on_reward(tokenizer, name)
    network, loaded = _load(AutoModelForSequenceClassification, name, dtype=torch.float32, num_labels=1, **_WITH_INFO)
    tokenizer.pad_token = _pad_token(tokenizer, name, network.get_input_embeddings().num_embeddings)
    tokenizer.padding_side = "right"
    _require_head(name, network)
    _require_weights(name, loaded, but="" if has_head else "score.weight")  # an LM's head is replaced
    network.config.pad_token_id = tokenizer.pad_token_id
    network.config.problem_type = "regression"
    network.config.id2label, network.config.label2id = {0: "reward"}, {"reward": 0}
    if not has_head:
        with torch.no_grad():
            network.score.weight[0] = heads.drawn(network.config.hidden_size, seed)
    _prepare(network)
    return Model(network, tokenizer)


def load_reward_model(name: str, dtype: torch.dtype = torch.float32) -> Model:
    """A sequence classifier with one label and a head called `score`."""
    tokenizer = load_tokenizer(name)
    network, loaded = _load(AutoModelForSequenceClassification, name, dtype=dtype, **_WITH_INFO)
    require_one_label(name, network.config)
    _require_head(name, network)
    _require_weights(name, loaded)
    if network.config.pad_token_id in (None, chat.last_id(tokenizer)):
        raise ModelError(
            f"{name}: the pad token must exist and never end an answer; set pad_token_id in its config.json"
        )
    _prepare(network)
    return Model(network.to(device.default()).eval(), tokenizer)


def save(model: Model, folder: Path) -> None:
    """Write weights, config, tokenizer and template in the layout that `from_pretrained` reads."""
    with explained(f"writing {folder}"):
        try:
            model.network.save_pretrained(folder)
        except SafetensorError as error:  # what safetensors makes of a full disk
            raise OSError(str(error)) from error
        model.tokenizer.save_pretrained(folder)
        _also_for_transformers_4(folder)


def _also_for_transformers_4(folder: Path) -> None:
    """Say what transformers 5 has renamed under its old name too: tools that pin version 4 read no other.

    It would otherwise refuse the tokenizer's class, hand the model token types, which a decoder does not take, and use
    its own defaults for RoPE's base, and for the part of a head that turns, without a word.
    """
    config, tokenizer = folder / "config.json", folder / "tokenizer_config.json"
    told = json.loads(config.read_text())
    rope = dict(told.get("rope_parameters") or {})
    if "sliding_attention" in rope:  # a base for each kind of layer, as Gemma 3 has them
        told["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = dict(rope["full_attention"])
    if "rope_theta" in rope:
        of_neox = told.get("model_type") == "gpt_neox"
        told["rotary_emb_base" if of_neox else "rope_theta"] = rope.pop("rope_theta")
        if "partial_rotary_factor" in rope:
            told["rotary_pct" if of_neox else "partial_rotary_factor"] = rope.pop("partial_rotary_factor")
        if rope.get("rope_type", "default") != "default":
            of_phi = told.get("model_type") == "phi3"  # there it refused any other key
            told["rope_scaling"] = {key: rope[key] for key in _PHI_ROPE} | {"type": "longrope"} if of_phi else rope
    config.write_text(json.dumps(told | {"torch_dtype": told["dtype"]}, indent=2, sort_keys=True) + "\n")
    about = json.loads(tokenizer.read_text())
    if about.get("tokenizer_class") == "TokenizersBackend":
        about |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids", "attention_mask"]}
    tokenizer.write_text(json.dumps(about, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def _pad_token(tokenizer: PreTrainedTokenizerBase, name: str, size: int) -> str:
    """A token on which no answer ends, and for which the model has one of `size` embeddings: the tokenizer's own, or a
    usual one; its eos only where nothing else is."""
    end, vocabulary = chat.last_id(tokenizer), tokenizer.get_vocab()
    own = [str(tokenizer.pad_token)] if tokenizer.pad_token is not None else []
    usable = [token for token in (*own, *_PAD_CANDIDATES) if end != vocabulary.get(token, end) < size]
    for token in sorted(usable, key=lambda token: token == tokenizer.eos_token):
        return token
    raise ModelError(
        f"{name}: no token can serve as padding (that on which answers end would hide their end); add one to it"
    )


def _require_head(name: str, network: Any) -> None:
    if not hasattr(network, "score"):
        raise ModelError(f"{name}: {type(network).__name__} has no head called `score`; a reward model needs one")


def _require_weights(name: str, loaded: Mapping[str, Any], but: str = "") -> None:
    """Refuse a checkpoint of which weights would have to be made up, other than those called `but`."""
    absent = {*loaded["missing_keys"], *(key for key, *_shapes in loaded["mismatched_keys"])} - {but}
    if absent:
        raise ModelError(
            f"{name}: {len(absent)} weights are missing or of another size, first {min(absent)}; "
            "it is no such model, or not a whole one"
        )


def _load(kind: Any, name: str, **options: Any) -> Any:
    source = resolve(name)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    if kind not in (AutoConfig, AutoTokenizer):
        options |= {"use_safetensors": True}
    try:
        return kind.from_pretrained(source, trust_remote_code=False, **options)
    except Exception as error:  # what transformers makes of a damaged file may be of any kind
        first, *rest = str(error).strip().splitlines() or [type(error).__name__]
        said = " ".join([first, *rest[:1]]) if first.rstrip().endswith(":") else first
        said = said if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {said}"
        raise ModelError(f"{name}: cannot be loaded: {said}") from error
