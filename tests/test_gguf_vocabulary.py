"""Tokenizers as GGUF keeps them."""

import json
from pathlib import Path
from typing import Any

import gguf_models
import pytest
from gguf import TokenType
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from transformers import AutoTokenizer

from starling import gguf_vocabulary
from starling.errors import ModelError


@pytest.fixture
def tokenizer(tiny_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


def changed(tokenizer: Any, **parts: Any) -> Any:
    """The same tokenizer with other parts in its backend."""
    for name, part in parts.items():
        setattr(tokenizer.backend_tokenizer, name, part)
    return tokenizer


def rewritten(tokenizer: Any, **model: Any) -> Any:
    """The same tokenizer with other settings of its BPE."""
    told = json.loads(tokenizer.backend_tokenizer.to_str())
    told["model"] |= model
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(told))
    return tokenizer


def test_tokens_stand_by_id_and_ids_without_one_are_filled_up(tokenizer: Any) -> None:
    found = gguf_vocabulary.vocabulary(tokenizer, 304, [2], "tiny")
    assert len(tokenizer) == 300
    assert found.tokens[:300] == tokenizer.convert_ids_to_tokens(range(300))
    assert found.tokens[300:] == ["[PAD300]", "[PAD301]", "[PAD302]", "[PAD303]"]
    assert found.types[:4] == [TokenType.CONTROL] * 3 + [TokenType.NORMAL]
    assert found.types[299:] == [TokenType.NORMAL] + [TokenType.UNUSED] * 4


def test_merges_keep_their_order(tokenizer: Any) -> None:
    found = gguf_vocabulary.vocabulary(tokenizer, 300, [2], "tiny")
    # 300 tokens: 3 special ones, 256 bytes, and one for each of the 41 merges, in their order
    assert len(found.merges) == 41
    assert [merge.replace(" ", "") for merge in found.merges] == found.tokens[259:]


@pytest.mark.parametrize("split", gguf_models.SPLITS)
def test_the_way_text_is_split_is_known_by_its_name(split: str, tiny_model: Path) -> None:
    found = gguf_vocabulary.vocabulary(gguf_models.tokenizer(split, tiny_model), 300, [2], "tiny")
    assert found.pre == split
    assert found.tokens[-1] == "<think>"
    assert found.types[-1] == TokenType.USER_DEFINED


@pytest.mark.parametrize(
    ("stops", "ids"),
    [
        ([2], {"eos": 2}),
        ([0, 2], {"eos": 2, "eot": 0}),
        ([0, 5, 2], {"eos": 2, "eot": 0, "eom": 5}),
        ([0], {"eos": 0}),
        ([], {}),
    ],
)
def test_every_id_that_ends_an_answer_has_a_place_the_tokenizers_own_first(
    tokenizer: Any, stops: list[int], ids: dict[str, int]
) -> None:
    found = gguf_vocabulary.vocabulary(tokenizer, 300, stops, "tiny")
    assert found.ids == {"bos": 1, "unk": 0, "pad": 2} | ids


def test_more_ends_than_there_are_places_are_refused(tokenizer: Any) -> None:
    with pytest.raises(ModelError, match=r"^tiny: it stops at 4 tokens, GGUF has place for 3$"):
        gguf_vocabulary.vocabulary(tokenizer, 300, [0, 1, 2, 3], "tiny")


def test_a_first_token_is_added_only_where_the_tokenizer_adds_the_one_conversations_begin_with(tokenizer: Any) -> None:
    from tokenizers.processors import TemplateProcessing

    assert not gguf_vocabulary.vocabulary(tokenizer, 300, [2], "tiny").add_bos
    begins = TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)])
    assert gguf_vocabulary.vocabulary(changed(tokenizer, post_processor=begins), 300, [2], "tiny").add_bos
    tokenizer.bos_token = "<|endoftext|>"  # conversations of this template do not begin with it
    assert not gguf_vocabulary.vocabulary(tokenizer, 300, [2], "tiny").add_bos


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"decoder": decoders.Metaspace()}, "its tokenizer is a BPE; GGUF is written of byte-level BPE only"),
        ({"normalizer": normalizers.Lowercase()}, "rewrites text first (Lowercase), llama.cpp does not"),
        ({"pre_tokenizer": pre_tokenizers.Whitespace()}, "splits text in a way that has no name here; known are"),
        ({"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True)}, "splits text in a way that has no name"),
    ],
    ids=["decoder", "normalizer", "splitting", "blank in front"],
)
def test_what_llama_cpp_would_do_otherwise_is_refused(tokenizer: Any, parts: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError) as error:
        gguf_vocabulary.vocabulary(changed(tokenizer, **parts), 300, [2], "tiny")
    assert reason in str(error.value)


def test_words_taken_whole_have_a_name_only_in_llama_3s_splitting(tokenizer: Any) -> None:
    with pytest.raises(ModelError, match="no name here"):
        gguf_vocabulary.vocabulary(rewritten(tokenizer, ignore_merges=True), 300, [2], "tiny")


def test_a_sentencepiece_like_tokenizer_is_refused_by_name(tokenizer: Any) -> None:
    with pytest.raises(ModelError, match="its tokenizer is a SentencePiece-like BPE"):
        gguf_vocabulary.vocabulary(rewritten(tokenizer, byte_fallback=True), 300, [2], "tiny")


def test_added_tokens_that_take_blanks_along_are_counted(tokenizer: Any) -> None:
    tokenizer.add_tokens([AddedToken("<a>", rstrip=True), AddedToken("<b>", lstrip=True)])
    with pytest.raises(ModelError, match="2 of its added tokens take blanks around them along, first '<a>'"):
        gguf_vocabulary.vocabulary(tokenizer, 302, [2], "tiny")


def test_a_tokenizer_with_more_tokens_than_the_network_is_refused(tokenizer: Any) -> None:
    with pytest.raises(ModelError, match="ids up to 299, its network 299 tokens"):
        gguf_vocabulary.vocabulary(tokenizer, 299, [2], "tiny")
