"""Messages <-> token ids."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from starling import chat
from starling.errors import DataError, ModelError
from starling.records import Message

QUESTION = [Message(role="user", content="what is the rain?")]
DIALOGUE = [
    Message(role="system", content="be brief"),
    Message(role="user", content="hi"),
    Message(role="assistant", content="hello"),
    Message(role="user", content="the rain in spain"),
]
TEXT = "<|im_start|>user\nwhat is the rain?<|im_end|>\n"
END, PAD = 2, 0


@pytest.fixture
def tokenizer(tiny_model: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture
def reward_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    tokenizer.chat_template = chat.ending_on_reward(tokenizer.chat_template)
    return tokenizer


def test_prompt_waits_for_the_assistant(tokenizer) -> None:
    ids = chat.prompt_ids(tokenizer, QUESTION)
    assert tokenizer.decode(list(ids)) == TEXT + "<|im_start|>assistant\n"
    assert isinstance(ids, tuple)


def test_no_special_token_is_added_beyond_the_template(tokenizer) -> None:
    ids = chat.prompt_ids(tokenizer, DIALOGUE)
    turns = [("system", "be brief"), ("user", "hi"), ("assistant", "hello"), ("user", "the rain in spain")]
    text = "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns) + "<|im_start|>assistant\n"
    assert list(ids) == tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("messages", [QUESTION, DIALOGUE], ids=["one turn", "several turns"])
@pytest.mark.parametrize("answer", ["in spain", "", "  spaces \n\n around  ", "naïve — 雨"])
def test_prompt_and_answer_ids_join_to_the_conversation(tokenizer, messages, answer: str) -> None:
    prompt, ids = chat.prompt_ids(tokenizer, messages), chat.answer_ids(tokenizer, messages, answer)
    whole = tokenizer.apply_chat_template(
        [*messages, {"role": "assistant", "content": answer}], tokenize=False, add_generation_prompt=False
    )
    assert tokenizer.decode([*prompt, *ids]) == whole
    assert tokenizer.decode(list(ids)) == f"{answer}<|im_end|>\n"


def test_a_template_that_rewrites_the_prompt_is_refused(tokenizer) -> None:
    tokenizer.chat_template = "{{ messages | length }}" + tokenizer.chat_template
    with pytest.raises(ModelError, match="does not continue"):
        chat.answer_ids(tokenizer, QUESTION, "in spain")


def test_answer_text_has_no_special_tokens_and_no_blanks_around(tokenizer) -> None:
    ids = tokenizer.encode("\n in spain \n<|im_end|>", add_special_tokens=False)
    assert ids[-1] == END
    assert chat.answer_text(tokenizer, ids) == "in spain"
    assert chat.answer_text(tokenizer, [END]) == ""


def test_conversations_share_the_longest_prefix(tokenizer) -> None:
    answers = ["in spain stays", "in spain it is wet", "the plain"]
    shared, rest = chat.conversation_ids(tokenizer, QUESTION, answers, [True] * 3)
    prompt = chat.prompt_ids(tokenizer, QUESTION)
    assert tuple(shared[: len(prompt)]) == prompt
    for answer, own in zip(answers, rest, strict=True):
        assert tokenizer.decode(shared + own) == TEXT + f"<|im_start|>assistant\n{answer}<|im_end|>\n"
    assert len({own[0] for own in rest}) > 1


@pytest.mark.parametrize(
    "answers", [["the same", "the same"], ["the", "the rain"], ["alone"]], ids=["equal", "prefix", "single"]
)
@pytest.mark.parametrize("finished", [True, False])
def test_shared_and_own_ids_are_never_empty(reward_tokenizer, answers: list[str], finished: bool) -> None:
    shared, rest = chat.conversation_ids(reward_tokenizer, QUESTION, answers, [finished] * len(answers))
    assert shared
    assert all(rest)


def test_reward_conversations_end_on_the_token_that_ends_a_turn(reward_tokenizer) -> None:
    _, rest = chat.conversation_ids(reward_tokenizer, DIALOGUE, ["in spain", "wet"], [True, True])
    assert [own[-1] for own in rest] == [END, END]


@pytest.mark.parametrize("fixture", ["tokenizer", "reward_tokenizer"])
def test_a_cut_answer_has_no_end_token(request, fixture: str) -> None:
    tokenizer = request.getfixturevalue(fixture)
    shared, (cut, whole) = chat.conversation_ids(tokenizer, QUESTION, ["in spain", "in spain"], [False, True])
    assert tokenizer.decode(shared + cut) == TEXT + "<|im_start|>assistant\nin spain"
    assert tokenizer.decode(shared + whole).rstrip() == TEXT + "<|im_start|>assistant\nin spain<|im_end|>"


def test_an_empty_answer_is_refused(tokenizer) -> None:
    with pytest.raises(DataError, match="empty answer"):
        chat.conversation_ids(tokenizer, QUESTION, ["wet", ""], [True, True])


def test_whole_turns_are_cut_before_the_last_turns_text(tokenizer) -> None:
    talk = [*DIALOGUE[:3], Message(role="user", content="the name"), *DIALOGUE[2:]]
    cut = [DIALOGUE[0], *talk[3:]]
    spared = len(chat.prompt_ids(tokenizer, talk)) - len(chat.prompt_ids(tokenizer, cut))
    assert chat.shortened(tokenizer, talk, 1) == chat.shortened(tokenizer, talk, spared) == cut
    assert chat.shortened(tokenizer, talk, spared + 1) == [DIALOGUE[0], DIALOGUE[-1]]


def test_the_last_turn_loses_its_beginning_and_no_more_than_it_must(tokenizer) -> None:
    whole = len(chat.prompt_ids(tokenizer, DIALOGUE))
    last = len(chat.prompt_ids(tokenizer, [DIALOGUE[0], DIALOGUE[-1]]))
    for tokens in (1, 2, 3):
        system, turn = chat.shortened(tokenizer, DIALOGUE, whole - last + tokens)
        assert system == DIALOGUE[0]
        assert "the rain in spain".endswith(turn["content"]) and turn["role"] == "user"
        assert len(chat.prompt_ids(tokenizer, [system, turn])) <= last - tokens
        longer = turn | {"content": "the rain in spain"[-len(turn["content"]) - 1 :].lstrip()}
        assert len(chat.prompt_ids(tokenizer, [system, longer])) > last - tokens or longer == turn


def test_a_conversation_of_which_nothing_would_remain_cannot_be_shortened(tokenizer) -> None:
    whole = len(chat.prompt_ids(tokenizer, QUESTION))
    empty = len(chat.prompt_ids(tokenizer, [Message(role="user", content="")]))
    assert chat.shortened(tokenizer, QUESTION, whole - empty) is None
    assert chat.shortened(tokenizer, QUESTION, whole - empty - 1) == [Message(role="user", content="?")]


def test_a_character_of_several_bytes_is_never_cut_in_two(tokenizer) -> None:
    asked = [Message(role="user", content="雨" * 8)]
    for tokens in range(1, 20):
        shorter = chat.shortened(tokenizer, asked, tokens)
        assert shorter is None or set(shorter[0]["content"]) == {"雨"}


def test_without_end_takes_only_what_closes_the_turn(tokenizer) -> None:
    ids = tokenizer.encode("<|im_start|>user\nhi<|im_end|>\n", add_special_tokens=False)
    assert tokenizer.decode(chat.without_end(tokenizer, ids)) == "<|im_start|>user\nhi"
    assert chat.without_end(tokenizer, [END, END]) == []


def test_without_end_knows_special_tokens_that_have_no_name(tokenizer) -> None:
    tokenizer.add_tokens(["<|eot|>"], special_tokens=True)
    ids = tokenizer.encode("hi<|eot|>", add_special_tokens=False)
    assert ids[-1] not in tokenizer.all_special_ids
    assert tokenizer.decode(chat.without_end(tokenizer, ids)) == "hi"


def test_ending_on_reward_drops_only_the_end_of_a_finished_conversation(tokenizer, tiny_model: Path) -> None:
    messages = [*DIALOGUE, Message(role="assistant", content="  stays mainly\n\n in the plain ")]
    original = tokenizer.apply_chat_template(messages, tokenize=False)
    tokenizer.chat_template = chat.ending_on_reward(tokenizer.chat_template)
    assert original.endswith("<|im_end|>\n")
    assert tokenizer.apply_chat_template(messages, tokenize=False) == original.removesuffix("\n")


def test_ending_on_reward_leaves_the_generation_prompt_alone(tokenizer) -> None:
    original = chat.prompt_ids(tokenizer, DIALOGUE)
    tokenizer.chat_template = chat.ending_on_reward(tokenizer.chat_template)
    assert chat.prompt_ids(tokenizer, DIALOGUE) == original
    assert chat.answer_ids(tokenizer, DIALOGUE, "wet")[-1] == END


def test_ending_on_reward_keeps_the_blanks_at_the_beginning(tokenizer) -> None:
    template = "{% for message in messages %}{{ '\\n\\n' + message['role'] + ': ' + message['content'] }}{% endfor %}"
    tokenizer.chat_template = chat.ending_on_reward(template)
    assert tokenizer.apply_chat_template(QUESTION, tokenize=False) == "\n\nuser: what is the rain?"


def test_a_tokenizer_without_a_template_is_refused(tokenizer) -> None:
    chat.require_template(tokenizer, "tiny")
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="tiny: its tokenizer has no chat template"):
        chat.require_template(tokenizer, "tiny")


@pytest.mark.parametrize(
    "template",
    ["{% for", "{{ raise_exception('no such turns') }}", "{{ messages[0].content + 1 }}"],
    ids=["broken", "refuses", "adds a number"],
)
def test_a_template_that_cannot_write_the_conversation_is_named(tokenizer, template: str) -> None:
    tokenizer.chat_template = template
    with pytest.raises(ModelError, match="its chat template does not write this conversation"):
        chat.prompt_ids(tokenizer, [Message(role="user", content="rain")])


def test_templates_of_which_none_is_the_default_are_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = {"tools": "x", "rag": "y"}
    with pytest.raises(ModelError, match="named tools, rag and no default"):
        chat.require_template(tokenizer, "tiny")
