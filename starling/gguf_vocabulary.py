"""A tokenizer as GGUF keeps it: tokens, merges, how text is split before merging, special ids, chat template."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gguf import GGUFWriter, TokenType
from transformers import PreTrainedTokenizerBase

from starling import chat
from starling.errors import ModelError
from starling.records import Message

_ENDS = ("eos", "eot", "eom")  # the ids of GGUF on which llama.cpp stops, in the order they are given out


class Vocabulary(NamedTuple):
    """Tokens by id with their types, merges in order, the splitting's name, special ids by GGUF's name."""

    tokens: list[str]
    types: list[int]
    merges: list[str]
    pre: str
    ids: dict[str, int]
    add_bos: bool
    template: str


def vocabulary(tokenizer: Any, size: int, stops: Sequence[int], name: str) -> Vocabulary:
    """The tokenizer of MODEL `name`, whose network has `size` tokens and stops at each of the ids `stops`.

    Ids that no token has are filled up, as the network has a row for each. A byte-level BPE is the only kind that is
    written: of others llama.cpp needs scores, which a fast tokenizer does not keep.
    """
    told = json.loads(tokenizer.backend_tokenizer.to_str())
    _require_bytes(told, name)
    tokens = {index: token for token, index in tokenizer.get_vocab().items()}
    if max(tokens) >= size:
        raise ModelError(
            f"{name}: its tokenizer has ids up to {max(tokens)}, its network {size:,} tokens; they do not fit together"
        )
    added = {token["id"]: TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
             for token in told["added_tokens"]}  # fmt: skip
    return Vocabulary(
        tokens=[tokens.get(index, f"[PAD{index}]") for index in range(size)],
        types=[added.get(i, TokenType.NORMAL if i in tokens else TokenType.UNUSED) for i in range(size)],
        merges=[merge if isinstance(merge, str) else " ".join(merge) for merge in told["model"]["merges"]],
        pre=_splitting(told, name),
        ids=_special_ids(tokenizer, stops, name),
        add_bos=_adds_bos(tokenizer),
        template=_template(tokenizer, name),
    )


def write(writer: GGUFWriter, found: Vocabulary) -> None:
    """Add it to the file's metadata."""
    writer.add_tokenizer_model("gpt2")  # llama.cpp's name for byte-level BPE
    writer.add_tokenizer_pre(found.pre)
    writer.add_token_list(found.tokens)
    writer.add_token_types(found.types)
    writer.add_token_merges(found.merges)
    add = {
        "bos": writer.add_bos_token_id, "eos": writer.add_eos_token_id, "eot": writer.add_eot_token_id,
        "eom": writer.add_eom_token_id, "unk": writer.add_unk_token_id, "pad": writer.add_pad_token_id,
    }  # fmt: skip
    for which, index in found.ids.items():
        add[which](index)
    writer.add_add_bos_token(found.add_bos)
    writer.add_add_eos_token(False)
    writer.add_chat_template(found.template)


def _require_bytes(told: Mapping[str, Any], name: str) -> None:
    """Refuse what is no byte-level BPE, and what llama.cpp would do otherwise than the tokenizer.

    NFC, which Qwen's tokenizers do first, is let pass: llama.cpp leaves it out, and it changes only text in which
    letters and their accents are apart.
    """
    model, decoder = told["model"], told["decoder"] or {}
    if model["type"] != "BPE" or model.get("byte_fallback") or decoder.get("type") != "ByteLevel":
        kind = "SentencePiece-like BPE" if model.get("byte_fallback") else model["type"]
        raise ModelError(f"{name}: its tokenizer is a {kind}; GGUF is written of byte-level BPE only")
    if told["normalizer"] not in (None, {"type": "NFC"}):
        rewriting = told["normalizer"]["type"]
        raise ModelError(f"{name}: its tokenizer rewrites text first ({rewriting}), llama.cpp does not")
    blank = [one["content"] for one in told["added_tokens"] if one["lstrip"] or one["rstrip"] or one["single_word"]]
    if blank:
        raise ModelError(
            f"{name}: {len(blank)} of its added tokens take blanks around them along, first {blank[0]!r}; "
            "llama.cpp would not"
        )


def _splitting(told: Mapping[str, Any], name: str) -> str:
    """llama.cpp's name for how text is split before it is merged; it knows the ways by name only."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS as SPLITS

    pre = told["pre_tokenizer"] or {}
    steps = [_step(step) for step in (pre["pretokenizers"] if pre.get("type") == "Sequence" else [pre])]
    known = {
        ("words",): "gpt-2",
        ("digits", "words"): "smollm",
        (SPLITS["qwen2"], "bytes"): "qwen2",
        (SPLITS["llama-bpe"], "bytes"): "llama-bpe",
    }
    found = known.get(tuple(steps))
    whole = bool(told["model"].get("ignore_merges"))  # a word that is a token is taken whole, whatever the merges
    if found is None or whole != (found == "llama-bpe"):
        raise ModelError(
            f"{name}: its tokenizer splits text in a way that has no name here; known are those of "
            f"{', '.join(known.values())}"
        )
    return found


def _step(step: Mapping[str, Any]) -> str:
    match step:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": use_regex}:
            return "words" if use_regex else "bytes"
        case {"type": "Digits", "individual_digits": True}:
            return "digits"
        case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}:
            return str(pattern)
    return "another"


def _special_ids(tokenizer: Any, stops: Sequence[int], name: str) -> dict[str, int]:
    """Ids by GGUF's name. The tokenizer's own end comes first where the network stops there."""
    if len(stops) > len(_ENDS):
        raise ModelError(f"{name}: it stops at {len(stops)} tokens, GGUF has place for {len(_ENDS)}")
    ends = sorted(stops, key=lambda index: index != tokenizer.eos_token_id)
    named = {"bos": tokenizer.bos_token_id, "unk": tokenizer.unk_token_id, "pad": tokenizer.pad_token_id}
    return {which: index for which, index in named.items() if index is not None} | dict(zip(_ENDS, ends, strict=False))


def _adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a text gets a first token of its own, as conversations have one too.

    llama.cpp puts it before a conversation as well, where it has been tuned without one.
    """
    begun = chat.prompt_ids(tokenizer, [Message(role="user", content="Hello")])[0]
    return tokenizer.num_special_tokens_to_add() > 0 and begun == tokenizer.bos_token_id


def _template(tokenizer: PreTrainedTokenizerBase, name: str) -> str:
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise ModelError(f"{name}: its tokenizer has several chat templates, and none is the default")
    return str(template)
